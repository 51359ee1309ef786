"""A model of what a step does inside of an agent: how it learns, and the imagined steps that the agent learns from.

Imagined steps begin in recorded states, are a few steps long, and are drawn from the model: short ones, since errors
of a model add up along an episode (Janner et al. 2019, MBPO, https://arxiv.org/abs/1906.08253).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_group, check_ranges, check_sizes, check_widths
from modules.batch import Transition
from modules.networks.dynamics import StackedDynamics

STEP = ("observation", "action", "reward", "next_observation", "terminated")
"""Fields of a `Transition` that are kept of an imagined step, which no time limit cuts."""

Player = Callable[[Tensor, Tensor], Tensor]
"""Actions `[M, B, A]` of a policy in states `[M, B, D]`, by standard normal draws `[M, B, A]`."""


@dataclass(frozen=True)
class DynamicsUpdates:
    """How an agent's model of a step learns.

    Args:
        hidden: widths of the hidden layers.
        lr: Adam learning rate.
        terminations: whether terminal states are predicted, too; without, no imagined episode ends.
        adversarial: weight of the value that the model gives the policy above that of the reference policy, in units
            of the mean size of the latter, against the likelihood of the data; 0 leaves the model to the data.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `dynamics.lr` and so on.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {"terminations": "the model has learned as it was made"}

    hidden: tuple[int, ...] = (200, 200)
    lr: float = 5e-4
    terminations: bool = True
    adversarial: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no model."""
        check_group("dynamics", self)
        check_widths(**{"dynamics.hidden": self.hidden})
        check_ranges(("dynamics.lr", self.lr, 0.0, 1e3), ("dynamics.adversarial", self.adversarial, 0.0, 1e6))


@dataclass(frozen=True)
class RolloutPlan:
    """How far, how often and how many steps are imagined.

    Args:
        horizon: steps from a recorded state on.
        interval: updates between two times at which steps are imagined, from all states of a minibatch.
        capacity: newest imagined steps that are kept for each member.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `rollouts.horizon` and so on.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {"capacity": "the steps in the checkpoint fill a ring of its size"}

    horizon: int = 5
    interval: int = 10
    capacity: int = 50_000

    def __post_init__(self) -> None:
        """Refuse what is no number of steps."""
        check_group("rollouts", self)
        check_sizes(**{f"rollouts.{name}": getattr(self, name) for name in ("horizon", "interval", "capacity")})


class ImaginedSteps(nn.Module):
    """The newest imagined steps of `M` members, a ring of rows `[M, capacity, ...]`.

    It is no part of the weights: every process imagines its own. `content` and `restore` are for checkpoints.

    Args:
        members: number of members `M`.
        capacity: rows of each member.
        d_observation: width `D` of an observation.
        d_action: width `A` of an action.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    place: Tensor
    filled: Tensor

    def __init__(self, members: int, capacity: int, d_observation: int, d_action: int) -> None:
        super().__init__()
        self.capacity = capacity
        rows = {
            "observation": torch.zeros(members, capacity, d_observation),
            "action": torch.zeros(members, capacity, d_action),
            "reward": torch.zeros(members, capacity),
            "next_observation": torch.zeros(members, capacity, d_observation),
            "terminated": torch.zeros(members, capacity, dtype=torch.bool),
            "place": torch.tensor(0),
            "filled": torch.tensor(0),
        }
        for name, buffer in rows.items():
            self.register_buffer(name, buffer, persistent=False)

    def write(self, steps: Transition) -> None:
        """Take in rows `[M, N, ...]`, at most as many as the ring has, in the place of the oldest."""
        count = steps.reward.shape[1]
        index = (self.place + torch.arange(count, device=self.place.device)) % self.capacity
        for name in STEP:
            getattr(self, name).index_copy_(1, index, getattr(steps, name))
        self.place.copy_((self.place + count) % self.capacity)
        self.filled.copy_((self.filled + count).clamp(max=self.capacity))

    def sample(self, share: Tensor) -> Transition:
        """Rows `[M, B, ...]` at these shares `[M, B]` in [0, 1] of what is filled, that is uniform ones for uniform
        shares.
        """
        index = torch.minimum((share * self.filled).long(), self.filled - 1)
        member = torch.arange(len(index), device=index.device).unsqueeze(-1)
        observation, action, reward, following, ended = (getattr(self, name)[member, index] for name in STEP)
        return Transition(observation, action, reward, following, ended, torch.zeros_like(ended))

    def content(self) -> dict[str, Tensor]:
        """All rows, and where the ring stands."""
        return dict(self.named_buffers())

    def restore(self, content: Mapping[str, Tensor]) -> None:
        """Inverse of `content`."""
        for name, buffer in self.named_buffers():
            buffer.copy_(content[name])


def rollout_noise_width(d_observation: int, d_action: int) -> int:
    """Number of standard normal draws that one imagined step takes: for the action, the step, and its end."""
    return d_action + d_observation + 2


@torch.no_grad()
def imagine(dynamics: StackedDynamics, players: Sequence[Player], start: Tensor, noise: Tensor) -> Transition:
    """Steps of `P` policies in a model, drawn from it; an episode that ends begins anew where it started.

    Args:
        dynamics: `M` models of normalised observations.
        players: the policies.
        start: `[M, B, D]` states that every policy begins in.
        noise: `[M, H, P * B, W]` standard normal draws, of the width of `rollout_noise_width`.

    Returns:
        `[M, H * P * B, ...]` steps, time by time, and within each policy by policy.
    """
    start = start.repeat(1, len(players), 1)
    state, steps = start, []
    for draws in noise.unbind(1):
        by_action, by_step, by_end = draws.split([draws.shape[-1] - start.shape[-1] - 2, start.shape[-1] + 1, 1], -1)
        parts = zip(players, state.chunk(len(players), 1), by_action.chunk(len(players), 1), strict=True)
        action = torch.cat([play(seen, eps) for play, seen, eps in parts], 1)
        predicted = dynamics(state, action)
        drawn = predicted.sample(by_step)
        following = state + drawn[..., :-1]
        ended = torch.special.ndtr(by_end.squeeze(-1)) < predicted.chance_of_ending()
        steps.append(Transition(state, action, drawn[..., -1], following, ended, torch.zeros_like(ended)))
        state = torch.where(ended.unsqueeze(-1), start, following)
    return Transition(*(torch.cat(rows, 1) for rows in zip(*(step[:6] for step in steps), strict=True)))
