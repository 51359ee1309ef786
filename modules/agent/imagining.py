"""Agents in two phases that, in the game, also learn from steps which a model of their own and two policies imagine."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from modules.agent.learned_model import ImaginedSteps, RolloutPlan, imagine, rollout_noise_width
from modules.agent.reference_policy import load_reference
from modules.agent.warm_start import TwoPhases
from modules.batch import Spaces, Transition
from modules.networks.dynamics import StackedDynamics
from modules.networks.ensemble import follow
from modules.networks.policies import StackedPolicy

CLONED, DATA = "cloned", "data"
"""References that are no path: the policy that the warm start ends with, and the recorded actions."""


def check_reference(reference_policy: str, warm_updates: int) -> None:
    """Refuse a cloned policy that nobody clones.

    Raises:
        ValueError: it is the reference, and there are no updates of a warm start.
    """
    if reference_policy == CLONED and warm_updates == 0:
        raise ValueError(
            "reference_policy: cloned is the policy that the warm start ends with, and there is none; set "
            "warm_start.updates above 0, or reference_policy to data"
        )


class Imagining(TwoPhases):
    """The part of an agent that keeps a reference policy, and a ring of steps imagined by it and the learned policy.

    Attributes:
        reference_policy: `cloned`, `data` or the path of a checkpoint.
        rollouts: how far, how often and how many steps are imagined.
        dynamics: the model.
        reference: the checkpoint's policy, frozen, in a list: it is input, no part of the weights; else empty.
        reference_actor: the cloned policy, from the start of the game on; None with another reference.
        imagined: the ring; with the recorded actions as reference it holds steps of the learned policy alone.
        imagines: whether steps are imagined before the next update.
    """

    reference_policy: str
    rollouts: RolloutPlan
    dynamics: StackedDynamics
    reference: list[nn.Module]
    reference_actor: StackedPolicy | None
    imagined: ImaginedSteps
    imagines: bool
    has_imagined: bool = False
    spaces: Spaces

    def check_batch(self, batch: Transition) -> None:
        """Refuse rows from which more steps would be imagined at a time than are kept.

        Raises:
            ValueError: there are such.
        """
        rows = len(batch.reward) // self.population.minibatches
        steps = self.rollouts.horizon * rows * (1 if self.reference_policy == DATA else 2)
        if steps > self.rollouts.capacity:
            raise ValueError(
                f"rollouts.capacity must be at least the {steps} steps that rollouts.horizon {self.rollouts.horizon} "
                f"makes of {rows} rows at a time, got {self.rollouts.capacity}"
            )

    def _prepare_to_imagine(self, d_observation: int, d_action: int) -> None:
        """Make room for the steps, and for the cloned policy where it is the reference."""
        cloned = self.reference_policy == CLONED
        self.reference_actor = copy.deepcopy(self.actor).requires_grad_(False) if cloned else None
        self.reference = []
        self.imagined = ImaginedSteps(len(self.population), self.rollouts.capacity, d_observation, d_action)

    def check_run(self, trainer: Trainer, data: object) -> None:
        """Read the reference policy, where it is a checkpoint's; refuse one that cannot be read."""
        super().check_run(trainer, data)
        if self.reference_policy not in (CLONED, DATA):
            self.reference = [load_reference(self.reference_policy, self.spaces, self.device)]

    def imagine_from(self, observation: Tensor) -> None:
        """Fill the ring with steps from these states `[M, B, D]` on, by the policy and the reference policy."""
        players = [self.play] if self.reference_policy == DATA else [self.play, self.refer]
        width = rollout_noise_width(observation.shape[-1], self.kind.d_noise)
        shape = (self.rollouts.horizon, len(players) * observation.shape[1], width)
        noise = self.population.for_members(self.population.draw(shape, self.device, self.rank))
        self.imagined.write(imagine(self.dynamics, players, observation, noise))
        self.has_imagined = True

    def play(self, observation: Tensor, noise: Tensor) -> Tensor:
        """The policy's actions `[M, B, A]`."""
        return self.kind.play(noise, *self.actor(observation))[0]

    @torch.no_grad()
    def refer(self, observation: Tensor, noise: Tensor) -> Tensor:
        """The reference policy's actions `[M, B, A]`; a cloned one draws its own by the same noise as the policy."""
        if self.reference_actor is not None:
            return self.kind.play(noise, *self.reference_actor(observation))[0]
        return self._reference_actions(self.reference[0], observation)

    # --------------------------------------------------------------------------------------- phases and checkpoints
    def _enter_phase(self) -> None:
        super()._enter_phase()
        due = self.updates % self.rollouts.interval == 0 or not self.has_imagined
        self.imagines = due and not self.warm_starting

    def _start_game(self) -> None:
        super()._start_game()
        if self.reference_actor is not None:
            follow(self.reference_actor, self.acting, 1.0)

    def rank_state(self) -> dict[str, Any]:
        return super().rank_state() | {"imagined": self.imagined.content()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        super().load_rank_state(state)
        self.imagined.restore(state["imagined"])
        self.has_imagined = int(self.imagined.filled) > 0
        self._enter_phase()
