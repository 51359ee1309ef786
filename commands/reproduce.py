"""`reverie reproduce`: a cell of evidence again, and whether what comes out lies in its interval."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from commands.function_command import numbers_as_list, run_function
from modules.arguments.checks import check_seed

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
"""Cells and the commands that measured them; in a clone of the repository, and in no installation."""


def reproduce(cell: str = "", seeds: list[int] = [], datasets: str | None = None) -> None:  # noqa: B006 - read only
    """Run the command of a cell of docs/evidence.md again, and say whether the new score lies in its interval.

    Without a cell all of them are listed, with the minutes that they took. The exit status is 1 where the score lies
    outside. Nothing is overwritten: what came out is a file of its own below benchmarks/results/reproduced.

    Args:
        cell: name of the cell. It may stand first without the option's name.
        seeds: some of its seeds; by default all.
        datasets: folder of the recorded data that it learns from, where it learns from files.
    """
    if not (BENCHMARKS / "reproduction.py").is_file():
        raise ValueError(
            f"there is no {BENCHMARKS}: results and the commands that measured them are no part of an installation. "
            "Run reverie reproduce in a clone of the repository, after make setup there"
        )
    for seed in seeds:
        check_seed(seeds=seed)
    if datasets is not None and not Path(datasets).is_dir():
        raise ValueError(f"--datasets: there is no folder {datasets}")
    sys.path.append(str(BENCHMARKS))
    reproduction = importlib.import_module("reproduction")
    if not cell:
        print("\n".join(reproduction.listed(reproduction.read_cells(reproduction.RESULTS))))
    elif not reproduction.reproduce(cell, seeds, None if datasets is None else Path(datasets)):
        sys.exit(1)


def main(argv: list[str]) -> None:
    """`reverie reproduce CELL --seeds 0 1 --option value`."""
    named = bool(argv) and not argv[0].startswith("-")
    words = [f"--cell={argv[0]}", *argv[1:]] if named else list(argv)
    run_function(reproduce, numbers_as_list(words, "--seeds"))
