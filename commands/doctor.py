"""`reverie doctor`: what would break a run on this machine, and what to do about it, in one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from callbacks.mlflow.afterwards import store_address
from commands.function_command import run_function
from commands.health import Finding, check_compiler, check_python, check_replay, check_versions, wanted_packages
from commands.machine_health import check_disk, check_films, check_gpu, check_memory, check_store, check_threads

STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def doctor(folder: str = ".", tracking_uri: str | None = None) -> None:
    """Look at packages, TorchRL's extension, compiler, GPU, MLflow's store, disk, memory and threads.

    The exit status is 1 where something would break a run, else 0.

    Args:
        folder: folder that runs are written in.
        tracking_uri: MLflow's store; by default $MLFLOW_TRACKING_URI or mlflow.db.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"--folder: there is no folder {folder}")
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("Python", check_python),
        ("packages", lambda: check_versions(wanted_packages())),
        ("TorchRL", check_replay),
        ("compiler", check_compiler),
        ("GPU", check_gpu),
        ("MLflow", partial(check_store, store_address(tracking_uri))),
        ("disk", partial(check_disk, Path(folder).resolve())),
        ("memory", check_memory),
        ("threads", check_threads),
        ("films", check_films),
    ]
    findings = [finding for name, check in checks for finding in attempted(name, check)]
    Console().print(findings_table(findings))
    wrong = sum(finding.state == "wrong" for finding in findings)
    print(f"{wrong} of these would break a run" if wrong else "nothing here would break a run")
    if wrong:
        sys.exit(1)


def main(argv: list[str]) -> None:
    """`reverie doctor ...`."""
    run_function(doctor, argv)


def attempted(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Findings of a check; one that fails itself, such as for want of torch, has found something wrong."""
    try:
        return check()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:200]
        return [Finding(name, "wrong", said, "mend what stands above; REVERIE_DEBUG=1 reverie fit shows the traceback")]


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row per finding; advice stands below what it is about."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in ("check", "", "found, and what to do"):
        table.add_column(name, overflow="fold")
    for check, state, found, advice in findings:
        told = Text(found)
        if advice:
            told.append(f"\n-> {advice}", STYLES[state])
        table.add_row(Text(check), Text(state, STYLES[state]), told)
    return table
