"""Heads that predict values: a trunk, an output layer, and a codec that says what the outputs stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_sizes
from modules.networks.blocks import OutputLinear
from modules.networks.trunks import Trunk
from modules.networks.value_codecs import Normalized, Scalar, ValueCodec

MakeCodec = Callable[[], ValueCodec]
"""A codec's class, or a partial of one."""


class ValueHead(nn.Module, ABC):
    """Features to predictions in float32, whose last axis is the codec's, and none where its width is 1.

    Attributes:
        codec: the meaning of predictions.
    """

    def __init__(self, codec: ValueCodec) -> None:
        super().__init__()
        self.codec = codec

    def check_residual(self, weight: float) -> None:
        """Refuse a share of the Bellman residual for a codec whose loss is no squared error.

        Raises:
            ValueError: the weight is above 0 with such a codec.
        """
        if weight > 0.0 and not self.codec.squared:
            name = type(self.codec).__name__
            raise ValueError(f"residual_weight above 0 needs values with the codec Scalar or Normalized, not {name}")

    @property
    def mean(self) -> Callable[..., Tensor]:
        """The codec's map from predictions to `[...]` numbers."""
        return self.codec.mean

    @property
    def atoms(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """The codec's: predictions to distributions."""
        return self.codec.atoms

    @property
    def loss(self) -> Callable[..., Tensor]:
        """The codec's: predictions and targets to losses `[...]`."""
        return self.codec.loss

    @property
    @abstractmethod
    def output_layers(self) -> list[tuple[OutputLinear, bool]]:
        """Layers whose sum is the prediction, and whether a shift of the prediction is one of the layer's.

        Row `i` of each is of output `i % width` of the codec.
        """

    @torch.no_grad()
    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Change the output layers in place, such that predictions become `scale * prediction + shift`.

        Args:
            scale: `[K]`, one for each output of the codec.
            shift: `[K]`.
        """
        for layer, shifted in self.output_layers:
            rows = layer.out_features // len(scale)
            factor = scale.repeat(rows)
            layer.weight.mul_(factor.unsqueeze(-1))
            layer.bias.copy_(layer.bias * factor + (shift.repeat(rows) if shifted else 0.0))

    def _layer(self, units: int, values: int) -> OutputLinear:
        layer = OutputLinear(units, values * self.codec.width)
        if self.codec.starts_at_zero:
            nn.init.zeros_(layer.weight)
        return layer


class Head(ValueHead):
    """The value of features.

    Args:
        d_in: width of the features.
        units: width that the trunk gives.
        trunk: makes a dense network from its widths of input and output.
        codec: makes the meaning of the prediction.
    """

    def __init__(self, d_in: int, units: int, trunk: Trunk, codec: MakeCodec = Scalar) -> None:
        super().__init__(codec())
        self.trunk = trunk(d_in, units)
        self.output = self._layer(units, 1)

    @property
    def output_layers(self) -> list[tuple[OutputLinear, bool]]:
        """The only output layer, which takes the shift."""
        return [(self.output, True)]

    def forward(self, features: Tensor) -> Tensor:
        """`[..., d_in]` to a prediction `[..., K]`, or `[...]` where the codec's width `K` is 1."""
        return self.output(self.trunk(features)).squeeze(-1)


class ActionHead(ValueHead):
    """The value of every action at features.

    With `duelling`, it is that of the state plus what the action adds to the mean action, each from a trunk of its own:
    `V + A_a - mean A` (Wang et al. 2016, https://arxiv.org/abs/1511.06581, equation 9), output by output of the codec.

    Args:
        d_in: width of the features.
        units: width that each trunk gives.
        trunk: makes a dense network from its widths of input and output.
        actions: number of actions `A`.
        codec: makes the meaning of the predictions.
        duelling: whether there is a stream for the state's value.
        discounts: number `G` of discounts that there are values for, on the same trunks.

    Raises:
        ValueError: no actions or no discounts.
    """

    def __init__(
        self,
        d_in: int,
        units: int,
        trunk: Trunk,
        actions: int,
        codec: MakeCodec = Scalar,
        duelling: bool = True,
        discounts: int = 1,
    ) -> None:
        check_sizes(actions=actions, discounts=discounts)
        super().__init__(codec())
        width = self.codec.width
        # Axes are kept where they say something: no discounts for one, no outputs for one.
        self.shape = (*[discounts] * (discounts > 1), actions, *[width] * (width > 1))
        self.action_axis = -1 - (width > 1)
        self.trunk = trunk(d_in, units)
        self.output = self._layer(units, discounts * actions)
        self.value_trunk = trunk(d_in, units) if duelling else None
        self.value_output = self._layer(units, discounts) if duelling else None

    @property
    def output_layers(self) -> list[tuple[OutputLinear, bool]]:
        """The actions' layer; with a stream for the value, that one too, and the shift is its own."""
        if self.value_output is None:
            return [(self.output, True)]
        return [(self.output, False), (self.value_output, True)]

    def forward(self, features: Tensor) -> Tensor:
        """`[..., d_in]` to predictions `[..., G, A, K]`, without `G` for one discount and `K` for a width of 1."""
        advantage = self.output(self.trunk(features)).unflatten(-1, self.shape)
        if self.value_trunk is None or self.value_output is None:
            return advantage
        shape = list(self.shape)
        shape[self.action_axis] = 1
        value = self.value_output(self.value_trunk(features)).unflatten(-1, shape)
        return value + advantage - advantage.mean(self.action_axis, keepdim=True)


class PopArtHead(Head):
    """Values of features in units of their own statistics, one output per task: a `Head` with the codec `Normalized`.

    The callback `PopArt` moves the statistics and rescales the output layer.

    Args:
        d_in: width of the features.
        units: width that the trunk gives.
        trunk: makes a dense network from its widths of input and output.
        tasks: number of tasks `K`.

    Raises:
        ValueError: no tasks.
    """

    def __init__(self, d_in: int, units: int, trunk: Trunk, tasks: int = 1) -> None:
        super().__init__(d_in, units, trunk, partial(Normalized, tasks))
