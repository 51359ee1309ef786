"""Time and memory of a prioritised replay of recurrent sequences, at the sizes of R2D2.

    python benchmarks/bench_prioritized.py [--steps 1000000] [--folder DIR]

Eight streams of 64 floats are written row by row, as they are collected, each with the state of an LSTM of 512 units;
every 80 steps, 64 sequences of 80 transitions and 40 rows of burn-in are drawn, and priorities and states are written
back. Prints one JSON line: medians of the times, and how far the resident memory rose above what it was before the
first row. The replay holds half of the steps; its files take 0.5 GB for a million steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import commands.quiet  # noqa: F401 - must come before torch

# isort: split
import psutil
import torch
from tensordict import TensorDict

from datamodules.mapped import Field
from datamodules.prioritized import PrioritizedReplay

STREAMS, FEATURES, RECORD = 8, 64, 2 * 512
BATCH, LENGTH, BURN_IN, OVERLAP = 64, 80, 40, 40
EPISODE = 400
STEPS_PER_UPDATE = 80


def row(seed: int) -> TensorDict:
    """`[1, STREAMS]` noise; one of `EPISODE` ends its episodes, and one begins them."""
    generator = torch.Generator().manual_seed(seed)
    size = (1, STREAMS)
    flags = {name: torch.full(size, False) for name in ("is_first", "terminated", "truncated")}
    flags["is_first"] |= seed % EPISODE == 0
    flags["terminated"] |= seed % EPISODE == EPISODE - 1
    rows = {"observation": torch.randn(*size, FEATURES, generator=generator), "reward": torch.zeros(size)}
    rows |= {"previous_action": torch.zeros(size, dtype=torch.int64), **flags}
    return TensorDict({**rows, "record": torch.randn(*size, RECORD, generator=generator)}, list(size))


def timed(times: list[float], call: Callable[[], None]) -> None:
    start = time.perf_counter()
    call()
    times.append(time.perf_counter() - start)


def main() -> None:
    """Fill, draw, write back, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    process = psutil.Process()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        replay = PrioritizedReplay(
            Path(folder) / "rank0", Field((FEATURES,), torch.float32), Field((), torch.int64), streams=STREAMS,
            capacity=max(options.steps // STREAMS // 2, 2 * EPISODE), margin=EPISODE, batch_size=BATCH, length=LENGTH,
            record=RECORD, burn_in=BURN_IN, overlap=OVERLAP, refresh_states=True,
        )  # fmt: skip
        rows = [row(seed) for seed in range(EPISODE)]
        written, updated = [], []
        generator = torch.Generator().manual_seed(0)

        def update() -> None:
            batch = replay.sample()
            replay.write_back(batch["index"], torch.rand(BATCH, generator=generator), batch["record"])

        before, peaks = process.memory_info().rss, [0, 0]
        count = options.steps // STREAMS
        for number in range(count):
            timed(written, lambda: replay.extend(rows[number % EPISODE]))  # noqa: B023 - it is called at once
            if number % (STEPS_PER_UPDATE // STREAMS) == 0 and len(replay) >= EPISODE:
                timed(updated, update)
                half = 2 * number // count
                peaks[half] = max(peaks[half], process.memory_info().rss - before)
        files = sum(path.stat().st_blocks * 512 for path in replay.folder.glob("*.bin"))
        record = {
            "benchmark": "prioritised replay of recurrent sequences",
            "steps": count * STREAMS,
            "files, MB": round(files / 1e6),
            "resident memory, MB more, first half": round(peaks[0] / 1e6),
            "second half": round(peaks[1] / 1e6),
            f"{STREAMS} rows written, us": round(1e6 * statistics.median(written)),
            f"draw and write back {BATCH} of {BURN_IN}+{LENGTH}, ms": round(1000 * statistics.median(updated), 2),
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
