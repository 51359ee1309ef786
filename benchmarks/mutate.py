"""Mutation testing of formulas and losses: every small change of the code that no test notices is a missing test.

python benchmarks/mutate.py [returns popart ...]

mutmut changes one expression at a time and runs the tests that reach it. Each file of `mutation_targets` is changed in
a copy of the tree, so that nothing here is touched. Its record is written when it is done, to
`results/mutation-NAME.json`: a run that is stopped goes on with the next file. Without names, files are left out whose
code and tests are those of their record.
"""

from __future__ import annotations

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

from mutation_results import unexplained
from mutation_targets import ROOT, TARGETS, Target, check_functions, fingerprint

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("modules", "datamodules", "callbacks", "commands", "configs", "benchmarks", "tests")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "results")
SURVIVED = {0: "survived", 5: "no test", 33: "no test"}  # exit codes in mutmut's records; 34 and None are refused
SPEED = ("-p", "no:unraisableexception", "-p", "no:threadexception")
"""Without the two full garbage collections of every run of pytest, which cost more than most tests."""
SHOW = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps({mutant: get_diff_for_mutant(mutant) for mutant in sys.argv[1:]}))
"""
LIMITS = {"timeout_constant": 10.0, "timeout_multiplier": 4.0}
"""A mutant may take eight times as long as its tests took, and 80 seconds more: a loaded machine kills nothing."""


def main() -> None:
    """Run the files that are named, or those that changed.

    Raises:
        ValueError: a target names a function that its file does not have.
    """
    names = sys.argv[1:]
    if unknown := sorted(set(names) - set(TARGETS)):
        sys.exit(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    for target in TARGETS.values():
        check_functions(target)
    for name, target in TARGETS.items():
        path = RESULTS / f"mutation-{name}.json"
        digest = fingerprint(target)
        known = path.exists() and json.loads(path.read_text())["digest"] == digest
        if name in names or (not names and not known):
            record = measure(name, target)
            path.write_text(json.dumps(record | {"digest": digest}, indent=2) + "\n")
            print(f"{target.file}: {record['killed']} of {record['mutants']} killed", flush=True)
            for line in unexplained(name, record["survivors"]):
                print(f"  {line}", flush=True)


def measure(name: str, target: Target) -> dict[str, Any]:
    """Record of one file: how many mutants there are, how many were killed, and what the survivors change."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        codes, changes = run(Path(folder), target)
    survivors = [
        {"function": function_of(mutant), "result": SURVIVED[codes[mutant]], "change": change}
        for mutant, change in changes.items()
    ]
    return {
        "file": target.file,
        "functions": list(target.functions),
        "tests": list(target.tests),
        "mutants": len(codes),
        "killed": len(codes) - len(survivors),
        "survivors": survivors,
        "seconds": round(time.monotonic() - started),
        "tool": f"mutmut {version('mutmut')}",
        "command": f"make mutate ONLY={name}",
        "date": date.today().isoformat(),
    }


def run(folder: Path, target: Target) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Exit codes of the tests by mutant, and the changed lines of those that survived.

    Raises:
        ValueError: mutmut finds nothing to change in a function of the target.
        RuntimeError: mutmut failed, or left mutants out.
    """
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=LEFT_OUT)
    shutil.copy(ROOT / "reverie.py", folder)
    shutil.copy(ROOT / "benchmarks" / "mutation_order.py", folder / "conftest.py")
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings(target))
    module = target.file.removesuffix(".py").replace("/", ".")
    patterns = [f"{module}.{prefix_of(function)}__mutmut_*" for function in target.functions]
    mutmut(folder, "run", "--max-children", "1", *patterns)
    recorded = json.loads((folder / "mutants" / f"{target.file}.meta").read_text())["exit_code_by_key"]
    codes = {m: code for m, code in recorded.items() if not patterns or any(fnmatchcase(m, p) for p in patterns)}
    if missing := set(target.functions) - {function_of(m) for m in codes}:
        raise ValueError(f"mutation_targets.py names functions without mutants in {target.file}: {', '.join(missing)}")
    if unchecked := [m for m, code in codes.items() if code in (None, 34)]:
        raise RuntimeError(f"mutmut left {len(unchecked)} mutants unchecked: {unchecked[:3]}")
    return codes, show(folder, [m for m, code in codes.items() if code in SURVIVED])


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
    """Run mutmut and return the text that it prints."""
    return python(folder, "-m", "mutmut", *arguments)


def show(folder: Path, mutants: list[str]) -> dict[str, list[str]]:
    """Changed lines of these mutants; as `mutmut show`, of all by one process."""
    return {m: changed_lines(diff) for m, diff in json.loads(python(folder, "-c", SHOW, *mutants)).items()}


def python(folder: Path, *arguments: str) -> str:
    """Run Python in the copied tree and return the text that it prints.

    Raises:
        RuntimeError: it failed.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def changed_lines(diff: str) -> list[str]:
    """Lines that a diff takes out and puts in, without their indentation."""
    lines = [line for line in diff.splitlines() if line[:1] in ("-", "+") and line[:3] not in ("---", "+++")]
    return [f"{line[0]} {line[1:].strip()}" for line in lines]


def prefix_of(function: str) -> str:
    """Beginning of the names of a function's mutants: `x_returns`, or `xǁ_Eluǁforward`."""
    return f"xǁ{function.replace('.', 'ǁ')}" if "." in function else f"x_{function}"


def function_of(mutant: str) -> str:
    """Name of the function, from that of a mutant such as `NAME.xǁ_Eluǁforward__mutmut_3`."""
    name = mutant.rpartition(".")[2].rpartition("__mutmut_")[0].removeprefix("x")
    return name.strip("ǁ").replace("ǁ", ".") if "ǁ" in name else name.removeprefix("_")


if __name__ == "__main__":
    main()
