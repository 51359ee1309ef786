"""Targets and priorities of sequences that are parts of single episodes, time-major.

Source: Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning"
(https://openreview.net/forum?id=r1lyTjAqYX), section 2.3. Letters: `T` transitions, `G` discounts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.functional.returns import n_step_returns


class Backup(NamedTuple):
    """Targets of `T` rows as functions of the value of one later row each: `reward + discount * value[row]`.

    Attributes:
        reward: `[T, B, G]` discounted rewards up to the later row.
        discount: `[T, B, G]` factor on its value; 0 where the episode terminates before it.
        row: `[T, B]` int64 index of the later row.
        mask: `[T, B]` bool, whether something follows in the episode, so that there is a target.
    """

    reward: Tensor
    discount: Tensor
    row: Tensor
    mask: Tensor


def n_step_backup(reward: Tensor, terminated: Tensor, padding: Tensor, gamma: Tensor, n: int) -> Backup:
    """How the rewards and values of `T + 1` rows of one episode make the targets of the first `T`.

    A target looks `n` rows ahead, less at the end of the rows. Behind the end of the episode nothing is added or
    discounted, so that its last row stands for all that follow: its value counts if the episode was cut there, and not
    if it terminated.

    Args:
        reward: `[T + 1, B]` reward that was received on arriving at a row.
        terminated: `[T + 1, B]` bool, whether the row is a terminal state.
        padding: `[T + 1, B]` bool, whether the row lies behind the end of the episode.
        gamma: `[G]` discounts of a step.
        n: number of steps, at least 1.
    """
    follows = ~padding[1:]  # the step from a row to the next one was taken
    rewards = torch.where(follows, reward[1:], 0.0).unsqueeze(-1).expand(-1, -1, len(gamma))
    alive = (~terminated[1:]).unsqueeze(-1) * gamma
    discount = torch.where(follows.unsqueeze(-1), alive, 1.0)
    nothing = rewards.new_zeros(len(padding), *rewards.shape[1:])
    time = torch.arange(len(rewards), device=rewards.device).unsqueeze(1)
    return Backup(
        n_step_returns(rewards, discount, nothing, n),
        n_step_returns(torch.zeros_like(rewards), discount, nothing + 1.0, n),
        torch.minimum(time + n, follows.sum(0)),  # the number of steps is that of the last row
        follows,
    )


def plain_n_step_targets(
    reward: Tensor, terminated: Tensor, padding: Tensor, value: Tensor, gamma: Tensor, n: int
) -> Tensor:
    """The definition of the targets `reward + discount * value[row]` that `n_step_backup` makes: `n` discounted
    rewards, or those up to the end of the episode or of the rows, and the discounted value `[T + 1, B, G]` there.
    """
    targets = torch.zeros_like(value[:-1])
    for t, b, g in torch.cartesian_prod(*(torch.arange(size) for size in targets.shape)).tolist():
        total, discount, reached = 0.0, 1.0, t
        for k in range(t + 1, min(t + n, len(padding) - 1) + 1):
            if padding[k, b]:
                break
            total += discount * float(reward[k, b])
            discount, reached = discount * float(gamma[g]) * float(~terminated[k, b]), k
        targets[t, b, g] = total + discount * value[reached, b, g]
    return targets


def mixed_priority(error: Tensor, mask: Tensor, eta: float) -> Tensor:
    """`eta max |error| + (1 - eta) mean |error|` over the `[T, B]` errors in time that count by their mask: `[B]`."""
    size = error.abs() * mask
    return eta * size.amax(0) + (1.0 - eta) * size.sum(0) / mask.sum(0).clamp_min(1)


def choose(prediction: Tensor, action: Tensor) -> Tensor:
    """Choose the predictions of actions `[...]` from `[..., A]`, or `[..., A, K]`: `[...]`, or `[..., K]`."""
    index = action.reshape(*action.shape, *[1] * (prediction.ndim - action.ndim))
    return torch.take_along_dim(prediction, index, action.ndim).squeeze(action.ndim)
