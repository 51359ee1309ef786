"""The fast forms say what torch's own say, with the same gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.functional.elementwise import (
    FEW,
    activate,
    elu,
    first_width,
    log_softmax,
    lstm_step,
    scale_gradient,
    softmax,
)

PAIRS = {
    "elu": (elu, F.elu),
    "softmax": (softmax, lambda x: x.softmax(-1)),
    "log_softmax": (log_softmax, lambda x: x.log_softmax(-1)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("classes", [1, 3, FEW, FEW + 1])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_equals_torch(name: str, classes: int, scale: float) -> None:
    fast, plain = PAIRS[name]
    x = (scale * torch.randn(5, 4, classes, generator=torch.Generator().manual_seed(0))).requires_grad_()
    weight = torch.randn(5, 4, classes, generator=torch.Generator().manual_seed(1))
    found, expected = fast(x), plain(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-7)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_in_double_precision(name: str) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(PAIRS[name][0], (x,))


@pytest.mark.parametrize("name", PAIRS)
def test_extreme_inputs_stay_finite(name: str) -> None:
    x = torch.tensor([[-1e4, 0.0, 1e4]], requires_grad=True)
    y = PAIRS[name][0](x)
    assert y.isfinite().all()
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("fast", [elu, softmax, log_softmax])
def test_input_is_left_alone(fast: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([[-1.0, 2.0, 0.5]])
    before = x.clone()
    fast(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("fast", [softmax, log_softmax])
def test_short_rows_alone_take_the_fast_form(fast: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def is_own(classes: int) -> bool:
        return fast(torch.zeros(20, 20, classes, requires_grad=True)).grad_fn.name().startswith("_")

    assert [is_own(classes) for classes in (3, FEW, FEW + 1)] == [True, True, False]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not is_own(3)


def test_a_compiler_gets_the_same_linear_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = torch.tensor([-1e4, -2.0, -1e-3, 0.0, 0.5, 1e4], requires_grad=True)
    y = elu(x)
    torch.testing.assert_close(y, F.elu(x.detach()))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], x.detach().clamp_max(0.0).exp())


# --------------------------------------------------------------------------------------------- activations of layers
def test_activations_of_known_numbers() -> None:
    x = torch.tensor([[-2.0, 0.0, 1.0, 3.0]])
    assert activate(x, "relu").tolist() == [[0.0, 0.0, 1.0, 3.0]]
    exact = [0.5 * v * (1.0 + math.erf(v / math.sqrt(2.0))) for v in (-2.0, 0.0, 1.0, 3.0)]
    torch.testing.assert_close(activate(x, "gelu"), torch.tensor([exact]))
    gated = [-2.0 / (1.0 + math.exp(2.0)) * 1.0, 0.0 * 3.0]  # the first half opens the second
    torch.testing.assert_close(activate(x, "swiglu"), torch.tensor([gated]))


def test_gates_are_halves_of_the_last_axis() -> None:
    x = torch.arange(8.0).view(2, 2, 2)
    torch.testing.assert_close(activate(x, "swiglu"), F.silu(x[..., :1]) * x[..., 1:])
    x = torch.arange(12.0).view(2, 6)
    torch.testing.assert_close(activate(x, "swiglu"), F.silu(x[:, :3]) * x[:, 3:])


def test_width_of_the_first_layer() -> None:
    assert [first_width(5, name) for name in ("relu", "gelu", "swiglu")] == [5, 5, 10]


def test_a_step_of_a_long_short_term_memory_is_that_of_torch() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.LSTMCell(3, 4, bias=False)
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    found = lstm_step(x @ theirs.weight_ih.T + h @ theirs.weight_hh.T, c)
    for mine, other in zip(found, theirs(x, (h, c)), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_scaled_gradient_is_exact_and_nothing_else_changes() -> None:
    x = torch.tensor([-0.0, 1e-30, 3.0, -torch.inf, torch.nan], requires_grad=True)
    y = scale_gradient(x, 0.5)
    assert torch.equal(y.detach().view(torch.int32), x.detach().view(torch.int32))
    weight = torch.tensor([1.0, -2.0, 3.0, 0.1, 1e-30])
    (grad,) = torch.autograd.grad((y * weight).nan_to_num().sum(), x, materialize_grads=True)
    (plain,) = torch.autograd.grad((x * weight).nan_to_num().sum(), x)
    assert torch.equal(grad, 0.5 * plain)


@pytest.mark.compile
def test_a_scaled_gradient_is_one_graph(backend: str) -> None:
    def twice(x: Tensor) -> Tensor:
        return scale_gradient(scale_gradient(x, 0.5).tanh(), 0.5).sum()

    x = torch.randn(4, requires_grad=True)
    found = torch.autograd.grad(torch.compile(twice, fullgraph=True)(x), x)[0]
    torch.testing.assert_close(found, torch.autograd.grad(twice(x), x)[0])
