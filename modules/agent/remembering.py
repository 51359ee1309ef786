"""A policy's memory in windows of what it did: what it sees, what is carried where it acts, what a replay stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modules.batch import StoredWindows
from modules.contracts import ReplayOffer
from modules.networks.recurrent import Memory

MakeMemory = Callable[[int], Memory]
"""Makes a memory from the width of its input."""


class Past(NamedTuple):
    """The steps that led to rows.

    Attributes:
        previous_action: `[T, B, ...]` actions in the environment's units.
        reward: `[T, B]` rewards of these.
        is_first: `[T, B]` bool, whether nothing led to the row: it begins an episode.
    """

    previous_action: Tensor
    reward: Tensor
    is_first: Tensor


class Carried(NamedTuple):
    """State that an agent with a memory carries from one step to the next.

    Attributes:
        memory: `[B, S]` state of the memory.
        action: `[B, ...]` last action.
        reward: `[B]` reward of that action.
        first: `[B]` bool, whether no action was taken yet.
        log_prob: `[B]` log-probability of the last action.
        noise: `[B, Z]` that the memory took before that action.
    """

    memory: Tensor
    action: Tensor
    reward: Tensor
    first: Tensor
    log_prob: Tensor
    noise: Tensor

    def stored(self) -> Tensor:
        """The part that a replay stores, `[B, 1 + Z + S]`: log-probability, noise, and the memory's state."""
        return torch.cat([self.log_prob.unsqueeze(-1), self.noise, self.memory], -1)


def stored_width(memory: Memory) -> int:
    """Width of what a replay stores of a state `Carried`."""
    return 1 + memory.noise_width + memory.state_width


def start_and_noise(memory: Memory, batch: StoredWindows, drawn: Tensor | None) -> tuple[Tensor, Tensor]:
    """The memory's state `[B, S]` before windows, and its noise `[T, B, Z]` in their rows, as where they were played.

    Args:
        memory: the memory.
        batch: `[T, B]` windows.
        drawn: `[T, B, Z]` noise for rows that no action followed; None for zeros.
    """
    rows, stored = batch
    width = 1 + memory.noise_width
    played = stored[1:, :, 1:width]  # what an action was taken with stands in the row that it led to
    drawn = stored.new_zeros(len(stored), *played.shape[1:]) if drawn is None else drawn
    played = torch.where(rows.is_first[1:].unsqueeze(-1), drawn[:-1], played)
    return stored[0, :, width:], torch.cat([played, drawn[-1:]])


def check_longest(memory: Memory, replay: ReplayOffer) -> None:
    """Refuse windows that a memory cannot unroll over at once.

    Raises:
        ValueError: they may have more rows than it takes.
    """
    most = 2 * replay.rows if replay.fresh else replay.rows  # one row more for each reset that came in between
    if memory.longest is not None and most > memory.longest:
        raise ValueError(
            f"a window has up to {most} rows, and the agent's memory holds {memory.longest}: set the rows of "
            f"model.memory to {most} or more, or shorten data.sequence_length"
        )
