"""Speed that was measured now against the stored one: ratios alone, which another machine changes little.

    python benchmarks/regressions.py build/bench             # what `make bench` has measured becomes the stored one
    python benchmarks/regressions.py build/bench --accept    # also where it is worse, as `make bench ACCEPT=1`

The stored ones are `results/*.jsonl`. Rows that became worse by more than a tenth are named, nothing is stored, and the
status is 1. Times are not compared: a ratio is of two versions that were timed in turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from measured_by import RESULTS

MOST = 0.1
"""Share by which a ratio may become worse."""

GOODNESS = {
    "*speedup*_median": lambda ratio: ratio,
    "times as fast": lambda ratio: ratio,
    "share": lambda share: share,
    "*ratio_median": lambda ratio: 1 / ratio,
    "large_over_small": lambda ratio: 1 / ratio,
    "*_share": lambda share: 1 / (1 + share),
    "*_share_median": lambda share: 1 / (1 + share),
    "*_share_of_update": lambda share: 1 / (1 + share),
}
"""By the name of a number, how good it is: a speed as a share of another one. Of time that is spent in addition, it is
the time without it as a share of the time with it, so that a small share may change by much."""

SETTINGS = ("threads", "chunk", "batch_size", "rows", "batch", "heads", "moment", "steps", "games", "tokens of a frame")
"""Numbers that say which row it is."""
ELSEWHERE = ("command", "torch", "machine", "processor", "share of drawing", "saved_bytes_per_token")
"""Texts that do not: of versions, machines, and what was measured."""

Row = tuple[str, ...]
"""Name of a row: its file, and all that says which row of it."""


class Change(NamedTuple):
    """A number of a row that is there twice.

    Attributes:
        row: name of the row.
        number: name of the number.
        before: stored value.
        now: new value.
        goodness: that of the new one as a share of the stored one's; below 1 it is worse.
    """

    row: Row
    number: str
    before: float
    now: float
    goodness: float


def ratios(folder: Path) -> dict[tuple[Row, str], float]:
    """All ratios of the `*.jsonl` files in a folder, by row and name.

    Raises:
        ValueError: two rows of a file have the same name.
    """
    found: dict[tuple[Row, str], float] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            row = (path.stem, *_named(record))
            for number, value in record.items():
                if isinstance(value, float) and _goodness(number, value) is not None:
                    if (row, number) in found:
                        raise ValueError(
                            f"{path.name}: two rows are {', '.join(row[1:])}: add to SETTINGS what differs"
                        )
                    found[row, number] = value
    return found


def changes(stored: Path, measured: Path) -> list[Change]:
    """Every ratio that both folders have, the one first that has become worst.

    Args:
        stored: folder of the stored results.
        measured: folder of the new ones.
    """
    before, found = ratios(stored), []
    for (row, number), now in ratios(measured).items():
        old = before.get((row, number))
        if old is not None and (good := _goodness(number, old)):
            found.append(Change(row, number, old, now, (_goodness(number, now) or 0.0) / good))
    return sorted(found, key=lambda change: change.goodness)


def table(worse: Iterable[Change]) -> str:
    """Changes for people, a line each."""
    lines = ["| row | ratio | before | now | change |", "|---|---|---|---|---|"]
    for change in worse:
        numbers = f"{change.before:g} | {change.now:g} | {change.goodness - 1:+.0%}"
        lines += [f"| {', '.join(change.row)} | {change.number} | {numbers} |"]
    return "\n".join(lines)


def _named(record: Mapping[str, Any]) -> list[str]:
    """All that says which row a record is."""
    told = {name: value for name, value in record.items() if name not in ELSEWHERE}
    return [
        value if isinstance(value, str) else f"{name} {value}"
        for name, value in told.items()
        if isinstance(value, str) or (name in SETTINGS and isinstance(value, int))
    ]


def _goodness(number: str, value: float) -> float | None:
    """How good a number of this name is; None of one that is no ratio."""
    measure = next((measure for pattern, measure in GOODNESS.items() if fnmatch(number, pattern)), None)
    return None if measure is None or value == 0.0 else float(measure(value))


def main() -> None:
    """Name what became worse; store what was measured where nothing has, or where that is accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="folder of new *.jsonl files")
    parser.add_argument("--accept", action="store_true", help="store also what is worse")
    options = parser.parse_args()
    found = changes(RESULTS, options.measured)
    worse = [change for change in found if change.goodness < 1 - MOST]
    print(f"{len(worse)} of {len(found)} ratios that are stored and were measured became worse by more than {MOST:.0%}")
    if worse:
        print(table(worse))
    if worse and not options.accept:
        sys.exit("nothing was stored; --accept, or make bench ACCEPT=1, stores it")
    for path in sorted(options.measured.glob("*.jsonl")):
        shutil.copy(path, RESULTS / path.name)


if __name__ == "__main__":
    main()
