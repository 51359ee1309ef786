"""Dense stacks against the same layers written out."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.networks.blocks import DenseStack, OutputLinear, WithOne, glorot_uniform, make_norm, pointwise


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
@pytest.mark.parametrize(("activation", "function"), [("elu", F.elu), ("silu", F.silu)])
def test_stack_is_product_norm_activation(norm, activation, function) -> None:
    torch.manual_seed(0)
    stack = functools.partial(DenseStack, layers=3, activation=activation, norm=norm)(5, 7)
    x = y = torch.randn(2, 4, 5)
    for layer in stack.layers:
        y = y @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        if norm == "layer":
            y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-3).sqrt()
        if norm == "rms":
            y = y / (y.square().mean(-1, keepdim=True) + 1e-4).sqrt()
        y = function(y)
    torch.testing.assert_close(stack(x), y)
    assert stack(x).shape == (2, 4, 7)
    # A layer norm has a shift; the root mean square alone would leave a stack without any.
    assert all((layer.bias is None) == (norm == "layer") for layer in stack.layers)


def test_a_norm_hides_how_long_a_vector_is_and_a_1_beside_it_shows_it() -> None:
    torch.manual_seed(0)
    trunk = functools.partial(DenseStack, layers=1, activation="relu", norm="layer")
    blind, seeing, x = trunk(3, 7), WithOne(3, 7, trunk), torch.randn(2, 4, 3)
    torch.testing.assert_close(blind(30.0 * x), blind(10.0 * x), rtol=1e-3, atol=1e-3)
    assert (seeing(3.0 * x) - seeing(x)).abs().mean() > 0.1
    torch.testing.assert_close(seeing(x), seeing.network(torch.cat([x, torch.ones(2, 4, 1)], -1)))


def test_a_truncated_normal_has_the_deviation_that_it_says_and_no_tails() -> None:
    torch.manual_seed(0)
    stack = DenseStack(400, 300, layers=2, start="truncated_normal")
    for layer, inputs in zip(stack.layers, (400, 300), strict=True):
        assert layer.weight.std().item() == pytest.approx(inputs**-0.5, rel=0.01)
        assert layer.weight.abs().max() <= 2.0 * 1.1368 / inputs**0.5
        assert not layer.bias.any()
    with pytest.raises(ValueError, match="start must be one of glorot_uniform, truncated_normal, got 'zeros'"):
        DenseStack(4, 3, start="zeros")  # type: ignore[arg-type]


def test_layers_start_within_glorots_bound_and_fill_it() -> None:
    for layer, fans in ((nn.Linear(300, 100), 400), (nn.Conv2d(10, 30, 4), 16 * 40), (OutputLinear(300, 100), 400)):
        made = glorot_uniform(layer)
        bound = (6 / fans) ** 0.5
        assert 0.99 * bound < made.weight.abs().max() <= bound
        assert not made.bias.any()


def test_output_layers_stay_in_float32_under_autocast() -> None:
    layer, x = OutputLinear(64, 3), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.Linear(64, 3)(x).dtype == torch.bfloat16
        y = layer(x)
        assert layer(x.bfloat16()).dtype == torch.float32
    assert torch.equal(y, layer(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DenseStack(3, 4, layers=0), r"layers must lie in .*, got 0"),
        (lambda: pointwise("selu"), "elu, relu, silu, gelu, tanh, got 'selu'"),
        (lambda: make_norm("batch", 3), "none, layer, rms, got 'batch'"),
    ],
)
def test_mistakes_are_named(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
