"""Where a run comes from: code, versions, person, command and settings, as tags and parameters of MLflow."""

from __future__ import annotations

import getpass
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

PACKAGES = ("torch", "torchrl", "tensordict", "pytorch-lightning", "gymnasium", "mujoco", "numpy", "minari", "mlflow")
_OWN = Path(__file__).resolve().parents[2]
MEASURED = "benchmarks/results"
"""Figures that benchmarks write here, which change nothing that a run computes."""
_SKIPPED = ("ckpt_path", "run_dir")
"""Settings of one start, not of the run."""


def origin_tags(command: str | None) -> dict[str, str]:
    """Program, person, command line and the user's own code, in the names that MLflow's pages know.

    `mlflow.source.git.commit` is that of the repository that the run was started in; `reverie/git_commit` is ours.
    """
    tags = {"mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL"}
    if command is not None:
        tags["command"] = without_secrets(command)[:8000]
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        tags["mlflow.user"] = "unknown"
    return {**tags, **_commits(Path.cwd())}


@cache
def _commits(folder: Path) -> Mapping[str, str]:
    """Tags of the repositories around a folder and of ours, as they are when this process asks first."""
    tags = {}
    theirs, ours = git_state(folder), git_state(_OWN, besides=MEASURED)
    if theirs is not None:
        tags["mlflow.source.git.commit"], tags["git.dirty"] = theirs[1:]
    if ours is not None and ours[0] == _OWN:  # else it is installed inside a checkout of something else
        tags["reverie/git_commit"], tags["reverie/git_dirty"] = ours[1:]
    return MappingProxyType(tags)


def git_state(folder: Path, besides: str | None = None) -> tuple[Path, str, str] | None:
    """Top folder, commit, and `true` or `false` for whether tracked files differ, of the repository around a folder.

    None outside of one, and before its first commit. Files of the folder `besides`, seen from the top, may differ.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "--verify", "HEAD")
    if top is None or commit is None:
        return None
    others = [f":(top,exclude){besides}"] if besides else []
    differs = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *others) != ""
    return Path(top).resolve(), commit, str(differs).lower()


@cache
def installed_packages() -> Mapping[str, str]:
    """Versions of all installed packages by their names; their files are read once, for a quarter of a second."""
    described = [package.metadata for package in metadata.distributions()]
    return MappingProxyType({about["Name"]: about["Version"] for about in described})


def package_versions() -> dict[str, str]:
    """Versions of the packages whose change may change results, and of python."""
    installed = {name: version for name, version in installed_packages().items() if name in PACKAGES}
    return {"python": platform.python_version(), **installed}


def settings(config: Path) -> dict[str, str]:
    """The resolved config of a run, flat: `model.init_args.beta`, lists of plain values as JSON, others by index.

    Also `seed`, so that runs of all agents can be searched by it.
    """
    content = yaml.safe_load(config.read_text())
    flat = {name: without_secrets(value) for name, value in _flat(content) if name not in _SKIPPED}
    if "seed_everything" in flat:
        flat["seed"] = flat["seed_everything"]
    return flat


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        children: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list) and any(isinstance(x, list | Mapping) for x in value):
        children = list(enumerate(value))
    else:
        return [(name, value if isinstance(value, str) else json.dumps(value, default=str))]
    return [pair for key, child in children for pair in _flat(child, f"{name}.{key}" if name else str(key))]


def without_secrets(text: str) -> str:
    """The text without names and passwords in addresses."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)
