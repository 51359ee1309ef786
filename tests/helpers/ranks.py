"""Runs a function in several processes that form a gloo group; a process that hangs is ended."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forked import PATIENCE, fork


def run_on_ranks(world: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Results of `function(rank, *arguments)` on every rank.

    Raises:
        AssertionError: it raised somewhere, or did not come back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processes = [fork(_work, rank, world, folder, function, arguments) for rank in range(world)]
    end = time.monotonic() + PATIENCE
    codes: list[int | None] = [None]
    while None in codes and time.monotonic() < end and not any(codes):
        time.sleep(0.01)
        codes = [process.poll() for process in processes]
    for process in processes:
        process.wait(0.5)
        process.kill()
    codes = [process.poll() for process in processes]
    traces = [f"rank {path.stem}:\n{path.read_text()}" for path in sorted(folder.glob("*.error"))]
    assert not any(codes), f"exit codes {codes}\n" + "\n".join(traces)
    return [torch.load(folder / f"{rank}.result", weights_only=False) for rank in range(world)]


def _work(rank: int, world: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE / 2))
    try:
        torch.save(function(rank, *arguments), folder / f"{rank}.result")
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise SystemExit(1) from None
    dist.destroy_process_group()
