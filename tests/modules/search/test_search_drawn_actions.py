"""Searches over actions that are drawn for slots."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.functional.proposals import distinct_proposal, gaussian_proposal
from modules.search.interface import Root, Step
from modules.search.rules import PUCT, Gumbel
from modules.search.search import gumbel_noise, search
from modules.search.settings import SearchSettings


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rule", [Gumbel(), PUCT(c1=4.0)], ids=["gumbel", "puct"])
def test_a_search_over_drawn_actions_finds_good_ones(rule: Gumbel | PUCT) -> None:
    """A step costs the squared distance to a goal; actions are steps on the line."""
    rows, slots = 64, 12

    def step(place: Tensor, action: Tensor, noise: Tensor) -> Step:
        after = place + action[:, 0]
        drawn = gaussian_proposal(torch.zeros(rows, 1), torch.zeros(rows, 1), noise)
        return Step(
            -after.square(), torch.full((rows,), 0.5), drawn.logits, -after.square(), after, actions=drawn.actions
        )

    def draw(generator: torch.Generator | None) -> Tensor:
        return torch.randn(rows, slots, 1, generator=generator)

    g = torch.Generator().manual_seed(0)
    place = torch.linspace(-0.5, 0.5, rows)
    drawn = gaussian_proposal(torch.zeros(rows, 1), torch.zeros(rows, 1), draw(g))
    root = Root(drawn.logits, -place.square(), place, actions=drawn.actions)
    result = search(root, step, SearchSettings(48, rule=rule), g, draw=draw, explore=False)
    assert result.action.shape == (rows, 1)
    chosen = (place + result.action[:, 0]).abs()
    possible = (place.unsqueeze(1) + drawn.actions[..., 0]).abs()
    best = possible.amin(1).mean()
    assert float(chosen.mean() - best) < 0.5 * float(possible.mean() - best)


@pytest.mark.parametrize("rule", [Gumbel(considered=8), PUCT()], ids=["gumbel", "puct"])
def test_a_search_over_few_of_many_numbered_actions(rule: Gumbel | PUCT) -> None:
    rows, actions, slots = 40, 1000, 8
    q = normal(rows, actions).sigmoid()
    logits = 2.0 * q
    g = torch.Generator().manual_seed(0)
    row = torch.arange(rows)

    def draw(generator: torch.Generator | None) -> Tensor:
        return gumbel_noise(logits, generator)

    def step(embedding: Tensor, action: Tensor, noise: Any) -> Step:
        drawn = distinct_proposal(logits, slots, noise)
        zeros = torch.zeros(rows)
        return Step(q[row, action], zeros, drawn.logits, zeros, embedding, actions=drawn.actions)

    drawn = distinct_proposal(logits, slots, draw(g))
    root = Root(drawn.logits, torch.zeros(rows), torch.zeros(rows), actions=drawn.actions)
    result = search(root, step, SearchSettings(16, rule=rule), g, draw=draw, explore=False)
    assert torch.equal(result.action, drawn.actions[row, result.slot])
    assert torch.equal(q[row, result.action], q.gather(1, drawn.actions).amax(1))
