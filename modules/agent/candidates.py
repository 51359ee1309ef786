"""Policies of several agents as one stack, to be compared on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from modules.agent.agent import Agent
from modules.agent.policy_population import PolicyPopulation
from modules.networks.action_units import BoxUnits, DiscreteUnits
from modules.networks.policies import TanhPolicy
from modules.networks.stacked_encoders import ImageFront
from modules.networks.trunks import Front, twin_action_values, twin_values, values_of
from modules.same_spaces import check_same_spaces


class Member(NamedTuple):
    """One candidate.

    Attributes:
        agent: position of its agent.
        place: position among the agent's members.
        name: the member's name, empty where the agent has one alone.
        hyperparameter: name of what differs between the members, empty where only seeds do.
        value: its value.
    """

    agent: int
    place: int
    name: str
    hyperparameter: str
    value: float


class Policies(Protocol):
    """`K` fixed policies of one pair of spaces; actions are a model's, see `modules.networks.action_units`.

    Attributes:
        units: units of the actions.
        hidden: widths of the policies' hidden layers.
        front: networks before the layers of every value function, such as encoders of images; None for none.
    """

    units: BoxUnits | DiscreteUnits
    hidden: Sequence[int]
    front: Front | None

    def __len__(self) -> int:
        """Number of policies `K`."""

    def normalize(self, observation: Tensor) -> Tensor:
        """`[..., D]` observations as the value functions are to see them."""

    def likeliest(self, observation: Tensor) -> Tensor:
        """`[B, D]` raw observations to each policy's most likely actions, `[K, B, A]` or `[K, B]`."""


class Candidates:
    """The living members of agents that were trained on the same spaces, in their order: `K` policies.

    Args:
        agents: agents, in evaluation mode.
        names: what messages call each agent, such as its checkpoint; by default its class.
        device: device of all that follows.

    Attributes:
        members: the `K` candidates.
        diverged: members that are not alive, or whose policies are not finite, and are left out.
        units: units of the actions.
        hidden: widths of the first agent's hidden layers.
        front: encoders of the first agent's networks, where observations are images; else None.

    Raises:
        ValueError: an agent is no population of policies without memory, or was trained on other spaces than the first,
            or no member lives.
    """

    def __init__(self, agents: Sequence[Agent], names: Sequence[str] = (), device: str | torch.device = "cpu") -> None:
        names = names or [type(agent).__name__ for agent in agents]
        self.agents: list[PolicyPopulation] = []
        self.members: list[Member] = []
        self.diverged: list[Member] = []
        for position, (agent, name) in enumerate(zip(agents, names, strict=True)):
            if not isinstance(agent, PolicyPopulation):
                raise ValueError(
                    f"{name} holds a {type(agent).__name__}; agents that learn from recorded transitions are compared, "
                    "such as ATAC, TD3BC, IQL, CQL and BehaviorCloning"
                )
            try:
                check_same_spaces(name, agent.spaces, names[0], agents[0].spaces)
            except ValueError as error:
                raise ValueError(
                    f"{name} acts in other spaces than {names[0]} does; give checkpoints of one environment"
                ) from error
            self.agents.append(agent.to(device))
            # Its members, by what differs between them; those that diverged have no policy.
            values, alive = agent.population.per_member().tolist(), agent.alive or [True] * len(agent.population)
            finite = _finite(agent, agent.spaces.observation.shape or ())
            for index, lives in enumerate(own and acts for own, acts in zip(alive, finite, strict=True)):
                kind = agent.population.hyperparameter
                member = Member(position, index, agent.member_names[index], kind, values[index])
                (self.members if lives else self.diverged).append(member)
        if not self.members:
            raise ValueError(f"no member of {', '.join(names)} is alive; there is nothing to choose from")
        self.units = self.agents[0].units
        self.hidden: Sequence[int] = getattr(self.agents[0], "hidden", (256, 256))
        trunk = getattr(self.agents[0], "trunk", None)
        self.front: Front | None = replace(trunk, trunk=None) if isinstance(trunk, ImageFront) else None
        self._living = [
            torch.tensor([m.place for m in self.members if m.agent == i], dtype=torch.int64, device=device)
            for i in range(len(agents))
        ]

    def __len__(self) -> int:
        return len(self.members)

    def normalize(self, observation: Tensor) -> Tensor:
        """`[..., D]` observations as the first agent normalises them; of images `[..., H, W, C]` their pixels."""
        normalized: Tensor = self.agents[0].normalize(observation)
        return normalized

    @torch.no_grad()
    def likeliest(self, observation: Tensor) -> Tensor:
        """`[B, D]` raw observations to the most likely actions, `[K, B, A]` in [-1, 1] or int64 `[K, B]`."""
        return torch.cat(
            [a.acting.likeliest(self._rows(a, observation))[m] for a, m in zip(self.agents, self._living, strict=True)]
        )

    @torch.no_grad()
    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """`[K, B]` log-probability of actions `[B, ...]`, a model's; NaN of deterministic policies."""
        found = []
        for agent, living in zip(self.agents, self._living, strict=True):
            policy = agent.acting
            if isinstance(policy, TanhPolicy):
                found.append(torch.full((len(living), len(observation)), torch.nan, device=observation.device))
                continue
            repeated = action.expand(len(agent.population), *action.shape)
            found.append(policy.log_prob(repeated, *policy(self._rows(agent, observation))).sum(-1)[living])
        return torch.cat(found)

    @torch.no_grad()
    def critics(self, observation: Tensor, action: Tensor) -> Tensor:
        """`[K, B]` mean of each member's own critics at actions `[K, B, ...]`, a model's; NaN where it has none.

        They are in the units of the rewards that it learned from.
        """
        found = []
        for position, (agent, living) in enumerate(zip(self.agents, self._living, strict=True)):
            critic = getattr(agent, "critic", None)
            mine = [i for i, member in enumerate(self.members) if member.agent == position]
            if critic is None or not mine:
                found.append(torch.full((len(mine), len(observation)), torch.nan, device=observation.device))
                continue
            # Members that do not live are passed, too, with an action of the first that does.
            rows, given = self._rows(agent, observation), action[mine[:1]].repeat_interleave(len(agent.population), 0)
            given[living] = action[mine]
            if agent.units.discrete:
                values = values_of(twin_action_values(critic, rows), given)
            else:
                values = twin_values(critic, rows, given)
            found.append(values.mean(0)[living])
        return torch.cat(found)

    def _rows(self, agent: PolicyPopulation, observation: Tensor) -> Tensor:
        rows: Tensor = agent.normalize(observation)
        return rows.expand(len(agent.population), *rows.shape)


@torch.no_grad()
def _finite(agent: PolicyPopulation, shape: Sequence[int]) -> list[bool]:
    """Which members have policies that are finite, by their outputs at an observation `shape` of zeros."""
    rows = agent.normalize(torch.zeros(1, *shape, device=agent.device))
    output = agent.acting.network(rows.expand(len(agent.population), *rows.shape))
    finite: list[bool] = output.isfinite().flatten(1).all(1).tolist()
    return finite
