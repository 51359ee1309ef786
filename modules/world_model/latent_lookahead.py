"""A world model that is looked ahead in: its states are imagined, and seen by the policy and the value of its agent."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from modules.world_model.actor_critic import ActorCritic
from modules.world_model.rssm import State
from modules.world_model.world_model import WorldModel


class ActsInLatents(Protocol):
    """An agent that acts on the states of its world model, with a memory of `state` and `action`.

    Attributes:
        world_model: the model.
        behaviour: actor and critic on its features.
        gamma: discount factor per step.
    """

    world_model: WorldModel
    behaviour: ActorCritic
    gamma: float

    def initial_state(self, batch: int) -> Any:
        """Memory of `batch` fresh episodes."""

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        """Actions and the memory with the observation in it."""

    def acted(self, state: Any, action: Tensor) -> Any:
        """The memory with another action than its own."""


class LatentRows(NamedTuple):
    """Imagined states `[N * C, ...]`.

    Attributes:
        state: state of the model.
        copies: number `C` of rows that belong to one observation, and meet the same chance.
    """

    state: State
    copies: int


class LatentLookahead:
    """A world model as `modules.lookahead_contracts.PlansAhead` and `Remembers` want it: one opinion.

    As in the agent's own imagination, the reward of a step is that of the state before it, and so is the chance that
    the episode is over: the critic's value of a state begins with the reward of arriving there.

    Args:
        agent: agent whose model it is.
    """

    opinions = 1

    def __init__(self, agent: ActsInLatents) -> None:
        self.agent = agent
        self.actor = agent.behaviour.actor

    def initial_state(self, batch: int) -> Any:
        """The agent's own."""
        return self.agent.initial_state(batch)

    def observe(self, observation: Any, memory: Any) -> Any:
        """Infer the state that the observation shows; the action in the memory is then the base policy's."""
        return self.agent.act(observation, memory, explore=False)[1]

    def acted(self, memory: Any, action: Tensor) -> Any:
        """Note another action than the base policy's."""
        return self.agent.acted(memory, action)

    def begin(self, memory: Any, copies: int) -> LatentRows:
        """The inferred states, each so many times."""
        return LatentRows(State(*(x.repeat_interleave(copies, 0) for x in memory.state)), copies)

    def keep(self, state: LatentRows) -> State:
        """The state of the model."""
        return state.state

    def back(self, kept: State) -> LatentRows:
        """Imagined states, each of which meets a chance of its own."""
        return LatentRows(kept, 1)

    def view(self, state: LatentRows) -> Tensor:
        """Features `[R, F]`."""
        return state.state.features

    @torch.no_grad()
    def step(self, state: LatentRows, action: Tensor) -> tuple[LatentRows, Tensor, Tensor]:
        """Imagine one step; copies of one observation draw the same random numbers for their latents."""
        model, features = self.agent.world_model, state.state.features
        reward = model.expected_reward(features)
        ended = 1.0 - (model.expected_discount(features, self.agent.gamma) / max(self.agent.gamma, 1e-12)).clamp(0, 1)
        noise = model.rssm.latent.noise(len(features) // state.copies, device=features.device)
        noise = noise.repeat_interleave(state.copies, 0)
        after = model.rssm.imagine_step(*state.state, self.actor.encode(action), noise)
        return LatentRows(State(*after), state.copies), reward, ended

    def policy(self, features: Tensor) -> Tensor:
        """The agent's most likely actions, in the environment's units."""
        return self.actor.decode(self.actor.mode(self.actor(features)))

    def value(self, features: Tensor) -> Tensor:
        """The agent's values `[R]`."""
        critic = self.agent.behaviour.critic
        return critic.mean(critic(features))
