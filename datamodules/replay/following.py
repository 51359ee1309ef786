"""Which episodes the sequences in a replay are of, and which of them follow each other there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from datamodules.replay.episode_cutter import Cuts
from datamodules.replay.ring_buffer import RingBuffer


class Following:
    """The episode of each one in a ring of sequences, and the next sequence there, where it is known and still there.

    Args:
        ring: ring of the sequences.
        streams: streams of experience that they are cut from, `N`.
    """

    def __init__(self, ring: RingBuffer, streams: int) -> None:
        self.ring = ring
        self.streams = streams
        self._newest = torch.full((streams,), -1)  # number of the newest sequence of each stream
        self._next = torch.full((ring.capacity,), -1)  # by slot: number of the one that follows in the episode; or -1
        self._episode = torch.full((ring.capacity,), -1)  # by slot, a name that no other episode has

    def add(self, cuts: Cuts, first: int) -> None:
        """Know sequences that were written, numbered from `first`, whose episodes go by where they began."""
        slots = (first + torch.arange(len(cuts.time))) % self.ring.capacity
        self._episode[slots] = (cuts.time - cuts.position) * self.streams + cuts.stream
        number = first
        for stream, order in zip(cuts.stream.tolist(), cuts.order.tolist(), strict=True):
            before = int(self._newest[stream])
            if order and before >= self.ring.oldest:
                self._next[before % self.ring.capacity] = number
            self._newest[stream] = number
            number += 1

    def forget(self, slots: Tensor) -> None:
        """Know of the sequences in slots `[n]` neither what they follow nor what follows them: each has an episode."""
        numbers = self.ring.numbers(slots)
        self._next[slots] = -1
        self._episode[slots] = -1 - numbers
        if (numbers <= self._newest.max()).any():  # or none can follow another yet, and not all links are looked at
            self._next[torch.isin(self._next, numbers)] = -1

    def forget_all(self) -> None:
        """Know of no sequence what follows it: each has an episode of its own."""
        self._newest.fill_(-1)
        self._next.fill_(-1)
        self._episode = -1 - self.ring.numbers(torch.arange(self.ring.capacity))

    def of(self, slots: Tensor) -> Tensor:
        """Numbers `[n]` of the sequences that follow those in slots `[n]`; -1 for none."""
        return self._next[slots]

    def episodes(self, slots: Tensor) -> Tensor:
        """Names `[n]` of the episodes of the sequences in slots `[n]`."""
        return self._episode[slots]

    def state_dict(self) -> dict[str, Any]:
        """The entries of a checkpoint."""
        return {"newest": self._newest.clone(), "next": self._next.clone(), "episode": self._episode.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._newest = state["newest"].clone()
        self._next = state["next"].clone()
        self._episode = state["episode"].clone()
