"""How the critics and the policy of an actor-critic learn from a minibatch: settings that a person changes together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_counts, check_group, check_intervals, check_ranges
from modules.functional.pessimism import bellman_backup, dqra_loss
from modules.functional.transforms import clip_straight_through
from modules.networks.ensemble import project_weights


@dataclass(frozen=True)
class CriticUpdates:
    """How a pair of critics learns.

    Args:
        roles: `twin` treats both critics alike; `split` trains the first by temporal differences alone, and the second,
            which the actor then follows, with pessimism and the Bellman residual.
        target_rate: share of the online critics that moves into the target critics at each update.
        residual_weight: share of the Bellman residual in the DQRA loss; the rest is temporal-difference error.
        projection_radius: Frobenius radius of each critic weight matrix; null for no projection.
        value_range: clip of bootstrapped values, straight-through; null for no clip.
        layer_norm: whether the hidden layers of the critics are normalised (Ball et al. 2023, RLPD,
            https://arxiv.org/abs/2302.02948): their values then stay bounded at actions that the data do not hold.
        clip: `value_range` clips the `bootstrap` value in the target, or the whole `backup` in target and residual; it
            says nothing where there is no range.

    Raises:
        ValueError: a field is of another type, none of its choices, or outside its range; it is named as
            `critic.target_rate` and so on.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {"layer_norm": "the critics have learned as they were made"}

    roles: Literal["twin", "split"] = "twin"
    target_rate: float = 0.005
    residual_weight: float = 0.5
    projection_radius: float | None = 100.0
    layer_norm: bool = False
    value_range: tuple[float, float] | None = None
    clip: Literal["bootstrap", "backup"] = "bootstrap"

    def __post_init__(self) -> None:
        """Refuse what is no share, no radius or no interval."""
        check_group("critic", self)
        check_ranges(
            ("critic.target_rate", self.target_rate, 0.0, 1.0),
            ("critic.residual_weight", self.residual_weight, 0.0, 1.0),
        )
        if self.projection_radius is not None:
            check_ranges(("critic.projection_radius", self.projection_radius, 1e-12, 1e12))
        check_intervals(**{"critic.value_range": self.value_range})

    def check_twin(self, algorithm: str) -> None:
        """Refuse roles that differ, for an algorithm that treats its critics alike."""
        if self.roles != "twin":
            raise ValueError(f"critic.roles must be twin for {algorithm}, whose critics are alike, got {self.roles}")

    def project(self, critics: nn.Module) -> None:
        """Scale the critics' weights back into the ball that bounds them, where there is one."""
        if self.projection_radius is not None:
            project_weights(critics, self.projection_radius)

    def pessimism_share(self) -> Tensor:
        """`[2, 1, 1]` share of pessimism and residual that each critic learns from, by its role."""
        return torch.tensor([0.0, 1.0] if self.roles == "split" else [1.0, 1.0]).view(2, 1, 1)

    def target(self, reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
        """`[M, B]` backup that the critics learn from and are held against, with whatever is clipped in it.

        Args:
            reward: `[M, B]`.
            discount: `[M, B]` of the next value, 0 after a terminal state.
            next_value: `[M, B]` of the target networks.
        """
        bootstrap = self._clipped(next_value) if self.clip == "bootstrap" else next_value
        return self.clip_backup(bellman_backup(reward, discount, bootstrap))

    def errors(
        self, value: Tensor, next_value: Tensor | None, target: Tensor, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """`[2, M, B]` squared errors of both critics, with the residual's share.

        Args:
            value: `[2, M, B]` critics at the data's actions.
            next_value: `[2, M, B]` the same critics at the next actions; None where the residual has no share.
            target: `[M, B]` backup of `target`.
            reward: `[M, B]`.
            discount: `[M, B]` of the next value, 0 after a terminal state.
        """
        if next_value is None:
            return (value - target).square()
        return dqra_loss(value, next_value, target, reward, discount, self.residual_weight, self.clip_backup)

    def clip_backup(self, backup: Tensor) -> Tensor:
        """Clip reward plus discounted next value, where that is what is clipped."""
        return self._clipped(backup) if self.clip == "backup" else backup

    def _clipped(self, value: Tensor) -> Tensor:
        return value if self.value_range is None else clip_straight_through(value, *self.value_range)


@dataclass(frozen=True)
class ActorUpdates:
    """How a policy follows the critics.

    Args:
        critic: index of the one critic that the policy ascends.
        interval: critic updates per policy update.
        average_rate: act with a moving average of the policy's weights, of which this share is renewed at each update;
            null acts with the policy itself.
        log_std_range: clamp of the policy's log standard deviation.

    Raises:
        ValueError: a field is of another type, none of its choices, or outside its range; it is named as
            `actor.interval` and so on.
    """

    critic: Literal[0, 1] = 0
    interval: int = 1
    average_rate: float | None = None
    log_std_range: tuple[float, float] = (math.log(1e-5), 2.0)

    def __post_init__(self) -> None:
        """Refuse what is no interval and no share."""
        check_group("actor", self)
        check_counts(1, **{"actor.interval": self.interval})
        if self.average_rate is not None:
            check_ranges(("actor.average_rate", self.average_rate, 0.0, 1.0))
        check_intervals(**{"actor.log_std_range": self.log_std_range})
