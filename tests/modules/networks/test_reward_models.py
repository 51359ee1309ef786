"""Reward models by themselves: memories and their resets, first predictions, gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from modules.networks.blocks import DenseStack
from modules.networks.reward_models import StepReward, ValuePrefix
from modules.networks.value_codecs import Scalar
from modules.search.value_prefix import first_prefix, next_prefix

TRUNK = partial(DenseStack, layers=1)


def latents(steps: int, rows: int = 3) -> torch.Tensor:
    return torch.rand(steps, rows, 4, generator=torch.Generator().manual_seed(0))


def made(**arguments: int) -> ValuePrefix:
    torch.manual_seed(0)
    return ValuePrefix(4, 8, TRUNK, partial(Scalar), **arguments)


def test_steps_behind_a_reset_are_steps_behind_a_root() -> None:
    """As a search resets it: where the age of the prefix is 0, which says `next_prefix`."""
    model, x = made(horizon=3), latents(8)
    nothing = torch.zeros(3, model.memory_width)

    def along(steps: torch.Tensor) -> list[torch.Tensor]:
        found, memory, prefix = [], nothing, first_prefix(torch.zeros(3))
        for latent in steps:
            prediction, memory = model(latent, memory)
            reward, prefix = next_prefix(prefix, model.head.mean(prediction), 3)
            memory = torch.where((prefix.age == 0).unsqueeze(-1), 0.0, memory)
            found.append(torch.cat([prediction.unsqueeze(-1), reward.unsqueeze(-1), memory], -1))
        return found

    whole, behind = along(x), along(x[3:])
    other_past = along(torch.cat([1.0 - x[:3], x[3:]]))
    assert not torch.allclose(other_past[2][:, 0], whole[2][:, 0])
    for k in range(5):
        assert torch.equal(whole[3 + k], behind[k])
        assert torch.equal(whole[3 + k], other_past[3 + k])
    # Without a reset the past would have a say.
    _, memory = model(x[2], nothing)
    assert not torch.allclose(model(x[3], memory)[0], behind[0][:, 0])


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
