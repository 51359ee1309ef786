"""Actions that are drawn for slots, the prior that they get, and a search over them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.functional.distributions import tanh_normal_log_prob
from modules.search.interface import Root, Step
from modules.search.proposals import distinct_proposal, factored_proposal, gaussian_proposal, sampled_logits
from modules.search.rules import PUCT, Gumbel
from modules.search.search import gumbel_noise, search
from modules.search.settings import SearchSettings


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_prior_is_the_same_for_all_draws_of_the_policy() -> None:
    drawn = gaussian_proposal(normal(3, 2), normal(3, 2, seed=1), normal(3, 5, 2, seed=2))
    assert drawn.actions.shape == (3, 5, 2)
    assert (drawn.logits.softmax(-1) == 0.2).all()
    on_grid = factored_proposal(normal(3, 2, 7), torch.linspace(-1, 1, 7), gumbel_noise(torch.empty(3, 5, 2, 7), None))
    assert on_grid.actions.shape == (3, 5, 2)
    assert (on_grid.logits.softmax(-1) == 0.2).all()


def test_the_prior_of_other_draws_is_the_ratio_of_densities() -> None:
    mean, log_std, noise = normal(3, 2).double(), normal(3, 2, seed=1).double(), normal(3, 4, 2, seed=2).double()
    widening = torch.tensor([1.0, 1.0, 3.0, 3.0]).double()
    drawn = gaussian_proposal(mean, log_std, 0.3 * noise, widening)
    policy = tanh_normal_log_prob(drawn.actions, mean.unsqueeze(1), log_std.unsqueeze(1)).sum(-1)
    wide = log_std.unsqueeze(1) + widening.log().view(-1, 1)
    proposal = tanh_normal_log_prob(drawn.actions, mean.unsqueeze(1), wide).sum(-1)
    torch.testing.assert_close(drawn.logits, sampled_logits(policy, proposal))


def test_distinct_actions_are_drawn_by_the_policy_and_all_of_them_are_the_policy() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -torch.inf]).expand(4000, 4)
    g = torch.Generator().manual_seed(0)
    drawn = distinct_proposal(logits, 2, gumbel_noise(logits, g))
    assert (drawn.actions[:, 0] != drawn.actions[:, 1]).all()
    first = torch.bincount(drawn.actions[:, 0], minlength=4) / 4000
    torch.testing.assert_close(first, logits[0].softmax(-1), atol=0.03, rtol=0)
    whole = distinct_proposal(logits[:1], 3, gumbel_noise(logits[:1], g))
    torch.testing.assert_close(whole.logits.softmax(-1), logits[0].softmax(-1)[whole.actions])
    with pytest.raises(ValueError, match="5 slots cannot have different ones of 4 actions"):
        distinct_proposal(logits, 5, logits)


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
