"""Levels of brightness and the loss with a floor."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.frame_classes import floored_cross_entropy, from_levels, plain_floored_cross_entropy, to_levels


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_levels_are_brightnesses_of_equal_distance(levels: int) -> None:
    every = torch.arange(levels)
    frame = from_levels(every, levels)
    assert frame.dtype == torch.uint8
    assert (frame[0], frame[-1]) == (0, 255)
    assert torch.equal(to_levels(frame, levels), every)


def test_of_two_levels_the_nearer_one_is_taken() -> None:
    assert to_levels(torch.tensor([0, 127, 128, 255], dtype=torch.uint8), 2).tolist() == [0, 0, 1, 1]


def test_the_loss_is_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator) * 3.0
    level = torch.randint(5, (2, 3, 4), generator=generator)
    floored = floored_cross_entropy(logits, level, 0.3)
    torch.testing.assert_close(floored, plain_floored_cross_entropy(logits, level, 0.3))
    assert 0 < (floored == 0.3).sum() < floored.numel()


def test_a_pixel_below_the_floor_asks_for_nothing() -> None:
    logits = torch.tensor([[3.0, 0.0], [1.0, 0.0]], requires_grad=True)  # losses 0.049 and 0.313
    loss = floored_cross_entropy(logits, torch.tensor([0, 0]), 0.1)
    torch.testing.assert_close(loss.detach(), torch.tensor([0.1, math.log1p(math.exp(-1.0))]))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0.0, 0.0]
    assert (logits.grad[1] != 0.0).all()
