"""The foresight of a learned world model: windows led on by actions alone, for films, reports and probes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.agent.agent import Agent
from modules.arguments.checks import check_ranges
from modules.batch import SequenceBatch
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.imagined import by_step
from modules.world_model.rssm import State
from modules.world_model.world_model import WorldModel


class Prediction(NamedTuple):
    """Expectations of the model, `[T, B, ...]`: from observations first, then from actions alone.

    Attributes:
        observation: observations by key, in the environment's units; images as floats in [0, 255].
        reward: reward of arriving, in the units that the model learns.
        discount: discount of what follows.
    """

    observation: dict[str, Tensor]
    reward: Tensor
    discount: Tensor


class Foreseeing(Agent):
    """The part of an agent with a world model that leads recorded windows on without their observations.

    Attributes:
        world_model: the model.
        behaviour: what actions are encoded by.
        gamma: discount factor per step.
    """

    world_model: WorldModel
    behaviour: ActorCritic
    gamma: float

    @torch.no_grad()
    def open_loop(self, batch: SequenceBatch, context: int) -> Prediction:
        """Reconstruct the first `context` steps of a window, then predict the others from the recorded actions alone.

        Raises:
            ValueError: the window is not longer than the context, or there is none.
        """
        steps, rows = batch.reward.shape
        check_ranges(("context", context, 1, steps - 1))
        model, latent = self.world_model, self.world_model.rssm.latent
        action = self.behaviour.actor.encode(batch.previous_action)
        seen = {key: x[:context] for key, x in batch.observation.items()}
        noise = latent.noise(steps, rows, device=self.device)
        state = model.observe(seen, action[:context], batch.is_first[:context], noise[:context]).state
        last = State(state.h[-1], state.z[-1])
        imagined, _ = model.rssm.imagine(last, lambda _, t: action[context + t], noise[context:])
        features = torch.cat([state.features, imagined.features[1:]])
        return Prediction(model.decode(features), model.expected_reward(features), self._discount(features))

    @torch.no_grad()
    def latents(self, batch: SequenceBatch, steps: int) -> Tensor:
        """Features `[steps + 1, T, B, D]` inferred at every row, and led on along the recorded actions behind it."""
        shape = batch.reward.shape
        model, latent = self.world_model, self.world_model.rssm.latent
        action = self.behaviour.actor.encode(batch.previous_action)
        noise = latent.noise(*shape, device=self.device)
        state = model.observe(batch.observation, action, batch.is_first, noise).state
        start = State(*(x.flatten(0, 1) for x in state))
        ahead = [action.roll(-k, 0).flatten(0, 1) for k in range(1, steps + 1)]
        drawn = latent.noise(steps, len(start.h), device=self.device)
        imagined, _ = model.rssm.imagine(start, lambda _, t: ahead[t], drawn)
        return imagined.features.unflatten(1, shape)

    def _reward(self, features: Tensor, actions: Tensor) -> Tensor:
        return by_step(self.world_model.expected_reward, features)

    def _discount(self, features: Tensor) -> Tensor:
        return by_step(lambda x: self.world_model.expected_discount(x, self.gamma), features)
