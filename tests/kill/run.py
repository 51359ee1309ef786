"""Kills runs at every call by which they change a file, continues them, and compares what they leave behind.

    python tests/kill/run.py [--cases atac dreamer ...] [--kinds REGEX] [--each N] [--sample N] [--shard K/N]
        [--folder runs/kill] [--seed 0]

A run of about sixty updates of each case is done once without a kill, with a list of its calls: open, write, sync,
truncate, rename, link, unlink, mkdir. Then, for every call, a run is killed in front of it (a write every other time in
the middle), the run that continues it is killed at a call of its own, drawn at random, and a third one goes on to the
end. Two of three kills are power failures: what was not synced is lost, with the names or without. Checkpoints to the
bit, tables, names of files, and every point in MLflow, each exactly once, must be those of the run that was never
killed.

`--kinds` keeps to calls such as `rename run/checkpoints/last.ckpt`, `--each N` takes N calls of each kind and file,
spread evenly, in place of all, and `--sample N` draws N of them at random. What was tried is in `<folder>/<case>.jsonl`
and is not tried again, so that a shard that was interrupted goes on; the folder of a point that failed is kept. The
status is 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/helpers"), str(Path(__file__).parent)]
from cases import CASES, prepare  # noqa: E402 - beside this file
from processes import build, preload, run  # noqa: E402
from state import state_of  # noqa: E402

from modules.agent.update_state import differences  # noqa: E402

KILLED = -9


class Point(NamedTuple):
    """One call.

    Attributes:
        number: its number in the run, from 1 on.
        kind: name of the call, and the file without what differs from run to run.
    """

    number: int
    kind: str


def read_points(log: Path, work: Path) -> list[Point]:
    """The calls of a run in their order."""
    points = []
    for line in log.read_text().splitlines():
        number, call, path = line.split(" ", 2)
        name = re.sub(r"[0-9a-f]{32}|[0-9]+|tmp\w{8}", "#", str(Path(path).relative_to(work)))
        points.append(Point(int(number), f"{call} {name}"))
    return points


def chosen(points: list[Point], each: int | None) -> list[Point]:
    """All points, or so many of each kind, the first and the last among them."""
    if each is None:
        return points
    kinds: dict[str, list[Point]] = {}
    for point in points:
        kinds.setdefault(point.kind, []).append(point)
    found = []
    for members in kinds.values():
        count = min(each, len(members))
        found += [members[round(i * (len(members) - 1) / max(count - 1, 1))] for i in range(count)]
    return sorted(found)


def fresh(folder: Path) -> Path:
    """An empty folder with what the runs begin with."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "work").mkdir(parents=True)
    prepare(folder / "work")
    return folder


def try_point(name: str, point: Point, folder: Path, reference: dict, calls: int, seed: int) -> str | None:
    """The fault of a run that was killed at this call, and once more later; None where all is well."""
    chance = random.Random(f"{seed} {point.number}")
    torn = chance.random() < 0.5
    code = run(CASES[name], folder, point.number, torn, chance.randrange(3))
    if code not in (KILLED, 0):
        return f"status {code} of the first run: {_last_line(folder)}"
    if code == KILLED:
        code = run(CASES[name], folder, chance.randint(1, calls), torn, chance.randrange(3))
        if code not in (KILLED, 0):
            return f"status {code} of the second run: {_last_line(folder)}"
    if code == KILLED and (code := run(CASES[name], folder)):
        return f"status {code} of the third run: {_last_line(folder)}"
    try:
        different = list(differences(reference, state_of(folder / "work")))
    except (AssertionError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{different[0].name}: {different[0].about}, and {len(different) - 1} others" if different else None


def _last_line(folder: Path) -> str:
    lines = (folder / "out.txt").read_text().strip().splitlines()
    return lines[-1] if lines else "nothing was printed"


def attack(name: str, root: Path, options: argparse.Namespace) -> int:
    """Try the points of a case that were not tried yet; the number of failures among all."""
    shard = options.shard
    # All runs are in one folder after the other, whose name stands in their files.
    folder, log = root / f"{name}-{shard[0]}", root / f"{name}-{shard[0]}.calls"
    log.unlink(missing_ok=True)
    if code := run(CASES[name], fresh(folder), log=log):
        sys.exit(f"{name}: the run without a kill has the status {code}: {_last_line(folder)}")
    reference, points = state_of(folder / "work"), read_points(log, folder / "work")
    wanted = chosen([point for point in points if re.search(options.kinds, point.kind)], options.each)
    if options.sample is not None:
        wanted = sorted(random.Random(options.seed).sample(wanted, min(options.sample, len(wanted))))
    wanted = wanted[shard[0] - 1 :: shard[1]]
    results = root / f"{name}.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    tried = {row["call"] for row in known}
    print(f"{name}: {len(points)} calls, {len(wanted)} to try, {len(tried)} tried before", flush=True)
    for place, point in enumerate(wanted, 1):
        if point.number in tried:
            continue
        wrong = try_point(name, point, fresh(folder), reference, len(points), options.seed)
        known.append({"call": point.number, "kind": point.kind, "wrong": wrong})
        with results.open("a") as file:
            file.write(json.dumps(known[-1]) + "\n")
        if wrong is not None:
            folder.rename(root / f"{name}-call-{point.number}")
        print(f"{name} {place}/{len(wanted)}: call {point.number}, {point.kind}: {wrong or 'equal'}", flush=True)
    return sum(row["wrong"] is not None for row in known)


def main(argv: list[str]) -> int:
    """Try the chosen cases; 1 if a point failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--kinds", default="", help="regular expression of call and file; default: all")
    parser.add_argument("--each", type=int, help="calls of each kind and file; default: all")
    parser.add_argument("--sample", type=int, help="so many of these, drawn at random")
    parser.add_argument("--shard", default="1/1", help="such as 2/4: the second of four processes that share the calls")
    parser.add_argument("--folder", type=Path, default=Path("runs/kill"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    matched = re.fullmatch(r"(\d+)/(\d+)", options.shard)
    if not matched or not 1 <= int(matched[1]) <= int(matched[2]):
        parser.error(f"--shard must be such as 2/4, got {options.shard}")
    root = options.folder.resolve()
    root.mkdir(parents=True, exist_ok=True)
    preload(build(root))
    options.shard = int(matched[1]), int(matched[2])
    failed = {name: attack(name, root, options) for name in options.cases}
    print("\n".join(f"{name}: {count} points failed" for name, count in failed.items()))
    return int(any(failed.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
