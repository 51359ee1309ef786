"""The value of a state by twin critics: what is looked up where a lookahead ends."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from modules.agent.policy_population import PolicyPopulation
from modules.networks.ensemble import EnsembleMLP
from modules.networks.trunks import CRITICS, EnsembleTrunk


class LeastValue(nn.Module):
    """The lesser of one member's two critics at its policy's most likely action: raw `[R, D]` to `[R]`.

    Args:
        agent: agent whose `critic` is made by `make_twin_critics`.
        critics: that critic.
        member: index of the member.
    """

    def __init__(self, agent: PolicyPopulation, critics: EnsembleMLP | EnsembleTrunk, member: int) -> None:
        super().__init__()
        members = len(agent.population)
        self.policy = agent.policy(member)
        self.critics = nn.ModuleList(critics.member(c * members + member) for c in range(CRITICS))
        self.normalize = copy.deepcopy(agent.normalize)
        self.units = copy.deepcopy(agent.units)

    def forward(self, observation: Tensor) -> Tensor:
        """Values of states."""
        action, rows = self.units.learned(self.policy(observation)), self.normalize(observation)
        if self.units.discrete:
            values = [critic(rows).gather(-1, action.unsqueeze(-1)) for critic in self.critics]
        else:
            values = [critic(torch.cat([rows, action], -1)) for critic in self.critics]
        return torch.cat(values, -1).amin(-1)


def state_value(agent: PolicyPopulation, member: int) -> LeastValue | None:
    """The value of a member of an agent; None of one that has no twin critics."""
    critics = getattr(agent, "critic", None)
    return LeastValue(agent, critics, member) if isinstance(critics, EnsembleMLP | EnsembleTrunk) else None
