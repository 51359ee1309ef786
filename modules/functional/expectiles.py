"""Expectiles by regression, and weights of imitation by advantages, as pure functions of values.

Source: Kostrikov, Nair & Levine 2021, "Offline Reinforcement Learning with Implicit Q-Learning"
(https://arxiv.org/abs/2110.06169), equations 5 and 7. Every function broadcasts over leading axes and reduces nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expectile_loss(error: Tensor, expectile: float | Tensor) -> Tensor:
    """`|expectile - 1[error < 0]| * error^2`: minimised in the mean by the expectile of the numbers.

    Args:
        error: `[..., B]` number minus estimate.
        expectile: weight of the errors above 0, in (0, 1), against one minus it of those below; 0.5 gives half the
            squared error, whose minimum is the mean, and a larger one comes nearer to the maximum. A tensor that
            broadcasts gives each member its own.
    """
    return (expectile - (error < 0).to(error.dtype)).abs() * error.square()


def advantage_weight(advantage: Tensor, inverse_temperature: float, ceiling: float) -> Tensor:
    """`min(exp(inverse_temperature * advantage), ceiling)`: how much an action is imitated, `[..., B]`.

    Args:
        advantage: `[..., B]` value of the action minus that of the state.
        inverse_temperature: 0 imitates all actions alike; the larger, the more the best ones alone.
        ceiling: largest weight.
    """
    return torch.exp(inverse_temperature * advantage).clamp(max=ceiling)
