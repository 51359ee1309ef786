"""Memory and time of a replay of a million 64x64x3 images on disk.

    python benchmarks/bench_replay.py [--rows 1000000] [--folder DIR]

Writes the rows as the collector does, then draws batches of 16 windows of 50 rows. Prints one JSON line: how far the
resident memory of the process rose above what it was before the first row, and the time of a batch. The files take
12.3 GB for a million rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from measured_by import tell

import commands.quiet  # noqa: F401 - must come before torch

# isort: split
import psutil
import torch
from tensordict import TensorDict

from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.sequences import SequenceReplay
from datamodules.replay.streams import ReplaySettings

STREAMS, CHUNK = 8, 64
SIDE = 64


def chunk_of_rows(seed: int) -> TensorDict:
    """`[CHUNK, STREAMS]` rows of noise."""
    generator = torch.Generator().manual_seed(seed)
    size = [CHUNK, STREAMS]
    flags = {name: torch.zeros(size, dtype=torch.bool) for name in ("is_first", "terminated", "truncated")}
    image = torch.randint(256, (*size, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    rows = {"observation": image, "previous_action": torch.zeros(size, dtype=torch.int64), "reward": torch.zeros(size)}
    return TensorDict({**rows, **flags}, size)


def main() -> None:
    """Fill, draw, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    process, peak = psutil.Process(), 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        settings = ReplaySettings(
            Path(folder) / "rank0", Field((SIDE, SIDE, 3), torch.uint8), Field((), torch.int64), streams=STREAMS,
            capacity=options.rows // STREAMS, margin=CHUNK, batch_size=16, length=50,
        )  # fmt: skip
        replay = SequenceReplay(settings)
        chunks = [chunk_of_rows(seed) for seed in range(4)]
        replay.extend(chunks[0])
        before = process.memory_info().rss
        start = time.perf_counter()
        for number in range(options.rows // STREAMS // CHUNK):
            replay.extend(chunks[number % len(chunks)])
            peak = max(peak, process.memory_info().rss - before)
        written = time.perf_counter() - start
        start = time.perf_counter()
        for number in range(options.draws):
            replay.sample()
            if number % 10 == 0:
                peak = max(peak, process.memory_info().rss - before)
        drawn = time.perf_counter() - start
        record = {
            "benchmark": "replay of 64x64x3 images on disk",
            "rows": len(replay) * STREAMS,
            "resident memory, MB more": round(peak / 1e6),
            "rows written per second": round(options.rows / written),
            "batch of 16x50, ms": round(1000 * drawn / options.draws, 2),
        }
        tell(record)


if __name__ == "__main__":
    main()
