"""Time and memory of a prioritised replay of recurrent sequences, beside an update of R2D2, at the paper's sizes.

    python benchmarks/bench_prioritized.py [--steps 1000000] [--folder DIR]
    python benchmarks/bench_prioritized.py --images --steps 100000

Eight streams of 64 floats, or of 64x64 images, are written row by row, as they are collected, each with the state of an
LSTM of 512 units; every 80 steps, 64 sequences of 80 transitions and 40 rows of burn-in are drawn, and priorities and
states are written back. At the end an agent learns from such batches. Prints one JSON line: medians of the times, and
how far the resident memory rose above what it was before the first row. The replay holds half of the steps; its files
take 0.5 GB for a million steps of floats, and 0.6 GB for 100 thousand images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from measured_by import tell

import commands.quiet  # noqa: F401 - must come before torch

# isort: split
import gymnasium as gym
import numpy as np
import psutil
import torch
from tensordict import TensorDict

from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.streams import ReplaySettings
from modules.algorithms.r2d2 import R2D2
from modules.batch import Spaces
from modules.contracts import Feedback
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.recurrent import LSTM, ActionValues

STREAMS, ACTIONS, STORED = 8, 18, 2 * 512
FLOATS = gym.spaces.Box(-9.0, 9.0, (64,), np.float32)
IMAGES = gym.spaces.Box(0, 255, (64, 64, 1), np.uint8)
BATCH, LENGTH, BURN_IN, OVERLAP = 64, 80, 40, 40
EPISODE = 400
STEPS_PER_UPDATE = 80
UPDATES = 3


def row(seed: int, space: gym.spaces.Box) -> TensorDict:
    """`[1, STREAMS]` noise; one of `EPISODE` ends its episodes, and one begins them."""
    generator = torch.Generator().manual_seed(seed)
    size = (1, STREAMS)
    flags = {name: torch.full(size, False) for name in ("is_first", "terminated", "truncated")}
    flags["is_first"] |= seed % EPISODE == 0
    flags["terminated"] |= seed % EPISODE == EPISODE - 1
    noise = torch.randn(*size, *space.shape, generator=generator)
    rows = {"observation": noise if space is FLOATS else (64.0 * noise).byte(), "reward": torch.zeros(size)}
    rows |= {"previous_action": torch.zeros(size, dtype=torch.int64), **flags}
    return TensorDict({**rows, "stored": torch.randn(*size, STORED, generator=generator)}, list(size))


def timed(times: list[float], call: Callable[[], None]) -> None:
    start = time.perf_counter()
    call()
    times.append(time.perf_counter() - start)


def make_agent(space: gym.spaces.Box) -> R2D2:
    """As in configs/r2d2/atari.yaml."""
    trunk = partial(DenseStack, layers=1, activation="relu")
    network = partial(
        ActionValues, encoder=partial(Encoder, depth=32, activation="relu"), trunk=trunk, units=512,
        memory=partial(LSTM, width=STORED // 2),
    )  # fmt: skip
    agent = R2D2(Spaces(space, gym.spaces.Discrete(ACTIONS)), network)
    agent.burn_in = BURN_IN
    return agent


def main() -> None:
    """Fill, draw, write back, learn, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--images", action="store_true")
    options = parser.parse_args()
    space = IMAGES if options.images else FLOATS
    kind = Field(space.shape, torch.uint8 if options.images else torch.float32)
    torch.set_num_threads(1)
    process = psutil.Process()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        settings = ReplaySettings(
            Path(folder) / "rank0", kind, Field((), torch.int64), streams=STREAMS,
            capacity=max(options.steps // STREAMS // 2, 2 * EPISODE), margin=EPISODE, batch_size=BATCH, length=LENGTH,
            stored_width=STORED,
        )  # fmt: skip
        replay = PrioritizedReplay(settings, burn_in=BURN_IN, overlap=OVERLAP, refresh_states=True)
        rows = [row(seed, space) for seed in range(EPISODE)]
        written, updated, learned = [], [], []
        generator = torch.Generator().manual_seed(0)

        def update() -> None:
            batch = replay.sample()
            replay.write_back(Feedback(batch["index"], torch.rand(BATCH, generator=generator), batch["start_state"]))

        before, peaks = process.memory_info().rss, [0, 0]
        count = options.steps // STREAMS
        for number in range(count):
            timed(written, lambda: replay.extend(rows[number % EPISODE]))  # noqa: B023 - it is called at once
            if number % (STEPS_PER_UPDATE // STREAMS) == 0 and len(replay) >= EPISODE:
                timed(updated, update)
                half = 2 * number // count
                peaks[half] = max(peaks[half], process.memory_info().rss - before)
        agent = make_agent(space)
        for _ in range(UPDATES):
            batch = replay.sample()
            timed(learned, lambda: agent.update(batch))  # noqa: B023 - it is called at once
        files = sum(path.stat().st_blocks * 512 for path in replay.folder.glob("*.bin"))
        drawn, update_time = statistics.median(updated), statistics.median(learned)
        record = {
            "benchmark": "prioritised replay of recurrent sequences",
            "command": f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip(),
            "rows of": "64x64 images" if options.images else "64 floats",
            "steps": count * STREAMS,
            "files, MB": round(files / 1e6),
            "resident memory, MB more, first half": round(peaks[0] / 1e6),
            "second half": round(peaks[1] / 1e6),
            f"{STREAMS} rows written, us": round(1e6 * statistics.median(written)),
            f"draw and write back {BATCH} of {BURN_IN}+{LENGTH}, ms": round(1000 * drawn, 2),
            "update of R2D2, ms": round(1000 * update_time),
            "share of drawing": f"{drawn / update_time:.2%}",
        }
        tell(record)


if __name__ == "__main__":
    main()
