"""Reward models of a latent model: the reward of a step by where it leads.

Letters: `B` rows, `D` width of the latent, `M` width of the memory, which may be 0, `K` outputs of the head's codec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_sizes, check_widths
from modules.networks.recurrent import LSTM
from modules.networks.trunks import Trunk
from modules.networks.value_codecs import TwoHot
from modules.networks.value_heads import Head, MakeCodec, ValueHead

two_hot: MakeCodec = partial(TwoHot, bins=41, low=-20.0, high=20.0, spacing="signed_hyperbolic")
"""Classes from -20 to 20 under MuZero's transform `h`, which are numbers from -424 to 424."""


class RewardModel(nn.Module, ABC):
    """Rewards of steps, or sums of them, by the latents where the steps lead.

    Attributes:
        head: what predictions mean: `mean` and `loss`.
        memory_width: width `M` of what it carries from step to step.
        horizon: steps between resets of the memory; predictions are undiscounted sums of rewards since the last one.
            None, if each is the reward of its own step.
    """

    head: ValueHead
    memory_width: int = 0
    horizon: int | None = None

    @abstractmethod
    def forward(self, latent: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            latent: `[B, D]` where the step leads.
            memory: `[B, M]` before the step; zeros behind a root or a reset.

        Returns:
            Prediction `[B, K]`, `[B]` where `K` is 1, and the memory `[B, M]` behind the step.
        """


MakeReward = Callable[[int, int, Trunk], RewardModel]
"""A reward model's class, or a partial of one, called with `D`, the width that a trunk gives, and a trunk."""

MakeHead = Callable[[int, int, Trunk], ValueHead]
"""A head's class, or a partial of one, called with the widths of its input and of what a trunk gives, and a trunk."""


def make_head(width: int, units: int, trunk: Trunk, codec: MakeCodec | None, head: MakeHead | None) -> ValueHead:
    """The head that is given, or a `Head` with that codec, `two_hot` where none is given.

    Raises:
        ValueError: another head and a codec are given.
    """
    if head is None:
        return Head(width, units, trunk, codec or two_hot)
    if codec is not None:
        raise ValueError("codec would be ignored, as a head is given: give it to the head, as its `codec`")
    return head(width, units, trunk)


class StepReward(RewardModel):
    """The reward of the step alone, by a head on the latent; there is no memory.

    Args:
        d_latent: width `D` of the latent.
        units: width that the trunk gives.
        trunk: makes a dense network from its widths of input and output.
        codec: makes the meaning of the prediction; None for `two_hot`.
        head: makes another head, such as an `EnsembleHead`; None for a `Head` with that codec.

    Raises:
        ValueError: another head and a codec are given.
    """

    def __init__(
        self, d_latent: int, units: int, trunk: Trunk, codec: MakeCodec | None = None, head: MakeHead | None = None
    ) -> None:
        super().__init__()
        self.head = make_head(d_latent, units, trunk, codec, head)

    def forward(self, latent: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, D]` to a prediction; the memory stays as it is."""
        return self.head(latent), memory


class ValuePrefix(RewardModel):
    """The undiscounted sum of rewards since the last reset, by a memory of the latents on the way and a head on it.

    When a reward comes is harder to foresee than that it comes: a sum forgives errors in time (Ye et al. 2021,
    "Mastering Atari Games with Limited Data", https://arxiv.org/abs/2111.00210, section 4.2). The reward of a step is
    the difference of two sums.

    Args:
        d_latent: width `D` of the latent.
        units: width that the trunk gives.
        trunk: makes a dense network from its widths of input and output.
        codec: makes the meaning of the prediction; None for `two_hot`.
        memory: width of the memory's output; its state is twice as wide.
        horizon: steps between resets.
        head: makes another head, such as an `EnsembleHead`; None for a `Head` with that codec.

    Raises:
        ValueError: a width or the horizon is out of range, or another head and a codec are given.
    """

    def __init__(
        self,
        d_latent: int,
        units: int,
        trunk: Trunk,
        codec: MakeCodec | None = None,
        memory: int = 64,
        horizon: int = 5,
        head: MakeHead | None = None,
    ) -> None:
        super().__init__()
        check_widths(memory=memory)
        check_sizes(horizon=horizon)
        self.horizon = horizon
        self.memory = LSTM(d_latent, memory)
        self.memory_width = self.memory.state_width
        self.head = make_head(memory, units, trunk, codec, head)

    def forward(self, latent: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, D]` and `[B, M]` to the prediction of a sum, and the memory `[B, M]` behind the step."""
        goes_on = torch.zeros(1, len(latent), dtype=torch.bool, device=latent.device)
        output, memory = self.memory(latent.unsqueeze(0), goes_on, memory)
        return self.head(output.squeeze(0)), memory
