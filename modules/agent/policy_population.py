"""A population of policies: how its members act, draw noise, and are given what they learn from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from modules.agent.population import Population
from modules.batch import Transition
from modules.functional.distributions import tanh_normal_sample
from modules.functional.transforms import from_unit, to_unit
from modules.networks.blocks import Normalize
from modules.networks.tanh_gaussian import DeterministicPolicy, TanhGaussianPolicy


class PolicyPopulation(LightningModule):
    """The part of an agent of `M` members that stacks their policies along the first axis of every weight."""

    population: Population
    rank: int
    normalize: Normalize
    actor: TanhGaussianPolicy
    average_actor: TanhGaussianPolicy | None
    action_low: Tensor
    action_high: Tensor

    @property
    def member_names(self) -> tuple[str, ...]:
        return self.population.names

    @property
    def acting(self) -> TanhGaussianPolicy:
        """The policy that acts: the average where one is kept, else the learned one."""
        return self.actor if self.average_actor is None else self.average_actor

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        mean, log_std = self.acting(self.normalize(observation).unflatten(0, (len(self.population), -1)))
        action = torch.tanh(mean + torch.exp(log_std) * torch.randn_like(mean) if explore else mean)
        return from_unit(action.flatten(0, 1), self.action_low, self.action_high), state

    def policy(self, member: int = 0) -> nn.Module:
        network = self.acting.network.member(member)
        return DeterministicPolicy(copy.deepcopy(self.normalize), network, self.action_low, self.action_high)

    def _sample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(observation)
        return tanh_normal_sample(mean, log_std, noise)

    def rank_state(self) -> dict[str, Any]:
        return {"noise": self.population.state_dict()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        self.population.load_state_dict(state["noise"], self.device, self.rank)

    def _split(self, transition: Transition, minibatches: int) -> Transition:
        """The rows `[M, B, ...]` that the members learn from: normalised observations, actions in [-1, 1]."""
        initial = transition.initial_observation
        prepared = transition._replace(
            observation=self.normalize(transition.observation),
            action=to_unit(transition.action, self.action_low, self.action_high),
            next_observation=self.normalize(transition.next_observation),
            initial_observation=None if initial is None else self.normalize(initial),
        )
        return Transition(*(x if x is None else self.population.spread(x, minibatches) for x in prepared))  # type: ignore[arg-type]
