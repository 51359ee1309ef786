"""Two-layer networks of many experts, each on its own tokens, in several forms with equal results.

`y[n] = sum over rows r of token n: weight[r] * (activation(x[n] @ w1[e] + b1[e]) @ w2[e] + b2[e])`, `e = expert[r]`.

Letters as in `modules.experts.routing`; `H` is the hidden width of one expert, `F` the width of the first product:
`H`, or `2 * H` for gated activations.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.experts import native
from modules.experts.forms import BULK_FORMS
from modules.experts.routing import Rows, sort_by_expert
from modules.functional.elementwise import Activation, activate
from modules.torch_private import is_wanted, transforms

Backend = Literal["loop", "native", "grouped", "padded", "dense"]


def default_backend(x: Tensor) -> Backend:
    """The fastest form that was found for this device and dtype (docs/moe.md has the measurements)."""
    if x.device.type != "cuda":
        return "loop"
    grouped = x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (9, 0)
    return "grouped" if grouped else "padded"


def expert_mlp(
    x: Tensor, rows: Rows, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: Activation, backend: Backend
) -> Tensor:
    """Weighted sum of the experts' outputs for each token; `plain_expert_mlp` is the same by a loop.

    Args:
        x: `[N, d_in]` tokens.
        rows: pairs of a token and an expert that it visits.
        w1: `[E, d_in, F]`.
        b1: `[E, F]`.
        w2: `[E, H, d_out]`.
        b2: `[E, d_out]`.
        activation: activation between the two layers.
        backend: form that computes it.

    Returns:
        `[N, d_out]` in the dtype of `x`.

    Raises:
        ValueError: a weight is not finite; on a CPU only, as looking would stall a GPU.
    """
    rows = rows._replace(weight=rows.weight.to(x.dtype))
    if backend == "native" and (x.dtype not in native.DTYPES or x.device.type != "cpu"):
        backend = "loop"
    if backend != "dense" and transforms():  # the others have a backward of their own, which these do not look into
        backend = "padded"
    if backend in FORMS:
        tensors = (x, rows.expert, rows.token, rows.weight, rows.offsets)
        save = torch.is_grad_enabled()
        if not save and not torch.compiler.is_compiling():  # the dispatcher costs more than a small batch
            return FORMS[backend].forward(*tensors, w1, b1, w2, b2, activation, save)[0]
        # Views, as the engine does not tell of leaves whether their gradient is wanted; see `_is_wanted`.
        experts = [t.view_as(t) for t in (w1, b1, w2, b2)]
        return _sorted_forward(*tensors, *experts, activation, backend, save)[0]
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        check_finite(rows.weight, rows.token)
    return BULK_FORMS[backend](x, rows, w1, b1, w2, b2, activation)


def plain_expert_mlp(
    x: Tensor, rows: Rows, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: Activation
) -> Tensor:
    """The definition of `expert_mlp`, one visit of a token after the other; visits beyond the experts are dropped."""
    y = [x.new_zeros(w2.shape[2]) for _ in x]
    for token, expert, weight in zip(rows.token.tolist(), rows.expert.tolist(), rows.weight, strict=True):
        if expert < len(w1):
            hidden = activate(x[token] @ w1[expert] + b1[expert], activation)
            y[token] = y[token] + weight * (hidden @ w2[expert] + b2[expert])
    return torch.stack(y) if y else x.new_zeros(0, w2.shape[2])


class LogitsNotFinite(ValueError, FloatingPointError):
    """A router's logits are not finite: of the input, which a user mends, or of an update, which can be undone."""


def check_finite(weight: Tensor, token: Tensor) -> None:
    """Refuse weights that are not finite.

    Raises:
        LogitsNotFinite: with the first such token.
    """
    if weight.sum().isfinite():  # one pass; an overflowing sum of finite weights is impossible, they are at most 1
        return
    bad = token[~weight.isfinite()].unique()
    if len(bad):
        raise LogitsNotFinite(
            f"the router's logits are not finite for {len(bad)} of {int(token[-1]) + 1} tokens, the first is row "
            f"{int(bad[0])}: check that row of the input, or lower the learning rate"
        )


