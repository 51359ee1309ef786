"""Stacked networks: `M` members with weights `[M, in, out]` and one batched matrix product per layer.

Twin critics, model ensembles and populations (many hyper-parameters or seeds in one process) are the same axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.torch_private import copy_, lerp_

ALL = slice(None)
FEW_COLUMNS = 16
"""A matrix product with fewer columns leaves most of a CPU's vector unused."""
Initializer = Callable[[Tensor, Tensor, torch.Generator | None], None]


def xavier_normal(weight: Tensor, bias: Tensor, generator: torch.Generator | None) -> None:
    """Glorot & Bengio 2010, normal; zero bias. Fills one member's `[in, out]` weight and `[1, out]` bias."""
    fan_in, fan_out = weight.shape
    weight.normal_(0.0, math.sqrt(2.0 / (fan_in + fan_out)), generator=generator)
    bias.zero_()


def torch_default(weight: Tensor, bias: Tensor, generator: torch.Generator | None) -> None:
    """The initial weights of `nn.Linear`: weight and bias uniform in `1 / sqrt(fan_in)`."""
    bound = 1.0 / math.sqrt(weight.shape[0])
    weight.uniform_(-bound, bound, generator=generator)
    bias.uniform_(-bound, bound, generator=generator)


INITIALIZERS: dict[str, Initializer] = {"xavier_normal": xavier_normal, "torch_default": torch_default}


class _OneOutput(torch.autograd.Function):
    """`baddbmm` for layers `[M, in, 1]`, whose gradients it would take ten times as long over on a CPU.

    Products of matrices with a single column are the slowest that there are. The gradients are the same; where `in` is
    a multiple of a CPU's vector they are so to the bit.
    """

    @staticmethod
    def forward(ctx: Any, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias, x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        return (
            gradient.sum(1, keepdim=True) if ctx.needs_input_grad[0] else None,
            gradient * weight.mT if ctx.needs_input_grad[1] else None,
            torch.bmm(gradient.mT, x).view_as(weight) if ctx.needs_input_grad[2] else None,
        )


def fused_product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight` for a compiler of CPU code, which puts all that is no matrix product into the passes around it.

    That goes for the bias, which `baddbmm` would copy first, and for products with a single column. With few columns a
    product is four times as fast the other way round, and so is that of its weights' gradient.
    """
    if weight.shape[-1] == 1:
        return (x * weight.mT).sum(-1, keepdim=True)
    if weight.shape[-1] < FEW_COLUMNS:
        return torch.bmm(weight.mT, x.mT).mT
    return torch.bmm(x, weight)


class EnsembleLinear(nn.Module):
    """`M` linear layers as one batched product: `[M, B, in] -> [M, B, out]`; `member` is one as it is defined."""

    def __init__(self, members: int, *, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, d_in, d_out))
        self.bias = nn.Parameter(torch.empty(members, 1, d_out))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(
        self, initializer: Initializer = torch_default, generators: Sequence[torch.Generator] | None = None
    ) -> None:
        """Draw every member by itself, from its own generator: a member starts as it would alone."""
        for member in range(self.weight.shape[0]):
            generator = generators[member] if generators is not None else None
            initializer(self.weight[member], self.bias[member], generator)

    def forward(self, x: Tensor, members: slice = ALL) -> Tensor:
        """Apply all members, or a slice of them, to inputs of their own."""
        # A slice of all would be taken back by copying every gradient into zeros.
        weight, bias = (self.weight, self.bias) if members == ALL else (self.weight[members], self.bias[members])
        if x.is_cuda or torch.is_autocast_enabled(x.device.type):
            return torch.baddbmm(bias, x, weight)
        if torch.compiler.is_compiling():
            return fused_product(x, weight) + bias
        return _OneOutput.apply(bias, x, weight) if weight.shape[-1] == 1 else torch.baddbmm(bias, x, weight)

    @torch.no_grad()
    def member(self, index: int) -> nn.Linear:
        """The plain definition of one member, a copy: `[B, in] -> [B, out]`."""
        linear = nn.Linear(self.weight.shape[1], self.weight.shape[2])
        linear.weight.copy_(self.weight[index].T)
        linear.bias.copy_(self.bias[index, 0])
        return linear


class EnsembleMLP(nn.Module):
    """`M` multilayer perceptrons with ReLU: `[M, B, in] -> [M, B, out]`; `member` is one as it is defined.

    The last layer always runs in float32: under autocast, bfloat16 would round values of size 100 to steps of 0.5.
    With `layer_norm` each hidden layer is normalised before its ReLU (Ba et al. 2016, https://arxiv.org/abs/1607.06450)
    without a learned scale and shift, which the next layer has anyway.
    """

    layers: Sequence[EnsembleLinear]

    def __init__(
        self,
        members: int,
        d_in: int,
        hidden: Sequence[int],
        d_out: int,
        initializer: Initializer = torch_default,
        generators: Sequence[torch.Generator] | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        widths = [d_in, *hidden, d_out]
        layers = [EnsembleLinear(members, d_in=i, d_out=o) for i, o in pairwise(widths)]
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        for layer in self.layers:
            layer.reset_parameters(initializer, generators)

    def forward(self, x: Tensor, members: slice = ALL) -> Tensor:
        """Evaluate all members, or a slice of them on `[len(slice), B, in]` inputs of their own."""
        for layer in self.layers[:-1]:
            x = layer(x, members)
            if self.layer_norm:
                x = F.layer_norm(x, x.shape[-1:])
            x = torch.relu_(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.layers[-1](x.float(), members)

    def member(self, index: int) -> nn.Sequential:
        """The plain definition of one member, an `nn.Sequential` of copies: `[B, in] -> [B, out]`."""
        modules: list[nn.Module] = []
        for layer in self.layers:
            modules.append(layer.member(index))
            if self.layer_norm:
                modules.append(nn.LayerNorm(layer.weight.shape[2], elementwise_affine=False))
            modules.append(nn.ReLU())
        return nn.Sequential(*modules[: -1 - self.layer_norm])


@torch.no_grad()
def project_weights(network: nn.Module, radius: float) -> None:
    """Scale the weight matrix of every linear layer back into the Frobenius ball of this radius.

    Of an `EnsembleLinear` each `[in, out]` matrix has a ball of its own: each member, and each expert of a mixture. No
    biases, and no routers: they choose among outputs and weigh them with weights that sum to one.
    """
    for layer in network.modules():
        if isinstance(layer, EnsembleLinear | nn.Linear):
            norm = torch.linalg.matrix_norm(layer.weight, keepdim=True)
            layer.weight.mul_((radius / norm).clamp(max=1.0))


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move every parameter of a network this share of the way to its twin's: `slow += rate * (fast - slow)`.

    Buffers, such as the balance of a router, are moving averages themselves and are copied.
    """
    lerp_(list(slow.parameters()), list(fast.parameters()), rate)
    if buffers := list(slow.buffers()):
        copy_(buffers, list(fast.buffers()))
