"""Weights used at every step of a loop: gradients by one product behind it are those of automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.functional.weight_gradients import defer_weight_gradient

STEPS, ROWS, WIDTH = 5, 3, 4


def tensors(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = (STEPS, ROWS, WIDTH), (WIDTH, WIDTH), (ROWS, WIDTH)
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in shapes]


def loop(added: Tensor, weight: Tensor, h: Tensor, inputs: list[Tensor]) -> Tensor:
    """A plain recurrent network, `[STEPS, ROWS, WIDTH]`."""
    states = []
    for seen in added.unbind():
        inputs.append(h.detach())
        h = torch.tanh(torch.addmm(seen, h, weight.T))
        states.append(h)
    return torch.stack(states)


def test_gradients_are_those_of_the_plain_loop() -> None:
    leaves = tensors()
    added, weight, h = leaves
    aim = torch.randn(STEPS, ROWS, WIDTH, dtype=torch.float64)
    plain = loop(added, weight, h, [])
    more, fixed, inputs = defer_weight_gradient(added, weight)
    assert not fixed.requires_grad
    deferred = loop(more, fixed, h, inputs)
    assert torch.equal(deferred, plain)
    expected = torch.autograd.grad((plain * aim).sum(), leaves)
    for mine, theirs in zip(torch.autograd.grad((deferred * aim).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_of_blocks_are_those_of_the_plain_loop() -> None:
    torch.manual_seed(0)
    shapes = (STEPS, 2, ROWS, WIDTH), (2, WIDTH, WIDTH), (2, ROWS, WIDTH)
    leaves = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def by_blocks(added: Tensor, weight: Tensor, h: Tensor, inputs: list[Tensor]) -> Tensor:
        states = []
        for seen in added.unbind():
            inputs.append(h.detach())
            h = torch.tanh(torch.baddbmm(seen, h, weight.mT))
            states.append(h)
        return torch.stack(states)

    aim = torch.randn(*shapes[0], dtype=torch.float64)
    more, fixed, inputs = defer_weight_gradient(leaves[0], leaves[1])
    found, plain = by_blocks(more, fixed, leaves[2], inputs), by_blocks(*leaves, [])
    pairs = (torch.autograd.grad((x * aim).sum(), leaves) for x in (found, plain))
    for mine, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_what_needs_no_gradient_gets_none() -> None:
    added, weight, h = tensors()
    more, fixed, inputs = defer_weight_gradient(added, weight)
    states = loop(more, fixed, h, inputs)
    (found,) = torch.autograd.grad(states.sum(), h)
    (expected,) = torch.autograd.grad(loop(added, weight, h, []).sum(), h)
    torch.testing.assert_close(found, expected)


def test_a_weight_that_does_not_learn_gets_none() -> None:
    added, weight, h = tensors()
    more, fixed, inputs = defer_weight_gradient(added, weight.detach())
    (found,) = torch.autograd.grad(loop(more, fixed, h, inputs).sum(), added)
    (expected,) = torch.autograd.grad(loop(added, weight, h, []).sum(), added)
    torch.testing.assert_close(found, expected)


def test_without_gradients_nothing_is_changed() -> None:
    added, weight, _ = tensors()
    with torch.no_grad():
        assert defer_weight_gradient(added, weight)[:2] == (added, weight)


@pytest.mark.parametrize("layer", ["cast", "plain"])
def test_autocast_casts_the_weight_once_and_keeps_the_gradients_type(layer: str) -> None:
    added, weight, h = tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        seen = torch.nn.functional.linear(added, torch.eye(WIDTH)) if layer == "cast" else added
        more, fixed, inputs = defer_weight_gradient(seen, weight)
        assert fixed.dtype == torch.bfloat16
        states = loop(more, fixed, h, inputs)
        loss = states.float().square().sum()
    found = torch.autograd.grad(loss, (added, weight))
    assert [g.dtype for g in found] == [torch.float32, torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        seen = torch.nn.functional.linear(added, torch.eye(WIDTH)) if layer == "cast" else added
        loss = loop(seen, weight, h, []).float().square().sum()
    for mine, theirs in zip(found, torch.autograd.grad(loss, (added, weight)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)
