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
from offline_cells import Cell, read_facts, read_rows, seeds_of


def choose(cells: Sequence[Cell], root: Path) -> dict[str, Any]:
    """Choose among the last policies of all cells of one dataset that have ended; a choice that was made is read.

    Returns:
        `values`, by agent the mean fitted value of its seeds; `agent`, `member` and `return` (None where nothing was
        played) of the chosen policy; `fell_back`, whether it is the safe one. Or `reason`, why there is no choice.
    """
    ended = [cell for cell in cells if all(read_facts(folder)["status"] == "done" for folder, _ in cell.runs)]
    owners = {folder: cell for cell in ended for folder, _ in cell.runs}
    if not owners:
        return {"reason": "no agent has ended"}
    names = sorted(str(folder.relative_to(root)) for folder in owners)
    key = hashlib.sha256(" ".join(names).encode()).hexdigest()[:8]
    output = cells[0].folder.parent / f"select-{key}"
    if not (output / "select.json").is_file():
        reason = select(list(owners), output, cells[0].budget.threads)
        if reason:
            return {"reason": reason}
    content = json.loads((output / "select.json").read_text())
    values: dict[str, list[float]] = {}
    result: dict[str, Any] = {"fell_back": content["fell_back"]}
    for candidate in content["candidates"]:
        folder = Path(candidate["checkpoint"]).parent.parent
        agent = owners[folder.resolve()].agent.name
        values.setdefault(agent, []).append(candidate["value"])
        if candidate["name"] == content["chosen"]:
            rows = seeds_of([row for row in read_rows(folder / "evaluation.csv") if row["kind"] == "last"])
            played = [row["mean"] for row in rows if row["member"] in ("", candidate["member"])]
            result |= {"agent": agent, "member": candidate["member"], "return": played[0] if played else None}
    return result | {"values": {agent: float(np.mean(mine)) for agent, mine in values.items()}}


def select(folders: Sequence[Path], output: Path, threads: int) -> str:
    """Run `reverie select` on runs; the reason where it refuses or fails, else nothing."""
    command = [sys.executable, "-m", "reverie", "select", "--ckpt_path", json.dumps([str(f) for f in folders])]
    done = subprocess.run(
        [*command, "--output", str(output), "--mlflow_run", "none"],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else "no output").removeprefix("reverie: error: ")[:400]
