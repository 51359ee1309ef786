"""Returns of trajectories, time-major."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float | Tensor) -> Tensor:
    """Exponentially weighted mean of all n-step returns, from the last step back.

    `G_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda G_{t+1})` with `G_T = v_T`.

    Source: Sutton & Barto 2018, section 12.1; Hafner et al. 2021, "Mastering Atari with Discrete World Models"
    (https://arxiv.org/abs/2010.02193), equation 4. Gradients flow into all arguments.

    Args:
        reward: `[T, ...]` reward of step `t`.
        discount: `[T, ...]` factor on what follows step `t`; 0 where nothing does.
        value: `[T + 1, ...]` values; row `t + 1` is of what follows step `t`, and the last row is the bootstrap.
        lambda_: 0 for one-step returns, 1 for the sum of all rewards and the bootstrap.

    Returns:
        `[T, ...]`.
    """
    first = torch.addcmul(reward, discount, (1.0 - lambda_) * value[1:])
    carry = lambda_ * discount
    following, returns = value[-1], []
    for one, share in zip(reversed(first.unbind()), reversed(carry.unbind()), strict=True):
        following = torch.addcmul(one, share, following)
        returns.append(following)
    return torch.stack(returns[::-1])
