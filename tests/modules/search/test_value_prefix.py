"""Differences of value prefixes are the rewards, along paths longer than the reset's horizon, in a search too."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from search_models import random_game
from torch import Tensor

from modules.search.interface import Step
from modules.search.rules import PUCT
from modules.search.search import search
from modules.search.settings import SearchSettings
from modules.search.value_prefix import Prefix, first_prefix, next_prefix

HORIZON = 3


def test_differences_telescope() -> None:
    rewards = torch.randn(11, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prefix = first_prefix(rewards[0])
    for t, reward in enumerate(rewards):
        predicted = rewards[t - t % HORIZON : t + 1].sum(0)  # since the last reset
        found, prefix = next_prefix(prefix, predicted, HORIZON)
        torch.testing.assert_close(found, reward)
        assert (prefix.age == (t + 1) % HORIZON).all()


class Remembering(NamedTuple):
    """A state, its prefix, and the sum of true rewards that a memory since the last reset would know."""

    state: Tensor
    prefix: Prefix
    memory: Tensor


def test_a_search_by_prefixes_is_the_search_by_rewards() -> None:
    """Paths of this game are longer than the horizon, and a node's siblings have other prefixes than its parent."""
    game = random_game(3, actions=2)
    game = game._replace(reward=game.reward.double(), value=game.value.double(), logits=3.0 * game.logits)
    states = torch.arange(10)
    settings = SearchSettings(40, rule=PUCT())

    def step(embedding: Remembering, action: Tensor, noise: Any) -> Step:
        plain = game.step(embedding.state, action, noise)
        known = embedding.memory + plain.reward
        reward, prefix = next_prefix(embedding.prefix, known, HORIZON)
        memory = torch.where(prefix.age == 0, 0.0, known)
        return plain._replace(reward=reward, embedding=Remembering(plain.embedding, prefix, memory))

    root = game.root(states)
    plain = search(root, game.step, settings, explore=False)
    nothing = torch.zeros(10, dtype=torch.float64)
    prefixed = root._replace(embedding=Remembering(states, first_prefix(nothing), nothing))
    result = search(prefixed, step, settings, explore=False)
    assert int(result.depth.max()) > 2 * HORIZON
    assert torch.equal(result.visits, plain.visits)
    torch.testing.assert_close(result.value, plain.value)
