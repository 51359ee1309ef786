"""LaProp of whole networks: as it is defined and as TorchRL has it, over checkpoints, and bad arguments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchrl.trainers.algorithms.dreamer_v3 import DreamerV3Optimizer

from modules.agent.descent import descend_parts
from modules.agent.laprop import LaProp
from modules.functional.laprop_steps import Moments, clip_to_weight, laprop_direction

SETTINGS = {"lr": 0.01, "beta1": 0.8, "beta2": 0.99, "eps": 1e-20}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    nn.init.zeros_(made[2].weight)  # whose gradient is cut hardest
    return made


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)
    return 10.0 * (model(x) - y).square().mean()


@pytest.mark.parametrize("warmup", [0, 3])
def test_every_step_is_the_definition_and_torchrls(warmup: int) -> None:
    mine, plain, theirs = (network() for _ in range(3))
    optimizer = LaProp(mine.parameters(), clip=0.3, warmup=warmup, **SETTINGS)
    peer = DreamerV3Optimizer(theirs.parameters(), agc=0.3, warmup_steps=warmup, **SETTINGS)
    moments = [Moments(torch.zeros_like(p), torch.zeros_like(p), 0) for p in plain.parameters()]
    for step in range(6):
        parameters = list(mine.parameters())
        before = [p.detach().clone() for p in parameters]
        norm = descend_parts(optimizer, [(loss_of(mine, step), parameters)])
        # As it is defined.
        gradients = torch.autograd.grad(loss_of(plain, step), list(plain.parameters()))
        assert norm.item() == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item(), rel=1e-4)
        rate = 0.01 * (min(1.0, step / warmup) if warmup else 1.0)
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(plain.parameters(), gradients, strict=True)):
                direction, moments[i] = laprop_direction(
                    clip_to_weight(g, p, 0.3, 1e-3), moments[i], (0.8, 0.99), 1e-20
                )
                p -= rate * direction
        # As TorchRL has it.
        peer.zero_grad()
        loss_of(theirs, step).backward()
        peer.step()
        for a, b, c in zip(parameters, plain.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-6)
        moved = any(not torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
        assert moved == (warmup == 0 or step > 0)


def test_each_loss_trains_its_own_parameters() -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = LaProp([first, second], lr=0.1, warmup=0)
    descend_parts(optimizer, [(first.sum(), [first]), ((100.0 * first - second).sum(), [second])])
    torch.testing.assert_close(first.detach(), torch.full((2,), 0.9))  # nothing of the second loss
    torch.testing.assert_close(second.detach(), torch.full((2,), 1.1))


def test_a_checkpoint_brings_moments_and_count_back_and_not_the_arguments() -> None:
    whole = network()
    optimizer = LaProp(whole.parameters(), warmup=4, **SETTINGS)
    for step in range(2):
        descend_parts(optimizer, [(loss_of(whole, step), list(whole.parameters()))])
    rest = copy.deepcopy(whole)
    again = LaProp(rest.parameters(), warmup=4, **SETTINGS | {"lr": 0.5})
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.param_groups[0]["lr"] == 0.5
    again.param_groups[0]["lr"] = 0.01
    for step in range(2, 4):
        for model, one in ((whole, optimizer), (rest, again)):
            descend_parts(one, [(loss_of(model, step), list(model.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip": 0.0}, "clip must be"),
        ({"lr": -1.0}, "lr must lie in"),
        ({"beta2": 1.0}, "beta2 must lie in"),
        ({"warmup": -1}, "warmup must lie in"),
        ({"eps": 0.0}, "eps must be"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LaProp([nn.Parameter(torch.ones(1))], **arguments)
