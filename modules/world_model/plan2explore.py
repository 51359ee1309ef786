"""Exploration by disagreement: a second behaviour that goes where an ensemble of models differs.

Source: Sekar et al. 2020, "Planning to Explore via Self-Supervised World Models" (https://arxiv.org/abs/2005.05960).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from modules.agent.descent import descend_clipped, make_adam
from modules.arguments.checks import check_counts, check_ranges, check_widths
from modules.networks.ensemble import EnsembleMLP, xavier_normal
from modules.world_model.actor_critic import ADAM_EPS, CLIP_NORM, DECAY, ActorCritic
from modules.world_model.imagined import ImaginationNoise, by_step
from modules.world_model.rssm import Observed, RecurrentModel


class Plan2Explore(nn.Module):
    """An ensemble that predicts the next latent, and an actor and a critic that are rewarded for its disagreement.

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
        super().__init__()
        check_counts(2, members=members)  # one alone has nobody to disagree with
        check_counts(0, until=until)
        check_widths(members=members, hidden=hidden)
        scales = (("intrinsic_scale", intrinsic_scale), ("extrinsic_scale", extrinsic_scale))
        check_ranges(("lr", lr, 0.0, 1e3), *((name, scale, -1e12, 1e12) for name, scale in scales))
        self.intrinsic_scale = intrinsic_scale
        self.extrinsic_scale = extrinsic_scale
        self.until = until
        self.behaviour = behaviour(space, rssm.width)
        self.ensemble = EnsembleMLP(members, rssm.width + d_action, hidden, rssm.latent.width, xavier_normal)
        self.members = members
        self.optimizer = make_adam(self.ensemble.parameters(), lr, ADAM_EPS)

    def predict(self, features: Tensor, action: Tensor) -> Tensor:
        """Every member's next latent, `[M, N, S]`, from features `[N, D]` and the action `[N, A]` taken there."""
        return self.ensemble(torch.cat([features, action], -1).expand(self.members, -1, -1))

    def disagreement(self, features: Tensor, action: Tensor) -> Tensor:
        """Standard deviation over members, mean over the latent: `[..., D]` and `[..., A]` to `[...]`."""
        predicted = self.predict(features.flatten(0, -2), action.flatten(0, -2))
        return predicted.std(0, correction=0).mean(-1).unflatten(0, features.shape[:-1])

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
        inputs = state.features[:-1].flatten(0, 1), previous_action[1:].flatten(0, 1)
        error = 0.5 * (self.predict(*inputs) - state.z[1:].flatten(0, 1)).square().sum(-1)
        within = (~is_first[1:]).flatten().float()  # no model can know the start of the next episode
        loss = (error * within).mean()
        descend_clipped(self.optimizer, loss, CLIP_NORM, DECAY)

        def curiosity(features: Tensor, actions: Tensor) -> Tensor:
            found = self.intrinsic_scale * by_step(self.disagreement, features[:-1], actions[:-1])
            arrival = torch.cat([torch.zeros_like(found[:1]), found])  # a reward belongs to the state it leads to
            return arrival + self.extrinsic_scale * reward(features, actions) if self.extrinsic_scale else arrival

        start = type(state)(state.h.flatten(0, 1), state.z.flatten(0, 1))
        metrics = self.behaviour.learn(rssm, start, first_discount, curiosity, discount, noise, announce)
        return {"ensemble_loss": loss.detach(), **metrics}
