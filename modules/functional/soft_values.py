"""Values that reward entropy, and the weight of that reward, as pure functions.

Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (https://arxiv.org/abs/1812.05905),
equations 3 and 18; of numbered actions Christodoulou 2019, "Soft Actor-Critic for Discrete Action Settings"
(https://arxiv.org/abs/1910.07207), equations 10 and 11. Nothing is reduced.
"""

from __future__ import annotations

import math

from torch import Tensor


def entropy_bonus(log_prob: Tensor, temperature: Tensor) -> Tensor:
    """`-temperature * log_prob`: added to the value of an action, it makes the soft value of the state.

    Args:
        log_prob: `[..., M, B]` log-probability of an action, or its expectation, minus the entropy.
        temperature: `[M]` weight of the entropy.
    """
    return -temperature.unsqueeze(-1) * log_prob


def temperature_loss(log_temperature: Tensor, entropy: Tensor, floor: float) -> Tensor:
    """`log_temperature * (entropy - floor)`: descended, the temperature grows while the entropy is below its floor.

    The gradient is the distance from the floor whatever the temperature is, as in the authors' code; equation 18 has
    the temperature in the place of its logarithm.

    Args:
        log_temperature: `[M]`.
        entropy: `[M]` in nats; no gradient passes through it.
        floor: in nats.
    """
    return log_temperature * (entropy.detach() - floor)


def share_of_largest_entropy(actions: int, share: float) -> float:
    """`share * log n` in nats, of `n` numbered actions: their entropy is 0 at least and `log n` at most."""
    return share * math.log(actions)
