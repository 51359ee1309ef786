"""The choice among all policies of a dataset by the recorded data alone, as `reverie select` makes it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from offline_cells import Cell, seeds_of
from resumed_runs import read_facts, read_rows


def choose(cells: Sequence[Cell], root: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Choose among the last policies of all cells of one dataset that have ended; a choice that was made is read.

    Args:
        cells: the cells.
        root: folder of the runs.
        settings: further arguments of `reverie select`.

    Returns:
        `values`, by agent the mean fitted value of its seeds; `agent`, `member` and `return` (None where nothing was
        played) of the chosen policy; `fell_back`, whether it is the safe one, and `cloned`, if it is what an agent had
        cloned; `kept`, by agent with a warm start the return of what each seed keeps: its last policy where that is
        clearly better than the policy that it had cloned, else the cloned one. Or `reason`, why there is no choice.
    """
    ended = [cell for cell in cells if all(read_facts(folder)["status"] == "done" for folder, _ in cell.runs)]
    owners = {folder: cell for cell in ended for folder, _ in cell.runs}
    if not owners:
        return {"reason": "no agent has ended"}
    names = sorted(str(folder.relative_to(root)) for folder in owners)
    key = hashlib.sha256(" ".join([*names, *settings]).encode()).hexdigest()[:8]
    output = cells[0].folder.parent / f"select-{key}"
    if not (output / "select.json").is_file():
        reason = select(list(owners), output, cells[0].budget.threads, settings)
        if reason:
            return {"reason": reason}
    content = json.loads((output / "select.json").read_text())
    values: dict[str, list[float]] = {}
    kept: dict[str, list[float]] = {}
    result: dict[str, Any] = {"fell_back": content["fell_back"]}
    for candidate in content["candidates"]:
        folder = Path(candidate["checkpoint"]).parent.parent
        agent = owners[folder.resolve()].agent.name
        cloned = Path(candidate["checkpoint"]).stem == "cloned"  # what an agent had cloned, beside what it learned
        if not cloned:
            values.setdefault(agent, []).append(candidate["value"])
        if candidate["over_clone_low"] is not None:
            better = candidate["over_clone_low"] > 0.0
            kept.setdefault(agent, []).extend(returns(folder, "last" if better else "phase", candidate["member"]))
        if candidate["name"] == content["chosen"]:
            played = returns(folder, "phase" if cloned else "last", candidate["member"])
            result |= {"agent": agent, "member": candidate["member"], "return": played[0] if played else None}
            result |= {"cloned": True} if cloned else {}
    return result | {"kept": kept, "values": {agent: float(np.mean(mine)) for agent, mine in values.items()}}


def returns(folder: Path, kind: str, member: str) -> list[float]:
    """Mean return of a member at the end of the run (`last`) or of its warm start (`phase`); nothing if not played."""
    rows = seeds_of([row for row in read_rows(folder / "evaluation.csv") if row["kind"] == kind])
    return [row["mean"] for row in rows if row["member"] in ("", member)]


def select(folders: Sequence[Path], output: Path, threads: int, settings: Sequence[str] = ()) -> str:
    """Run `reverie select` on runs; the reason where it refuses or fails, else nothing."""
    command = [sys.executable, "-m", "reverie", "select", "--ckpt_path", json.dumps([str(f) for f in folders])]
    done = subprocess.run(
        [*command, "--output", str(output), "--mlflow_run", "none", *settings],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else "no output").removeprefix("reverie: error: ")[:400]
