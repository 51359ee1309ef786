"""Where sequences of single episodes end in parallel streams, and the rows that they are made of."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.streams import STORED
from datamodules.replay.torchrl_parts import PADDING, START_STATE, gather

PIECE = 64
"""Rows of each stream that are cut into sequences at a time."""


class Cuts(NamedTuple):
    """Sequences that are finished, in the order in which this is known.

    Attributes:
        stream: `[E]` int64.
        time: `[E]` int64 time of the last row that is not padding, counted since the beginning of the stream.
        position: `[E]` int64 of that row in its episode.
        order: `[E]` int64 of the sequence in its episode.
    """

    stream: Tensor
    time: Tensor
    position: Tensor
    order: Tensor


class EpisodeCutter:
    """The newest rows of `N` streams, and where the sequences in them end.

    Sequence `k` of an episode is trained on the transitions between its rows `k * stride` and `k * stride + trained`,
    as far as the episode goes. It is finished by the last of these rows, or by the end of the episode if that brings a
    transition which the one before lacks. With `every_start` the end also finishes all others that have a transition,
    up to `trained / stride` at once. A reset ends the episode before it too, though no flag says so. The same by loops
    is `plain_sequences`.

    Args:
        fields: fields of a row.
        streams: `N`.
        burn_in: rows before the trained ones.
        trained: transitions of a sequence.
        stride: rows from one sequence of an episode to the next.
        every_start: whether the last sequences of an episode need no transition of their own, so that there is one for
            every `stride` rows of an episode, and padding behind its end.
        stored_rows: whether a sequence holds what the agent stored with each of its rows; what it stored with the first
            row it always holds.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        streams: int,
        burn_in: int,
        trained: int,
        stride: int,
        *,
        every_start: bool = False,
        stored_rows: bool = False,
    ) -> None:
        self.streams = streams
        self.burn_in = burn_in
        self.trained = trained
        self.stride = stride
        self.every_start = every_start
        self.stored_rows = stored_rows
        self.rows = burn_in + trained + 1
        self.length = self.rows + PIECE  # a sequence may end before the piece that tells so
        self._ring = {name: torch.zeros(self.length, streams, *f.shape, dtype=f.dtype) for name, f in fields.items()}
        self.restart(0)

    def restart(self, count: int) -> None:
        """Forget the rows; so many are counted as written to each stream."""
        self.count = count
        self._position = np.full(self.streams, -1)  # of the newest rows in their episodes; -1 for none
        self._ended = np.zeros(self.streams, bool)

    def extend(self, rows: Mapping[str, Tensor]) -> Cuts:
        """Take at most `PIECE` further rows `[t, N, ...]`, by field."""
        first, start = rows["is_first"].numpy(), self.count % self.length
        steps = len(first)
        split = min(steps, self.length - start)
        for name, values in self._ring.items():
            values[start : start + split] = rows[name][:split]
            if split < steps:
                values[: steps - split] = rows[name][split:]
        time = np.arange(steps)[:, None]
        # Times count from the first of these rows, so that an episode which goes on began before 0.
        begin = np.maximum.accumulate(np.where(first, time, -1 - self._position))
        position = np.concatenate([self._position[None], time - begin])
        ended = np.concatenate([self._ended[None], (rows["terminated"] | rows["truncated"]).numpy()])
        # A reset is about the row before it: that the episode is over, unless this was known by then.
        last = np.where(first, position[:-1], position[1:])
        full = ~first & (last >= self.trained) & ((last - self.trained) % self.stride == 0)
        over = np.where(first, ~ended[:-1], ended[1:]) & (last > 0)
        when, stream = (full | over).nonzero()
        at, reset = last[when, stream], first[when, stream]
        oldest, newest = self._finished(at, reset, over[when, stream])
        finished = newest - oldest + 1
        each = np.repeat(np.arange(len(at)), finished)
        order = oldest[each] + np.arange(len(each)) - (np.cumsum(finished) - finished)[each]
        self._position = position[-1]
        self._ended = ended[-1]
        # What a reset tells of ended one row before it.
        when += self.count - reset
        self.count += steps
        return Cuts(*(torch.from_numpy(values) for values in (stream[each], when[each], at[each], order)))

    def _finished(self, at: np.ndarray, reset: np.ndarray, over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Orders `[e]` of the oldest and the newest sequence that rows at positions `[e]` of their episodes finish.

        Args:
            at: the positions.
            reset: whether only the reset behind a row tells that it is the last: a sequence that it filled is known.
            over: whether the row is the last one of its episode.
        """
        oldest = np.maximum(0, -((self.trained - at - reset) // self.stride))  # rounded up
        if self.every_start:
            return oldest, np.where(over, (at - 1) // self.stride, oldest)
        return oldest, np.maximum(0, -((self.trained - at) // self.stride))

    def read(self, cuts: Cuts) -> dict[str, Tensor]:
        """Rows `[E, L, ...]` of sequences that the latest `extend` finished, with `padding`; `start_state` `[E, W]`."""
        position = (cuts.order * self.stride - self.burn_in).unsqueeze(1) + torch.arange(self.rows)
        padding = (position < 0) | (position > cuts.position.unsqueeze(1))
        begin = cuts.time - cuts.position
        place = (begin.unsqueeze(1) + position) % self.length * self.streams + cuts.stream.unsqueeze(1)
        found = {PADDING: padding}
        for name, values in self._ring.items():
            flat = values.flatten(0, 1)
            if name == STORED:
                start = (begin + position[:, 0].clamp_min(0)) % self.length
                found[START_STATE] = flat[start * self.streams + cuts.stream]
                if not self.stored_rows:
                    continue
            found[name] = gather(flat, place.flatten()).view(*place.shape, *flat.shape[1:])
            found[name][padding] = 0
        return found

    def state_dict(self) -> dict[str, Any]:
        """The entries of a checkpoint: the rows that sequences to come may hold."""
        rows = {name: values[self._newest()] for name, values in self._ring.items()}
        flags = {"position": torch.tensor(self._position), "ended": torch.tensor(self._ended)}
        return {"count": self.count, "rows": rows, **flags}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.count = state["count"]
        self._position = state["position"].numpy().copy()
        self._ended = state["ended"].numpy().copy()
        for name, values in self._ring.items():
            values[self._newest()] = state["rows"][name]

    def _newest(self) -> Tensor:
        return torch.arange(self.count - self.rows, self.count) % self.length


def plain_sequences(
    rows: TensorDict, burn_in: int, trained: int, stride: int, *, every_start: bool = False
) -> list[tuple[int, int, list[int | None]]]:
    """The definition of the sequences that an `EpisodeCutter` finds in the `[t, N]` rows of a whole run.

    Returns:
        For each, in the order in which it is finished: the time of that, its stream, and the times of its rows, None
        for padding.
    """
    found: list[tuple[int, int, list[int | None]]] = []
    for stream in range(rows.shape[1]):
        first = [t for t in range(len(rows)) if rows["is_first"][t, stream]]
        for start, stop in zip(first, [*first[1:], len(rows)], strict=True):
            last = stop - 1
            flagged = bool(rows["terminated"][last, stream] | rows["truncated"][last, stream])
            over = stop < len(rows) or flagged
            for begin in itertools.count(start, stride):
                # A sequence that the end of the episode cuts short must bring a transition, of its own unless told.
                own = [
                    t
                    for t in range(begin, min(begin + trained, last))
                    if every_start or begin == start or t >= begin - stride + trained
                ]
                if not own or (begin + trained > last and not over):
                    break
                times = range(begin - burn_in, begin + trained + 1)
                known = begin + trained if begin + trained <= last else last if flagged else stop
                found.append((known, stream, [t if start <= t <= last else None for t in times]))
    return sorted(found, key=lambda item: item[:2])
