"""Pessimism inside a world model of recorded data: what is taken from rewards, by slow loops, and how it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dreamer_agents import latent
from torch import Tensor

from modules.world_model.disagreement_penalty import DisagreementPenalty
from modules.world_model.rssm import RSSM, Observed, State

HORIZON, ROWS, MEMBERS, ACTION = 4, 3, 3, 2


def make(**arguments: Any) -> tuple[DisagreementPenalty, RSSM]:
    torch.manual_seed(0)
    rssm = RSSM(6, ACTION, latent(), deter=8, hidden=8)
    return DisagreementPenalty(rssm, ACTION, **{"members": MEMBERS, "hidden": [16], **arguments}), rssm


def reward(features: Tensor, actions: Tensor) -> Tensor:
    return features[..., 0] - actions[..., 1]


def test_a_state_costs_the_disagreement_about_it_before_it_was_reached() -> None:
    pessimism, rssm = make(scale=7.0)
    features, actions = torch.randn(HORIZON, ROWS, rssm.width), torch.randn(HORIZON, ROWS, ACTION)
    found = pessimism.penalised(reward)(features, actions)
    for t in range(HORIZON):
        for n in range(ROWS):
            expected = features[t, n, 0] - actions[t, n, 1]
            if t:
                seen = torch.cat([features[t - 1, n], actions[t - 1, n]])
                each = torch.stack([pessimism.ensemble.member(m)(seen) for m in range(MEMBERS)])
                expected = expected - 7.0 * (each - each.mean(0)).square().mean(0).sqrt().mean()
            torch.testing.assert_close(found[t, n], expected)


def test_without_a_scale_rewards_are_as_they_were() -> None:
    pessimism, rssm = make(scale=0.0)
    features, actions = torch.randn(HORIZON, ROWS, rssm.width), torch.randn(HORIZON, ROWS, ACTION)
    assert torch.equal(pessimism.penalised(reward)(features, actions), reward(features, actions))


def test_members_come_to_agree_where_there_are_data_and_nowhere_else() -> None:
    pessimism, rssm = make(lr=3e-3)
    steps, rows = 8, 16
    is_first = torch.zeros(steps, rows, dtype=torch.bool)
    told: dict[str, Tensor] = {}
    for _ in range(400):
        state = State(torch.randn(steps, rows, 8), torch.randn(steps, rows, rssm.latent.width))
        state.z[1:] = state.z[:-1].flip(-1)  # what comes next is known
        seen = Observed(state, *[torch.zeros(steps, rows, 1)] * 2)
        told = pessimism.fit(seen, torch.zeros(steps, rows, ACTION), is_first)
    known = torch.cat([torch.randn(500, 8), torch.randn(500, rssm.latent.width)], -1)
    near = pessimism.disagreement(known, torch.zeros(500, ACTION)).mean()
    far = pessimism.disagreement(5 * known, torch.zeros(500, ACTION)).mean()
    assert far > 3 * near
    torch.testing.assert_close(told["disagreement"], near.detach(), rtol=0.3, atol=0.0)
    assert not told["ensemble_loss"].requires_grad


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": -1.0}, "scale must lie in"),
        ({"scale": float("nan")}, "scale must lie in"),
        ({"lr": -1.0}, "lr must lie in"),
    ],
)
def test_a_bad_number_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**given)