# -------------------------------------------------------- sorted form as one operator with its own backward, for CPUs
def loop_forward(
    x: Tensor, expert: Tensor, token: Tensor, weight: Tensor, offsets: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Sort the rows, one product per busy expert and layer, and a weighted sum of each token's rows.

    Returns:
        `[N, d_out]` outputs, and what the backward needs: the `[R, F]` first layer of the sorted rows (behind the
        activation for ReLU, before it else; empty unless `save`), the `[R]` order, the `[E + 1]` starts.
    """
    check_finite(weight, token)
    order, starts = sort_by_expert(expert, len(w1))
    bounds = starts.tolist()
    busy = bounds[-1]
    queue = x.index_select(0, token[order[:busy]])
    first = x.new_empty(len(order) if save else busy, w1.shape[2])
    y_rows = x.new_empty(busy, w2.shape[2])
    biases1, biases2, weights1, weights2 = b1.unbind(), b2.unbind(), w1.unbind(), w2.unbind()
    for e, (i, j) in enumerate(pairwise(bounds)):
        if i == j:
            continue
        hidden = torch.addmm(biases1[e], queue[i:j], weights1[e], out=first[i:j])
        hidden = hidden.relu_() if activation == "relu" else activate(hidden, activation)
        torch.addmm(biases2[e], hidden, weights2[e], out=y_rows[i:j])
    y = _sum_rows(y_rows, order, offsets, weight)
    return y, first if save else first.new_empty(0), order, starts


def loop_backward(
    grad: Tensor, x: Tensor, expert: Tensor, token: Tensor, weight: Tensor, offsets: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, first: Tensor, order: Tensor, starts: Tensor,
    activation: str, need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `x`, of the rows' weights and of the experts' four tensors; the last four empty if not needed.

    The outputs of the experts are not kept: a row's weight gets `(grad @ w2') . hidden + grad . b2`.
    """
    bounds = starts.tolist()
    busy = bounds[-1]
    visitors = token[order[:busy]]
    # Five times faster than indexing by a tensor.
    queue, grad_rows = x.index_select(0, visitors), grad.index_select(0, visitors)
    factor = weight[order[:busy]].unsqueeze(1)
    grad_weight = torch.zeros_like(weight)
    by_expert = weight.new_empty(busy)
    grad_x_rows = x.new_empty(busy, x.shape[1])
    grads = [torch.empty_like(t) if need_weights else t.new_empty(0) for t in (w1, b1, w2, b2)]
    grad_w1, grad_b1, grad_w2, grad_b2 = (g.unbind() if need_weights else () for g in grads)
    weights1, weights2, biases2 = w1.unbind(), w2.unbind(), b2.unbind()
    for e, (i, j) in enumerate(pairwise(bounds)):
        if i == j:
            for g in grads if need_weights else ():
                g[e].zero_()
            continue
        g, before = grad_rows[i:j], first[i:j]
        hidden = before if activation == "relu" else activate(before, activation)
        grad_hidden = g @ weights2[e].t()
        by_expert[i:j] = torch.linalg.vecdot(grad_hidden, hidden) + g @ biases2[e]
        grad_hidden.mul_(factor[i:j])
        g.mul_(factor[i:j])
        grad_before = _activation_backward(grad_hidden, before, activation)
        torch.mm(grad_before, weights1[e].t(), out=grad_x_rows[i:j])
        if need_weights:
            torch.mm(queue[i:j].t(), grad_before, out=grad_w1[e])
            torch.mm(hidden.t(), g, out=grad_w2[e])
            torch.sum(grad_before, 0, out=grad_b1[e])
            torch.sum(g, 0, out=grad_b2[e])
    grad_weight[order[:busy]] = by_expert
    grad_x = _sum_rows(grad_x_rows, order, offsets, None)
    return grad_x, grad_weight, *grads  # type: ignore[return-value]


def _activation_backward(grad: Tensor, before: Tensor, activation: str) -> Tensor:
    """Gradient before the activation; may reuse `grad`. `before` is what `loop_forward` keeps."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, before, 0)
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(grad, before)
    gate, value = before.chunk(2, -1)
    return torch.cat([torch.ops.aten.silu_backward(grad * value, gate), grad * F.silu(gate)], -1)


def _sum_rows(sorted_rows: Tensor, order: Tensor, offsets: Tensor, weight: Tensor | None) -> Tensor:
    """Each token's sum of its rows, `[busy, D]` in sorted order, times their weights: `[N, D]`."""
    busy = len(sorted_rows)
    if not busy:
        return sorted_rows.new_zeros(len(offsets), sorted_rows.shape[1])
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    if busy < len(order):  # dropped rows are sorted to the end and have no output
        kept = place < busy
        weight = kept.to(sorted_rows.dtype) if weight is None else weight * kept
        place = place.clamp(max=busy - 1)
    # A sum per bag is five times faster than `index_add` here.
    return F.embedding_bag(place, sorted_rows, offsets, mode="sum", per_sample_weights=weight)


class SortedForm(NamedTuple):
    """An implementation of the sorted form: `loop_forward` and `loop_backward`, or a pair that equals them."""

    forward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]


