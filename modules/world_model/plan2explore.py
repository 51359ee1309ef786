"""Exploration by disagreement: a second behaviour that goes where an ensemble of models differs.

Source: Sekar et al. 2020, "Planning to Explore via Self-Supervised World Models" (https://arxiv.org/abs/2005.05960).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from torch import Tensor

from modules.arguments.checks import check_counts, check_ranges
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.imagined import ImaginationNoise
from modules.world_model.latent_ensemble import LatentEnsemble
from modules.world_model.rssm import Observed, RecurrentModel


class Plan2Explore(LatentEnsemble):
    """An actor and a critic that are rewarded for the disagreement of an ensemble about the next latent.

    Args:
        space: space of the actions.
        rssm: the model that is explored.
        d_action: width of an action as the model sees it.
        behaviour: makes actor and critic, called with the action space and the width of the features.
        members: number of members `M` of the ensemble.
        hidden: widths of each member's hidden layers.
        lr: Adam learning rate of the ensemble.
        intrinsic_scale: scale of the disagreement in the reward.
        extrinsic_scale: scale of the environment's predicted reward.
        until: number of updates after which the agent collects with the behaviour of its task instead.

    Raises:
        ValueError: fewer than two members, or a negative number.
    """

    def __init__(
        self,
        space: gym.Space,
        rssm: RecurrentModel,
        d_action: int,
        behaviour: Callable[[gym.Space, int], ActorCritic],
        members: int = 10,
        hidden: list[int] = [400, 400, 400, 400],  # noqa: B006 - read only; a list is what YAML gives
        lr: float = 3e-4,
        intrinsic_scale: float = 1.0,
        extrinsic_scale: float = 0.0,
        until: int = 1_000_000,
    ) -> None:
        scales = (("intrinsic_scale", intrinsic_scale), ("extrinsic_scale", extrinsic_scale))
        check_ranges(*((name, scale, -1e12, 1e12) for name, scale in scales))
        check_counts(0, until=until)
        explorer = behaviour(space, rssm.width)
        super().__init__(rssm, d_action, members, hidden, lr)
        self.intrinsic_scale = intrinsic_scale
        self.extrinsic_scale = extrinsic_scale
        self.until = until
        self.behaviour = explorer

    def learn(
        self,
        rssm: RecurrentModel,
        observed: Observed,
        previous_action: Tensor,
        is_first: Tensor,
        first_discount: Tensor,
        reward: Callable[[Tensor, Tensor], Tensor],
        discount: Callable[[Tensor], Tensor],
        noise: ImaginationNoise,
        announce: Callable[..., Any] = lambda *_: None,
    ) -> dict[str, Tensor]:
        """One step of the ensemble on a window `[T, B, ...]` of the replay, then one of actor and critic.

        See `ActorCritic.learn`; the arguments up to `is_first` are the window's, without gradients.
        """
        state = observed.state
        found = self.fit(observed, previous_action, is_first)

        def curiosity(features: Tensor, actions: Tensor) -> Tensor:
            curious = self.intrinsic_scale * self.arrival(features, actions)
            return curious + self.extrinsic_scale * reward(features, actions) if self.extrinsic_scale else curious

        start = type(state)(state.h.flatten(0, 1), state.z.flatten(0, 1))
        metrics = self.behaviour.learn(rssm, start, first_discount, curiosity, discount, noise, announce)
        return found | metrics
