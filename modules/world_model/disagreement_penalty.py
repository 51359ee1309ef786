"""Pessimism of behaviours that learn inside a world model of recorded data alone, and may not try what they imagine."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from modules.arguments.checks import check_ranges
from modules.world_model.latent_ensemble import LatentEnsemble
from modules.world_model.rssm import RecurrentModel

Reward = Callable[[Tensor, Tensor], Tensor]
"""Rewards `[H, N]` of arriving at imagined states, from features `[H, N, D]` and actions `[H, N, A]`."""


class DisagreementPenalty(LatentEnsemble):
    """Takes from every imagined reward what an ensemble differs about the state that it is for.

    A behaviour that learns in the model alone goes wherever the model promises most, and that is also where it has seen
    nothing. The ensemble agrees where there are data, so that what is left of the reward there is nearly all.

    Source: Lu et al. 2023, "Challenges and Opportunities in Offline Reinforcement Learning from Visual Observations"
    (https://arxiv.org/abs/2206.04779), Offline DV2: rewards less `scale` times the disagreement of an ensemble. Theirs
    predicts the parameters of the prior, this one the next latent.

    Args:
        rssm: the model that is learned in.
        d_action: width of an action as the model sees it.
        scale: units of reward for a disagreement of 1.
        members: number of members `M` of the ensemble.
        hidden: widths of each member's hidden layers.
        lr: Adam learning rate of the ensemble.

    Raises:
        ValueError: fewer than two members, or a negative number.
    """

    def __init__(
        self,
        rssm: RecurrentModel,
        d_action: int,
        scale: float = 10.0,
        members: int = 5,
        hidden: list[int] = [400, 400],  # noqa: B006 - read only; a list is what YAML gives
        lr: float = 3e-4,
    ) -> None:
        check_ranges(("scale", scale, 0.0, 1e12))
        super().__init__(rssm, d_action, members, hidden, lr)
        self.scale = scale

    def penalised(self, reward: Reward) -> Reward:
        """The rewards less the penalty."""
        return lambda features, actions: reward(features, actions) - self.scale * self.arrival(features, actions)
