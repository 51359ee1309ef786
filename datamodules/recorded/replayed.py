"""Recorded episodes as the rows of a replay: those that an agent would have written that had played them itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from datamodules.recorded.converted import Converted
from datamodules.replay.buffered import BufferedReplay
from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import LatestWindows
from datamodules.replay.streams import OBSERVATION, STORED, StreamReplay
from datamodules.replay.torchrl_parts import gather
from modules.batch import by_name
from modules.contracts import Acting

AT_ONCE = 4096
"""Rows of all streams together that are written at a time."""


@dataclass(frozen=True)
class RecordedStreams:
    """Episodes end to end in `N` streams of `L` rows each, see `modules.batch.SequenceBatch`.

    An episode of `n` transitions has `n + 1` rows: its first observation, and what each transition led to. Where a
    stream is full within an episode, the rest is an episode of its own in the next stream, which begins at the
    observation that the first part was cut at: no transition but the last few of all is lost.

    Attributes:
        dataset: the converted dataset.
        transition: `[L, N]` transition that led to a row; of the first row of an episode, the one that follows it.
        is_first: `[L, N]` bool, the row is the first observation of its episode.
        is_last: `[L, N]` bool, the row is the last one of its episode, or of its part.
    """

    dataset: Converted
    transition: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray

    @classmethod
    def of(cls, dataset: Converted, episodes: np.ndarray, streams: int) -> RecordedStreams:
        """The rows of these episodes, dealt evenly to `N` streams.

        Raises:
            ValueError: there is not one transition for each stream.
        """
        starts, lengths = (dataset.episodes[name].numpy()[episodes] for name in ("start", "length"))
        starts, lengths = starts[lengths > 0], lengths[lengths > 0]  # a step of which nothing is known leaves none
        rows = lengths + 1
        within = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        transition = np.repeat(starts, rows) + np.maximum(within - 1, 0)
        is_first, is_last = within == 0, within == np.repeat(lengths, rows)
        if len(within) // streams < 2:
            raise ValueError(
                f"{dataset.metadata['name']}: {int(lengths.sum())} transitions are less than one for each of {streams} "
                "streams of the replay; use fewer environments or processes, or more data"
            )
        # A stream that begins within an episode has a row more: the observation that the stream before ended at.
        length, begin, parts = len(within) // streams, 0, []
        for _ in range(streams):
            reset = [] if is_first[begin] else [begin]
            place = np.concatenate([reset, np.arange(begin, begin + length - len(reset))]).astype(np.int64)
            first, last = is_first[place], is_last[place]
            first[0] = last[-1] = True
            if reset:
                last[0] = False
            parts.append((transition[place], first, last))
            begin += length - len(reset)
        return cls(dataset, *(np.stack(values, 1) for values in zip(*parts, strict=True)))

    def __len__(self) -> int:
        return len(self.transition)

    @property
    def streams(self) -> int:
        """Number of streams `N`."""
        return self.transition.shape[1]

    @property
    def steps(self) -> int:
        """Transitions in all streams together."""
        return int((~self.is_first).sum())

    def read(self, start: int, stop: int, fields: dict[str, Field], stored: Tensor | None) -> TensorDict:
        """`[t, N]` rows between two times.

        Args:
            start: the first time.
            stop: the time after the last.
            fields: fields of a row, by name.
            stored: `[W]` what every row holds of an agent's state; None for nothing.
        """
        size = (stop - start, self.streams)
        index = torch.from_numpy(self.transition[start:stop].reshape(-1))
        first, last = (torch.from_numpy(flags[start:stop].reshape(-1)) for flags in (self.is_first, self.is_last))
        # Everything of the transitions that led to the rows; the first rows show what they began with instead.
        led = self._fields(index, "action", "next/observation", "next/reward", "next/terminated")
        begun = self._fields(index[first], "observation")["observation"]
        observation, action = led["next/observation"], led["action"]
        observation[first] = begun
        action[first] = 0
        reward = led["next/reward"].view(-1).masked_fill(first, 0)
        terminated = (led["next/terminated"].view(-1) > 0.5) & ~first
        flags = {"is_first": first, "terminated": terminated, "truncated": last & ~terminated}
        rows: dict[str, Tensor] = {OBSERVATION: observation, "previous_action": action, "reward": reward, **flags}
        if stored is not None:
            rows[STORED] = stored.repeat(len(index), 1)
        typed: dict[Any, Tensor] = {name: values.to(fields[name].dtype) for name, values in rows.items()}
        return TensorDict(typed, [len(index)]).view(size)

    def _fields(self, index: Tensor, *names: str) -> dict[str, Tensor]:
        """`[n, ...]` fields of transitions, copied from the files."""
        files, columns = by_name(self.dataset.steps), self.dataset.columns
        row = gather(files["row"].as_subclass(Tensor), index) if any(name in columns for name in names) else None
        found = {}
        for name in names:
            column = columns.get(name)
            if row is not None and column is not None:
                found[name] = row[:, column.start : column.stop].reshape(len(index), *column.shape).clone()
            else:
                found[name] = gather(files[name].as_subclass(Tensor), index)
        return found


def check_replay(replay: StreamReplay, agent: object) -> None:
    """Refuse a replay that recorded rows cannot fill: they hold nothing of the state of the agent that learns.

    Args:
        replay: replay to be filled.
        agent: agent that learns from it; None for rows that nothing is stored with.

    Raises:
        ValueError: it draws what is newest, or hands out what the agent stored with each row and cannot do without.
    """
    name = type(replay).__name__
    if isinstance(replay, LatestWindows):
        raise ValueError(
            f"replay: {name} draws what the present policy did, which no recorded row is; use "
            "datamodules.replay.sequences.SequenceReplay"
        )
    if not isinstance(agent, Acting) or not agent.stored_width or agent.stored_optional:
        return
    if not isinstance(replay, PrioritizedReplay) or replay.stored_rows:
        raise ValueError(
            f"replay: {name} hands out what the agent stores with each row, and recorded rows hold nothing of it; an "
            "agent that only starts from a stored state can use datamodules.replay.prioritized.PrioritizedReplay "
            "without stored_rows"
        )


@torch.no_grad()
def fresh_state(agent: object) -> Tensor | None:
    """`[W]` what an agent stores before its first action; None for an agent that stores nothing."""
    if not isinstance(agent, Acting) or not agent.stored_width:
        return None
    return agent.stored_state(agent.initial_state(1))[0].float().cpu()


def fill(replay: BufferedReplay, recorded: RecordedStreams, stored: Tensor | None) -> None:
    """Write recorded rows into an empty replay.

    Args:
        replay: replay with as many streams.
        recorded: the rows.
        stored: result of `fresh_state`, which every row is stored with: a memory starts from there, and is warmed up by
            the rows before those that are learned from; what a model finds about observations is thereby lacking.

    Raises:
        ValueError: the replay has no room for all of them.
    """
    fields = replay.settings.row_fields()
    count = max(1, min(AT_ONCE // recorded.streams, replay.most_at_once))
    for start in range(0, len(recorded), count):
        replay.extend(recorded.read(start, min(start + count, len(recorded)), fields, stored))
    if replay.ring.oldest:
        times = math.ceil(10.0 * replay.ring.count / replay.ring.capacity) / 10.0
        raise ValueError(
            f"capacity: the replay has not enough room for {recorded.dataset.metadata['name']}; raise data.capacity to "
            f"{times:g} times as much, and some more for the steps to come"
        )
