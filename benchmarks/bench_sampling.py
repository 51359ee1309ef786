"""Time to draw a batch of hopper size from 100 thousand and from 10 million rows.

    python benchmarks/bench_sampling.py [--draws 1000] [--repeats 9]

Prints one JSON line per way of storing the rows. Both sizes are timed in turns, so that a busy machine slows both. The
10 million rows take 1.1 GB in memory, and twice that on disk in the temporary folder.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measured_by import tell

import commands.quiet  # noqa: F401 - must come before torch

# isort: split
import torch
from tensordict import MemoryMappedTensor, TensorDict
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

from datamodules.replay.transitions import Column, Replay, Unpack
from modules.batch import path_of

OBSERVATION, ACTION = 11, 3
WIDTH = 2 * OBSERVATION + ACTION + 3
COLUMNS = {
    "observation": Column(0, 11, (11,)),
    "action": Column(11, 14, (3,)),
    "next/observation": Column(14, 25, (11,)),
    "next/reward": Column(25, 26, (1,)),
    "next/terminated": Column(26, 27, (1,)),
    "next/truncated": Column(27, 28, (1,)),
}


def fill(rows: torch.Tensor) -> torch.Tensor:
    for part in rows.split(1_000_000):
        part.uniform_()
    return rows


def replay(rows: torch.Tensor, batch_size: int, subset: bool) -> Replay:
    """Our replay; with `subset`, as it samples a training split of a memory-mapped file."""
    index = torch.randperm(len(rows))[: int(0.95 * len(rows))].sort().values if subset else None
    data = TensorDict({"row": rows}, [len(rows)])
    return Replay(data, Unpack(COLUMNS), batch_size=batch_size, length=1, seed=0, rows=index)


def plain_torchrl(rows: torch.Tensor, batch_size: int, folder: Path) -> TensorDictReplayBuffer:
    """TorchRL as its documentation shows it: one memory-mapped tensor per field."""
    fields = {path_of(name): rows[:, c.start : c.stop] for name, c in COLUMNS.items()}
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(len(rows), scratch_dir=folder), batch_size=batch_size)
    buffer.extend(TensorDict(fields, [len(rows)]))
    return buffer


def in_turns(candidates: dict[str, Callable[[], object]], draws: int, repeats: int) -> dict[str, float]:
    """Median microseconds per draw of each candidate, measured in alternation."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, sample in candidates.items():
            for _ in range(50):
                sample()
            begun = time.perf_counter()
            for _ in range(draws):
                sample()
            times[name].append(1e6 * (time.perf_counter() - begun) / draws)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=10_000_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it would print between the JSON lines
    torch.manual_seed(0)
    sizes = {"small": arguments.small, "large": arguments.large}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for storage in ("memory", "memmap"):
            samplers: dict[str, Callable[[], object]] = {}
            for size, count in sizes.items():
                rows = torch.empty(count, WIDTH)
                if storage == "memmap":
                    rows = MemoryMappedTensor.empty((count, WIDTH), dtype=torch.float32, filename=folder / size)
                samplers[size] = replay(fill(rows), arguments.batch_size, storage == "memmap").sample
                if storage == "memmap":
                    plain = plain_torchrl(rows, arguments.batch_size, folder / f"plain-{size}")
                    samplers[f"plain TorchRL, {size}"] = plain.sample
            medians = in_turns(samplers, arguments.draws, arguments.repeats)
            result = {
                "benchmark": "sampling",
                "storage": storage,
                "batch_size": arguments.batch_size,
                "rows": sizes,
                "microseconds": {key: round(value, 1) for key, value in medians.items()},
                "large_over_small": round(medians["large"] / medians["small"], 3),
                "threads": 1,
                "torch": torch.__version__,
                "machine": platform.machine(),
            }
            tell(result)


if __name__ == "__main__":
    main()
