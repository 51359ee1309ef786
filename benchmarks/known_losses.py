"""Known losses of every preset algorithm, by which tests notice that its numbers changed without a tag of the code.

    python benchmarks/known_losses.py                    # writes those of all presets into known_losses.json
    python benchmarks/known_losses.py atac/pendulum      # of some alone, after a tag was added to code_tags.yaml

They are the metrics of a few of the fifty updates that `loss_hashes.py` makes. Another processor or library rounds
otherwise, so they are compared within `TOLERANCE`; a change of form has equal hashes, which that script tells.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from code_tags import newest_tags
from loss_hashes import run, timed

FILE = Path(__file__).parent / "known_losses.json"
PRESETS = (
    "a2c/cartpole", "ppo/catch", "r2d2/tmaze", "moe/mixture", "td3_bc/mujoco", "iql/mujoco", "cql/mujoco",
    "cloning/mujoco", "sac/pendulum", "atac/pendulum", "dreamer/catch", "simple/catch", "muzero/cartpole",
    "armor/mujoco", "merlin/delayed_cue",
)  # fmt: skip
"""One of each algorithm."""
UPDATES = (1, 2, 26)
"""Updates whose metrics are kept: the first ones, and one behind the switch of those with a warm start."""
TOLERANCE, LEAST = 0.01, 1e-3
"""Largest difference as a share of a metric's size, and the one that is let pass however small a metric is."""

Known = dict[str, dict[str, float]]
"""Metrics by their names, of each update."""


def measured(preset: str) -> Known:
    """The metrics of these updates."""
    with tempfile.TemporaryDirectory() as name:
        run(preset, Path(name), ())
        (path,) = Path(name).glob("log/**/metrics.csv")
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if row["step"]]
    found: Known = {}
    for row in rows:
        number = int(row["step"]) + 1
        if number in UPDATES:
            kept = {key: float(text) for key, text in row.items() if "/" in key and text and not timed(key)}
            found.setdefault(str(number), {}).update(kept)
    return found


def differing(known: Known, now: Known) -> list[str]:
    """Lines on metrics that are gone or new, and on those whose value is another one."""
    lines = []
    for update, before in known.items():
        after = now.get(update, {})
        lines += [f"update {update}: {name} is gone" for name in before.keys() - after.keys()]
        lines += [f"update {update}: {name} is new" for name in after.keys() - before.keys()]
        for name in before.keys() & after.keys():
            same = math.isclose(before[name], after[name], rel_tol=TOLERANCE, abs_tol=LEAST)
            both_nan = math.isnan(before[name]) and math.isnan(after[name])
            lines += [] if same or both_nan else [f"update {update}: {name} was {before[name]:g}, is {after[name]:g}"]
    return sorted(lines)


def algorithm_of(preset: str) -> str:
    """Name of a preset's algorithm among the tags."""
    return preset.partition("/")[0]


def main(argv: Sequence[str]) -> None:
    """Write the known losses of these presets, or of all, with the tag that they are of."""
    if unknown := [name for name in argv if name not in PRESETS]:
        sys.exit(f"no known losses of {', '.join(unknown)}; there are those of {', '.join(PRESETS)}")
    for preset in argv or PRESETS:
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        known[preset] = {"tag": newest_tags()[algorithm_of(preset)], "updates": measured(preset)}
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        print(f"{preset}: {sum(map(len, known[preset]['updates'].values()))} numbers", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
