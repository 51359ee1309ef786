"""Reward models by themselves: memories and their resets, first predictions, gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from modules.networks.blocks import DenseStack
from modules.networks.reward_models import StepReward, ValuePrefix
from modules.networks.value_codecs import Scalar

TRUNK = partial(DenseStack, layers=1)


def latents(steps: int, rows: int = 3) -> torch.Tensor:
    return torch.rand(steps, rows, 4, generator=torch.Generator().manual_seed(0))


def made(**arguments: int) -> ValuePrefix:
    torch.manual_seed(0)
    return ValuePrefix(4, 8, TRUNK, partial(Scalar), **arguments)


def test_steps_behind_a_reset_are_steps_behind_a_root() -> None:
    model, x = made(horizon=3), latents(6)
    nothing = torch.zeros(3, model.memory_width)

    def along(steps: torch.Tensor, memory: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for latent in steps:
            prediction, memory = model(latent, memory)
            found.append(torch.cat([prediction.unsqueeze(-1), memory], -1))
        return found

    whole, first = along(x, nothing), along(x[:3], nothing)
    assert all(torch.equal(a, b) for a, b in zip(whole[:3], first, strict=True))
    reset = along(x[3:], nothing)  # after three steps, which is the horizon
    assert all(not torch.allclose(a, b) for a, b in zip(whole[3:], reset, strict=True))
    # The same latents behind a root: the past before a reset has no say.
    again = along(torch.cat([1.0 - x[:3], x[3:]]), nothing)
    assert not torch.allclose(again[3], whole[3])
    assert all(torch.equal(a, b) for a, b in zip(along(x[3:], model(x[0], nothing)[1] * 0.0), reset, strict=True))


def test_the_memory_is_the_one_of_the_plain_definition_and_gradients_reach_the_first_step() -> None:
    model, x = made(), latents(4).requires_grad_()
    memory = torch.zeros(3, model.memory_width)
    for latent in x:
        prediction, memory = model(latent, memory)
    outputs, _ = model.memory.plain(x, torch.zeros(4, 3, dtype=torch.bool), torch.zeros(3, model.memory_width))
    torch.testing.assert_close(prediction, model.head(outputs[-1]))
    (slope,) = torch.autograd.grad(prediction.sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad(model.head(outputs[-1]).sum(), x)
    torch.testing.assert_close(slope, expected)
    assert slope[0].any()


def test_a_step_reward_is_the_head_on_the_latent() -> None:
    model, x = StepReward(4, 8, TRUNK), latents(1)[0]
    prediction, memory = model(x, torch.zeros(3, 0))
    assert torch.equal(prediction, model.head(x))
    assert memory.shape == (3, 0)
    assert (model.head.mean(prediction) == 0.0).all()
    assert model.horizon is None


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        made(horizon=0)
    with pytest.raises(ValueError, match="memory must lie in"):
        made(memory=0)
