"""Parts of the loss of a deterministic policy: smoothed target actions, and values weighed against cloning.

Sources: Fujimoto, van Hoof & Meger 2018, "Addressing Function Approximation Error in Actor-Critic Methods" (TD3,
https://arxiv.org/abs/1802.09477), and Fujimoto & Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning"
(TD3+BC, https://arxiv.org/abs/2106.06860). Every function broadcasts over leading axes and reduces no rows.
"""

from __future__ import annotations

from torch import Tensor

SMALLEST_SIZE = 1e-8
"""Values of less than this size count as of this size: critics that are 0 everywhere would weigh infinitely."""


def smoothed_action(action: Tensor, noise: Tensor, deviation: float, limit: float) -> Tensor:
    """Actions in [-1, 1] with clipped noise, `clip(a + clip(deviation * noise, -limit, limit), -1, 1)` (TD3).

    Args:
        action: `[..., A]` of the target policy.
        noise: `[..., A]` standard normal draws.
        deviation: standard deviation of the noise before it is clipped, in units of the action.
        limit: largest size of the noise.
    """
    return (action + (deviation * noise).clamp(-limit, limit)).clamp(-1.0, 1.0)


def value_weight(alpha: float | Tensor, size: Tensor) -> Tensor:
    """`[M]` weight lambda of values against a cloning loss, `alpha / mean |Q|` (TD3+BC); no gradient passes.

    Args:
        alpha: weight of values whose mean size is 1, or `[M]` of them.
        size: `[M]` mean of `|Q(s, pi(s))|` over all rows.
    """
    return alpha / size.detach().clamp_min(SMALLEST_SIZE)


def action_distance(action: Tensor, data_action: Tensor) -> Tensor:
    """`[...]` squared distance of actions `[..., A]` from the data's, as a mean over dimensions (TD3+BC, its code)."""
    return (action - data_action).square().mean(-1)
