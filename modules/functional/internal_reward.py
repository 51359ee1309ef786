"""A reward that an agent gives itself for what happens, apart from what it is judged by.

Source: Jaderberg et al. 2019, "Human-level performance in 3D multiplayer games with population-based reinforcement
learning" (Science 364, https://arxiv.org/abs/1807.01281): the weights are evolved, so that who learns from them wins.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def internal_reward(events: Tensor, weights: Sequence[float]) -> Tensor:
    """`r = w . rho`, the weighted sum of the events of a step.

    Args:
        events: `[..., K]` what happened in the step, of any dtype, such as 1 for each event that did.
        weights: `K` weights, in the unit of rewards.

    Returns:
        `[...]` float32 rewards.
    """
    events = events.float()
    return events @ events.new_tensor(weights)
