"""Mutation testing of formulas and losses: every small change of the code that no test notices is a missing test.

python benchmarks/mutate.py [returns popart ...]

mutmut changes one expression at a time and runs the tests that reach it. Each file of `mutation_targets` is changed in
a copy of the tree, so that nothing here is touched. Its record is written when it is done, to
`results/mutation-NAME.json`: a run that is stopped goes on with the next file. Without names, files are left out whose
code, tests and explanations are those of their record.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from mutation_targets import TARGETS, Target

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
EXPLAINED = ROOT / "benchmarks" / "mutation_explained.yaml"
PARTS = ("modules", "datamodules", "callbacks", "commands", "configs", "tests")
SURVIVED = {0: "survived", 5: "no test", 33: "no test"}  # exit codes in mutmut's records; 34 and None are refused
SPEED = ("-p", "no:unraisableexception", "-p", "no:threadexception")
"""Without the two full garbage collections of every run of pytest, which cost more than most tests."""
LIMITS = {"timeout_constant": 10.0, "timeout_multiplier": 4.0}
"""A mutant may take eight times as long as its tests took, and 80 seconds more: a loaded machine kills nothing."""


def main() -> None:
    """Run the files that are named, or those that changed."""
    names = sys.argv[1:]
    if unknown := sorted(set(names) - set(TARGETS)):
        sys.exit(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    explained = yaml.safe_load(EXPLAINED.read_text()) or {}
    for name, target in TARGETS.items():
        path = RESULTS / f"mutation-{name}.json"
        reasons = explained.get(name, [])
        digest = fingerprint(target, reasons)
        known = path.exists() and json.loads(path.read_text())["digest"] == digest
        if name in names or (not names and not known):
            record = measure(name, target, reasons)
            path.write_text(json.dumps(record | {"digest": digest}, indent=2) + "\n")


def fingerprint(target: Target, reasons: list[dict[str, Any]]) -> str:
    """Digest of what a record depends on: the file, its tests with their helpers, and the explanations."""
    files = [
        ROOT / target.file,
        *(ROOT / t.partition("::")[0] for t in target.tests),
        *sorted((ROOT / "tests" / "helpers").glob("*.py")),
    ]
    text = b"\0".join(f.read_bytes() for f in files) + json.dumps([*target[2:], reasons]).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def measure(name: str, target: Target, reasons: list[dict[str, Any]]) -> dict[str, Any]:
    """Record of one file: mutants, those killed, and the survivors, explained or not."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        codes, changes = run(Path(folder), target)
    survivors = [
        {"function": function_of(mutant), "result": SURVIVED[codes[mutant]], "change": changes[mutant]}
        for mutant in changes
    ]
    explained = [s for s in survivors if any(explains(r, s) for r in reasons)]
    open_ones = [s for s in survivors if s not in explained]
    for one in open_ones:
        print(f"  {one['result']} in {one['function']}\n    " + "\n    ".join(one["change"]), flush=True)
    for reason in reasons:
        if not any(explains(reason, s) for s in survivors):
            print(f"  {EXPLAINED.name}: no survivor is explained by {reason['to'][0]}; take it out", flush=True)
    killed = len(codes) - len(survivors)
    print(f"{target.file}: {killed} of {len(codes)} killed, {len(explained)} explained", flush=True)
    return {
        "file": target.file,
        "functions": list(target.functions),
        "tests": list(target.tests),
        "mutants": len(codes),
        "killed": killed,
        "explained": len(explained),
        "survivors": open_ones,
        "seconds": round(time.monotonic() - started),
        "tool": f"mutmut {version('mutmut')}",
        "command": f"make mutate ONLY={name}",
        "date": date.today().isoformat(),
    }


def run(folder: Path, target: Target) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Exit codes of the tests by mutant, and the changed lines of those that survived.

    Raises:
        ValueError: a function of the target is not in its file.
        RuntimeError: mutmut failed, or left mutants out.
    """
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "reverie.py", folder)
    shutil.copy(ROOT / "benchmarks" / "mutation_order.py", folder / "conftest.py")
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings(target))
    module = target.file.removesuffix(".py").replace("/", ".")
    patterns = [f"{module}.{prefix_of(function)}__mutmut_*" for function in target.functions]
    mutmut(folder, "run", "--max-children", "1", *patterns)
    recorded = json.loads((folder / "mutants" / f"{target.file}.meta").read_text())["exit_code_by_key"]
    codes = {m: code for m, code in recorded.items() if not patterns or any(fnmatchcase(m, p) for p in patterns)}
    if missing := set(target.functions) - {function_of(m) for m in codes}:
        raise ValueError(f"mutation_targets.py names functions that {target.file} has not: {', '.join(missing)}")
    if unchecked := [m for m, code in codes.items() if code in (None, 34)]:
        raise RuntimeError(f"mutmut left {len(unchecked)} mutants unchecked: {unchecked[:3]}")
    return codes, {m: changed_lines(mutmut(folder, "show", m)) for m, code in codes.items() if code in SURVIVED}


def settings(target: Target) -> str:
    """mutmut's part of `pyproject.toml`; lists and strings are written the same way in JSON and TOML."""
    # What is compiled takes seconds and cannot see through the switch between mutants.
    selection = ["-m", "not slow and not compile"]
    if target.without:
        selection += ["-k", " and ".join(f"not {part}" for part in target.without)]
    values = {
        "source_paths": ["modules"],
        "only_mutate": [target.file],
        "also_copy": [*PARTS[1:], "reverie.py", "conftest.py"],
        "pytest_add_cli_args": ["-p", "no:xdist", "-p", "no:cacheprovider", *SPEED, *selection],
        "pytest_add_cli_args_test_selection": list(target.tests),
    } | LIMITS
    return "\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut and return the text that it prints.

    Raises:
        RuntimeError: it failed.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def changed_lines(diff: str) -> list[str]:
    """Lines that a diff takes out and puts in, without their indentation."""
    lines = [line for line in diff.splitlines() if line[:1] in ("-", "+") and line[:3] not in ("---", "+++")]
    return [f"{line[0]} {line[1:].strip()}" for line in lines]


def prefix_of(function: str) -> str:
    """Beginning of the names of a function's mutants: `x_returns`, or `xǁ_Eluǁforward`."""
    return f"xǁ{function.replace('.', 'ǁ')}" if "." in function else f"x_{function}"


def function_of(mutant: str) -> str:
    """Name of the function, from that of a mutant such as `modules.x.xǁ_Eluǁforward__mutmut_3`."""
    name = mutant.rpartition(".")[2].rpartition("__mutmut_")[0].removeprefix("x")
    return name.strip("ǁ").replace("ǁ", ".") if "ǁ" in name else name.removeprefix("_")


def explains(reason: dict[str, Any], survivor: dict[str, Any]) -> bool:
    """Whether an explanation is of this survivor: the same function, and what its line becomes."""
    lines = [line.removeprefix("+ ") for line in survivor["change"] if line.startswith("+ ")]
    lines = lines or [f"without {line.removeprefix('- ')}" for line in survivor["change"]]
    return reason["function"] == survivor["function"] and any(line in reason["to"] for line in lines)


if __name__ == "__main__":
    main()
