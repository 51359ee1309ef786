"""The installed packages, looked at as a run needs them: versions that fit, and compiled parts that load."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from modules.compiler import compiler_name, why_no_compiler

HOME = Path(__file__).resolve().parents[1]
"""Folder of reverie: a checkout with `pyproject.toml` and `requirements.lock`, or where it is installed."""

PYTHON = (3, 11)

State = Literal["ok", "note", "wrong"]


class Finding(NamedTuple):
    """Outcome of one check.

    Attributes:
        check: what was looked at.
        state: `wrong` for what would break a run, `note` for what may slow or surprise one.
        found: what there is.
        advice: what to do; empty where nothing is to be done.
    """

    check: str
    state: State
    found: str
    advice: str = ""


class Wanted(NamedTuple):
    """Requirements of the project.

    Attributes:
        needed: requirements of every run.
        extras: requirements of each extra, which need not be there.
        locked: exact versions by name; {} outside of a checkout.
    """

    needed: Sequence[Requirement]
    extras: Mapping[str, Sequence[Requirement]]
    locked: Mapping[str, str]


def wanted_packages(home: Path = HOME) -> Wanted:
    """The requirements of a checkout, else those that the installed package names."""
    extras: dict[str, list[Requirement]] = {}
    if (home / "pyproject.toml").is_file():
        project = tomllib.loads((home / "pyproject.toml").read_text())["project"]
        needed = [Requirement(text) for text in project["dependencies"]]
        for extra, texts in project["optional-dependencies"].items():
            extras[extra] = [Requirement(text) for text in texts]
    else:
        needed = []
        for requirement in map(Requirement, metadata.requires("reverie") or []):
            extra = re.search(r"extra == ['\"]([\w-]+)", str(requirement.marker))
            (needed if extra is None else extras.setdefault(extra[1], [])).append(requirement)
    lock = home / "requirements.lock"
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE) if lock.is_file() else []
    return Wanted(needed, extras, {canonicalize_name(name): version for name, version in pins})


def installed_version(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_python() -> list[Finding]:
    """Whether this Python is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        return [
            Finding("Python", "wrong", version, f"install Python {PYTHON[0]}.{PYTHON[1]} or newer, then make setup")
        ]
    return [Finding("Python", "ok", f"{version}, {sys.executable}")]


def check_versions(wanted: Wanted, installed: Callable[[str], str | None] = installed_version) -> list[Finding]:
    """Packages that are missing or of a version that is not allowed, and those that differ from the lock."""
    findings, others = list[Finding](), list[str]()
    for requirement in wanted.needed:
        version = installed(requirement.name)
        if version is None:
            findings.append(Finding(requirement.name, "wrong", "not installed", _install(requirement)))
        elif not requirement.specifier.contains(version, prereleases=True):
            found = f"{version}, and {requirement.specifier} is needed"
            findings.append(Finding(requirement.name, "wrong", found, _install(requirement)))
        else:
            locked = wanted.locked.get(canonicalize_name(requirement.name))
            if locked is not None and Version(version).public != Version(locked).public:
                others.append(f"{requirement.name} {version} (locked {locked})")
    # An extra that is only partly there is not in use.
    for extra, requirements in wanted.extras.items():
        versions = {requirement: installed(requirement.name) for requirement in requirements}
        for requirement, version in versions.items():
            if None not in versions.values() and not requirement.specifier.contains(str(version), prereleases=True):
                found = f"{version}, and the extra '{extra}' needs {requirement.specifier}"
                findings.append(Finding(requirement.name, "note", found, _install(requirement)))
    # One line for all that fit.
    if others:
        told = f"allowed, and not those that are tested: {', '.join(others)}"
        findings.append(Finding("lock", "note", told, "make setup, in a checkout, installs the locked ones"))
    if not any(one.state == "wrong" for one in findings):
        torch = installed("torch")
        findings.insert(0, Finding("packages", "ok", f"{len(wanted.needed)} as needed, torch {torch}"))
    return findings


def _install(requirement: Requirement) -> str:
    """The command that installs it for this Python."""
    bare = Requirement(str(requirement))
    bare.marker = None
    what, python = shlex.quote(str(bare)), shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {python} {what}"
    return f"{python} -m pip install {what}"


def check_replay() -> list[Finding]:
    """Whether TorchRL's compiled extension loads, without which no prioritised replay can be made."""
    try:
        from torchrl.data import LazyTensorStorage, PrioritizedReplayBuffer

        PrioritizedReplayBuffer(alpha=0.7, beta=0.5, storage=LazyTensorStorage(2))
    except Exception as error:
        advice = "torchrl's extension is bound to one minor version of torch: make setup installs a pair that fits"
        return [Finding("TorchRL", "wrong", f"{type(error).__name__}: {error}"[:200], advice)]
    return [Finding("TorchRL", "ok", f"{installed_version('torchrl')}, its extension loads")]


def check_compiler() -> list[Finding]:
    """Whether there is a C++ compiler that works, for `compile` on CPUs and the native form of mixtures."""
    if (reason := why_no_compiler()) is not None:
        advice = "needed for --model.compile on CPUs alone: install g++ with OpenMP, or name another compiler in CXX"
        return [Finding("compiler", "note", reason[:200], advice)]
    return [Finding("compiler", "ok", f"{compiler_name()} works")]
