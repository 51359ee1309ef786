"""Small replays of both kinds, filled with rows that say who they are, and what is drawn of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import SequenceReplay
from datamodules.replay.streams import ReplaySettings, StreamReplay
from modules.contracts import Feedback

STREAMS, EPISODE = 3, 7


def make_rows(start: int, stop: int) -> TensorDict:
    """`[t, N]` rows that say who they are: the observation is (time, stream); all streams end together."""
    time = torch.arange(start, stop).unsqueeze(1).expand(-1, STREAMS)
    stream = torch.arange(STREAMS).expand(stop - start, -1)
    fields = {
        "observation": torch.stack([time, stream], -1).float(),
        "previous_action": (time + 100 * stream).contiguous(),
        "reward": time * 0.5,
        "is_first": time % EPISODE == 0,
        "terminated": time % EPISODE == EPISODE - 1,
        "truncated": torch.zeros_like(time, dtype=torch.bool),
        "stored": torch.stack([time, -time], -1).float(),
    }
    return TensorDict(fields, [stop - start, STREAMS])  # type: ignore[arg-type]


def settings(folder: Path, **changes: Any) -> ReplaySettings:
    told = {"streams": STREAMS, "capacity": 20, "margin": 6, "batch_size": 5, "length": 4, "seed": 1, "stored_width": 2}
    return ReplaySettings(folder, Field((2,), torch.float32), Field((), torch.int64), **told | changes)


def windows(folder: Path, **parts: Any) -> SequenceReplay:
    return SequenceReplay(settings(folder), **parts)


def sequences(folder: Path, **parts: Any) -> PrioritizedReplay:
    kinds: dict[str, Any] = {"burn_in": 1, "overlap": 1, "stored_rows": True, "refresh_states": True}
    return PrioritizedReplay(settings(folder, capacity=40, length=3), **kinds | parts)


def fill(replay: Any, stop: int = 53) -> Any:
    for start in range(0, stop, 3):
        replay.extend(make_rows(start, min(start + 3, stop)))
    return replay


def drawn(replay: StreamReplay, count: int = 4) -> list[TensorDict]:
    """Batches, after each of which priorities and what is stored go back to a replay that has them."""
    batches = []
    for _ in range(count):
        batch = replay.sample()
        batches.append(batch.clone())
        if isinstance(replay, PrioritizedReplay):
            stored = 0.5 * batch["sequence", "stored"].transpose(0, 1)
            priority = batch["sequence", "reward"].sum(1)
            replay.write_back(Feedback(batch["index"], priority, 0.9 * batch["start_state"], stored))
    return batches


def assert_same(ones: list[TensorDict], others: list[TensorDict]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert (one == other).all()