def native_forward(
    x: Tensor, expert: Tensor, token: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`loop_forward` in C++."""
    check_finite(weight, token)
    return native.forward(x, expert, token, weight, *rest)


FORMS: dict[str, SortedForm] = {
    "loop": SortedForm(loop_forward, loop_backward),
    "native": SortedForm(native_forward, native.backward),
}


# An operator, not a plain autograd function: compilers take it as one node, whatever the load of the experts.
@torch.library.custom_op("reverie::expert_mlp", mutates_args=())
def _sorted_forward(
    x: Tensor, expert: Tensor, token: Tensor, weight: Tensor, offsets: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str, backend: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return FORMS[backend].forward(x, expert, token, weight, offsets, w1, b1, w2, b2, activation, save)


@_sorted_forward.register_fake
def _(
    x: Tensor, expert: Tensor, token: Tensor, weight: Tensor, offsets: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str, backend: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    first = x.new_empty((expert.shape[0], w1.shape[2]) if save else (0,))
    return x.new_empty(x.shape[0], w2.shape[2]), first, torch.empty_like(expert), expert.new_empty(w1.shape[0] + 1)


@torch.library.custom_op("reverie::expert_mlp_backward", mutates_args=())
def _sorted_backward(
    grad: Tensor, x: Tensor, expert: Tensor, token: Tensor, weight: Tensor, offsets: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, first: Tensor, order: Tensor, starts: Tensor,
    activation: str, backend: str, need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return FORMS[backend].backward(
        grad, x, expert, token, weight, offsets, w1, b1, w2, b2, first, order, starts, activation, need_weights
    )


@_sorted_backward.register_fake
def _(
    grad: Tensor, x: Tensor, expert: Tensor, token: Tensor, weight: Tensor, offsets: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, first: Tensor, order: Tensor, starts: Tensor,
    activation: str, backend: str, need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grads = [torch.empty_like(t) if need_weights else t.new_empty(0) for t in (w1, b1, w2, b2)]
    return torch.empty_like(x), torch.empty_like(weight), *grads  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, activation, backend, _save = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.set_materialize_grads(False)  # the engine would make zeros as large as what is kept here
    ctx.activation = activation
    ctx.backend = backend


def _differentiate(ctx: Any, grad: Tensor | None, *_unused: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 12
    need_weights = any(is_wanted(node) for node, _ in ctx.next_functions[5:9] if node is not None)
    grad_x, grad_weight, *grads = _sorted_backward(
        grad.contiguous(), *ctx.saved_tensors, ctx.activation, ctx.backend, need_weights
    )
    return (grad_x, None, None, grad_weight, None, *(grads if need_weights else [None] * 4), None, None, None)


_sorted_forward.register_autograd(_differentiate, setup_context=_keep)
BACKENDS = get_args(Backend)
