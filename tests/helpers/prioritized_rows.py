"""Rows of parallel streams, and the prioritised replays that are made of them."""

from __future__ import annotations

import inspect
import random
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.streams import ReplaySettings
from modules.batch import PrioritizedSequences

STREAMS = 3
FLAGS = ("is_first", "terminated", "truncated")


def make_rows(lengths: list[list[int]], flagged: bool = True) -> TensorDict:
    """`[t, N]` rows of episodes of these lengths, for each stream; rows say who they are, what is stored likewise.

    The observation is (time, stream), what is stored 1000 * stream + time. `flagged` ends alternate between termination
    and time-out; without, only the next reset shows that an episode is over.
    """
    streams = []
    for stream, episodes in enumerate(lengths):
        position = [(p, n) for n in episodes for p in range(n)]
        time = torch.arange(len(position))
        end = torch.tensor([p == n - 1 for p, n in position]) & flagged
        first = torch.tensor([p == 0 for p, _ in position])
        even = first.cumsum(0) % 2 == 0
        streams.append(
            {
                "observation": torch.stack([time, torch.full_like(time, stream)], -1).float(),
                "previous_action": 1 + time + 100 * stream,
                "reward": 1 + time * 0.5,
                "is_first": first,
                "terminated": end & even,
                "truncated": end & ~even,
                "stored": (1000.0 * stream + time).unsqueeze(-1),
            }
        )
    count = min(len(s["reward"]) for s in streams)
    fields = {name: torch.stack([s[name][:count] for s in streams], 1) for name in streams[0]}
    return TensorDict(fields, [count, len(lengths)])  # type: ignore[arg-type]


def make(folder: Path, **changes: object) -> PrioritizedReplay:
    settings = {"streams": STREAMS, "capacity": 500, "margin": 40, "batch_size": 32, "length": 6, "seed": 1}
    own: dict = {"burn_in": 3, "overlap": 2, "alpha": 0.0}
    settings |= {"stored_width": 1} | changes
    own |= {name: settings.pop(name) for name in inspect.signature(PrioritizedReplay).parameters if name in settings}
    told = ReplaySettings(folder, Field((2,), torch.float32), Field((), torch.int64), **settings)  # type: ignore[arg-type]
    return PrioritizedReplay(told, **own)


def draw(replay: PrioritizedReplay) -> PrioritizedSequences:
    return PrioritizedSequences.from_tensordict(replay.sample())


def contents(replay: PrioritizedReplay, draws: int = 60) -> dict[int, tuple[Tensor, ...]]:
    """All sequences that are drawn, by index: their rows as fields `[L, ...]`, padding and start state."""
    found: dict[int, tuple[Tensor, ...]] = {}
    for _ in range(draws):
        batch = draw(replay)
        sequence = batch.sequence
        for b, index in enumerate(batch.index.tolist()):
            if index in found:
                continue
            fields = (sequence.observation["observation"], *sequence[1:], batch.padding)
            found[index] = (*(value[:, b] for value in fields), batch.start_state[b])
    return found


def check_contents(replay: PrioritizedReplay, rows: TensorDict, expected: list, first: int = 0) -> None:
    found = contents(replay)
    assert sorted(found) == list(range(first, len(expected)))
    for number, sequence in found.items():
        _, stream, times = expected[number]
        assert sequence[-2].tolist() == [t is None for t in times]
        names = ("observation", "previous_action", "reward", *FLAGS)
        for name, values in zip(names, sequence[:-2], strict=True):
            for t, value in zip(times, values, strict=True):
                assert torch.equal(value, rows[name][t, stream] if t is not None else torch.zeros_like(value)), name
        assert sequence[-1] == rows["stored"][next(t for t in times if t is not None), stream]


def random_lengths(seed: int, rows: int, longest: int) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randint(1, longest) for _ in range(rows)] for _ in range(STREAMS)]


def filled(folder: Path, **changes: object) -> PrioritizedReplay:
    """15 sequences: five of each stream, as they follow each other."""
    replay = make(folder, **changes)
    replay.extend(make_rows([[23]] * STREAMS))
    return replay
