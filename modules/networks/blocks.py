"""Small layers that several networks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import DEEPEST, check_choice, check_ranges, check_sizes, check_widths
from modules.functional.elementwise import Activation, activate, elu, first_width

Norm = Literal["none", "layer", "rms"]
Start = Literal["glorot_uniform", "truncated_normal"]
Pointwise = Literal["elu", "relu", "silu", "gelu", "tanh"]
POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": elu,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


class Normalize(nn.Module):
    """`(x - mean) / std` over the last axis with fixed statistics, kept as buffers so that checkpoints carry them."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, mean: np.ndarray | None = None, std: np.ndarray | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features) if mean is None else torch.as_tensor(mean).float())
        self.register_buffer("std", torch.ones(features) if std is None else torch.as_tensor(std).float())

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`."""
        return (x - self.mean) / self.std

    def raw(self, x: Tensor) -> Tensor:
        """Inverse of `forward`."""
        return x * self.std + self.mean


class MLP(nn.Module):
    """Two layers with an activation between them, the dense twin of one expert: `[..., d_in] -> [..., d_out]`.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        hidden: width between the layers; twice the wider of both ends if not given.
        activation: activation between the layers.
    """

    def __init__(self, d_in: int, d_out: int, hidden: int | None = None, activation: Activation = "relu") -> None:
        super().__init__()
        hidden = 2 * max(d_in, d_out) if hidden is None else hidden
        check_sizes(hidden=hidden)
        self.activation = activation
        self.first = nn.Linear(d_in, first_width(hidden, activation))
        self.second = nn.Linear(hidden, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., d_out]`."""
        return self.second(activate(self.first(x), self.activation))


class OutputLinear(nn.Linear):
    """A network's last layer: Glorot uniform weights, zero bias, always float32.

    Under autocast, bfloat16 would round values of size 100 to steps of 0.5, and logits and densities as much.
    """

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform after Glorot & Bengio 2010."""
        glorot_uniform(self)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., d_out]`."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class DenseStack(nn.Module):
    """Layers of one width, each with an activation: `[..., d_in] -> [..., units]`.

    Layers start with a zero bias. With the norm `layer`, which stands between the product and the activation and has a
    shift, the layers have no bias of their own.

    Args:
        d_in: width of the input.
        units: width of every layer.
        layers: number of layers, at least 1.
        activation: activation after each layer.
        norm: normalisation before each activation.
        start: distribution of the first weights: of Glorot & Bengio 2010, or DreamerV3's.

    Raises:
        ValueError: no layers, or an unknown activation, norm or start.
    """

    def __init__(
        self,
        d_in: int,
        units: int,
        layers: int = 4,
        activation: Pointwise = "elu",
        norm: Norm = "none",
        start: Start = "glorot_uniform",
    ) -> None:
        super().__init__()
        check_ranges(("layers", layers, 1, DEEPEST))
        check_widths(units=units)
        check_choice("start", start, STARTS)
        self.activation = pointwise(activation)
        widths = [d_in, *[units] * (layers - 1)]
        begin = STARTS[start]
        self.layers = nn.ModuleList(begin(nn.Linear(width, units, bias=norm != "layer")) for width in widths)
        self.norms = nn.ModuleList(make_norm(norm, units) for _ in widths)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., units]`."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.activation(norm(layer(x)))
        return x


class WithOne(nn.Module):
    """A network that is shown a 1 beside its input: `[..., d_in] -> [..., units]`.

    A layer without a bias whose norm comes next, as in `DenseStack`, gives the same for any multiple of its input: it
    sees in which direction a vector points, and not how long it is. With the 1 it sees both.

    Args:
        d_in: width of the input.
        units: width that the network gives.
        trunk: makes the network from both widths.
    """

    def __init__(self, d_in: int, units: int, trunk: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.network = trunk(d_in + 1, units)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., units]`."""
        return self.network(F.pad(x, (0, 1), value=1.0))


Weighted = TypeVar("Weighted", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@torch.no_grad()
def glorot_uniform(layer: Weighted) -> Weighted:
    """Draw the weights anew, uniform after Glorot & Bengio 2010, with a zero bias; returns the layer."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        layer.bias.zero_()
    return layer


TRUNCATED = 1.1368
"""Factor that makes up for the deviation which a normal loses when it is cut at two of its deviations."""


@torch.no_grad()
def truncated_normal(layer: nn.Linear) -> nn.Linear:
    """Draw the weights anew, normal with variance `1 / inputs` and cut at two deviations; returns the layer.

    Source: github.com/danijar/dreamerv3, embodied/jax/nets.py, `trunc_normal_in`.
    """
    truncated_normal_(layer.weight, layer.in_features)
    if layer.bias is not None:
        layer.bias.zero_()
    return layer


def truncated_normal_(weight: Tensor, inputs: int) -> None:
    """Fill a weight as of `truncated_normal`, for so many inputs."""
    deviation = TRUNCATED / inputs**0.5
    nn.init.trunc_normal_(weight, std=deviation, a=-2.0 * deviation, b=2.0 * deviation)


STARTS: dict[str, Callable[[nn.Linear], nn.Linear]] = {
    "glorot_uniform": glorot_uniform,
    "truncated_normal": truncated_normal,
}


def pointwise(name: Pointwise) -> Callable[[Tensor], Tensor]:
    """Activation function by name.

    Raises:
        ValueError: there is none of this name.
    """
    check_choice("activation", name, POINTWISE)
    return POINTWISE[name]


def make_norm(name: Norm, features: int) -> nn.Module:
    """Normalisation of the last axis by name; the constants are those of the Dreamer family, not torch's.

    Raises:
        ValueError: there is none of this name.
    """
    check_choice("norm", name, ("none", "layer", "rms"))
    if name == "layer":
        return nn.LayerNorm(features, eps=1e-3)
    return nn.RMSNorm(features, eps=1e-4) if name == "rms" else nn.Identity()
