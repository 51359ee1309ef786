"""The fast forms say what torch's own say, with the same gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.functional.elementwise import FEW, elu, log_softmax, softmax

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
