"""Activations and softmax in the forms that are fastest in small recurrent networks on a CPU, a step of such a network,
and scaled gradients.

Torch's own exponential linear unit computes `expm1` number by number, and its softmax walks rows of a few classes one
by one: 6 and 5 times slower than what stands here, at the sizes of a small world model. Other devices get torch's.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 16
"""Number of classes up to which rows count as short."""


class _Elu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # `exp(x) - 1` is above `x` where `x` is negative; it loses digits near 0, at most 1e-7 in all.
        y = torch.maximum(x, x.clamp_max(0.0).exp_().sub_(1.0))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grads[0], 1.0, 1.0, 1.0, True, y)


def elu(x: Tensor) -> Tensor:
    """`max(x, exp(x) - 1)`, elementwise (Clevert et al. 2016, https://arxiv.org/abs/1511.07289)."""
    if x.is_cuda:
        return F.elu(x)
    if torch.compiler.is_compiling():  # compiled for a CPU, torch's own is no faster than without
        positive = x > 0.0  # not a clamp, whose gradient at 0 is 0
        return torch.where(positive, x, torch.where(positive, 0.0, x).exp() - 1.0)
    return _Elu.apply(x)


def _few_classes(x: Tensor) -> bool:
    return x.shape[-1] <= FEW and not x.is_cuda and not torch.compiler.is_compiling()


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        p = (x - x.amax(-1, keepdim=True)).exp_()
        p.div_(p.sum(-1, keepdim=True))
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        weighted = grads[0] * p
        return torch.addcmul(weighted, p, weighted.sum(-1, keepdim=True), value=-1.0)


def softmax(x: Tensor) -> Tensor:
    """Probabilities `[..., K]` of `[..., K]` logits."""
    return _Softmax.apply(x) if _few_classes(x) else x.softmax(-1)


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x - x.amax(-1, keepdim=True)
        y.sub_(y.exp().sum(-1, keepdim=True).log_())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.addcmul(grads[0], y.exp(), grads[0].sum(-1, keepdim=True), value=-1.0)


def log_softmax(x: Tensor) -> Tensor:
    """Log-probabilities `[..., K]` of `[..., K]` logits."""
    return _LogSoftmax.apply(x) if _few_classes(x) else x.log_softmax(-1)


Activation = Literal["relu", "gelu", "swiglu"]


def activate(x: Tensor, activation: str) -> Tensor:
    """ReLU, exact GELU, or SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202): `[..., F] -> [..., H]`."""
    if activation == "relu":
        return F.relu(x)
    if activation == "gelu":
        return F.gelu(x)
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


def first_width(hidden: int, activation: str) -> int:
    """Outputs `F` of the first layer for `H` hidden units."""
    return 2 * hidden if activation == "swiglu" else hidden


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Output and cell of a long short-term memory behind one step.

    `i, f, g, o = split(gates)`, `c' = sigmoid(f) c + sigmoid(i) tanh(g)`, `h' = sigmoid(o) tanh(c')`
    (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    Args:
        gates: `[B, 4 W]`, what weights make of the input and the last output.
        cell: `[B, W]` before the step.

    Returns:
        `[B, W]` each.
    """
    i, f, g, o = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` itself, bit by bit, of any shape; on the way back gradients are multiplied by `factor`.

    An identity in the place where it stands, and no hook, so that nothing but what lies before it gets less, and what
    is compiled stays one graph.
    """
    return _ScaleGradient.apply(x, factor)
