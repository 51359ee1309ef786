"""Actions that are drawn for slots, and the prior that they get."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.functional.distributions import tanh_normal_log_prob
from modules.functional.proposals import distinct_proposal, gaussian_proposal, sampled_logits
from modules.search.rules import gumbel_noise


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_prior_is_the_same_for_all_draws_of_the_policy() -> None:
    drawn = gaussian_proposal(normal(3, 2), normal(3, 2, seed=1), normal(3, 5, 2, seed=2))
    assert drawn.actions.shape == (3, 5, 2)
    assert (drawn.logits.softmax(-1) == 0.2).all()


def test_the_prior_of_other_draws_is_the_ratio_of_densities() -> None:
    mean, log_std, noise = normal(3, 2).double(), normal(3, 2, seed=1).double(), normal(3, 4, 2, seed=2).double()
    widening = torch.tensor([1.0, 1.0, 3.0, 3.0]).double()
    drawn = gaussian_proposal(mean, log_std, 0.3 * noise, widening)
    policy = tanh_normal_log_prob(drawn.actions, mean.unsqueeze(1), log_std.unsqueeze(1)).sum(-1)
    wide = log_std.unsqueeze(1) + widening.log().view(-1, 1)
    proposal = tanh_normal_log_prob(drawn.actions, mean.unsqueeze(1), wide).sum(-1)
    torch.testing.assert_close(drawn.logits, sampled_logits(policy, proposal))


def test_one_factor_for_all_slots_is_as_exact_as_the_policy() -> None:
    mean, log_std, noise = normal(3, 2).double(), normal(3, 2, seed=1).double(), normal(3, 4, 2, seed=2).double()
    one, each = (gaussian_proposal(mean, log_std, noise, w) for w in (0.3, torch.full((4,), 0.3, dtype=torch.float64)))
    torch.testing.assert_close(one, each, rtol=0, atol=1e-14)


def test_distinct_actions_are_drawn_by_the_policy_and_all_of_them_are_the_policy() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -torch.inf]).expand(4000, 4)
    g = torch.Generator().manual_seed(0)
    drawn = distinct_proposal(logits, 2, gumbel_noise(logits, g))
    assert (drawn.actions[:, 0] != drawn.actions[:, 1]).all()
    first = torch.bincount(drawn.actions[:, 0], minlength=4) / 4000
    torch.testing.assert_close(first, logits[0].softmax(-1), atol=0.03, rtol=0)
    whole = distinct_proposal(logits[:1], 3, gumbel_noise(logits[:1], g))
    torch.testing.assert_close(whole.logits.softmax(-1), logits[0].softmax(-1)[whole.actions])
    every = distinct_proposal(logits[:1], 4, gumbel_noise(logits[:1], g))
    assert sorted(every.actions[0].tolist()) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="5 slots cannot have different ones of 4 actions"):
        distinct_proposal(logits, 5, logits)
