"""Searches of random games find what a plain search of one row at a time finds."""

from __future__ import annotations

import pytest
import torch
from plain_search import PlainSearch
from search_models import Game, random_game

from modules.search.interface import Noise
from modules.search.rules import PUCT, Gumbel
from modules.search.search import search
from modules.search.settings import SearchSettings

SETTINGS = {
    "gumbel": SearchSettings(20, rule=Gumbel(considered=3)),
    "gumbel, raw returns": SearchSettings(20, rule=Gumbel(value_scale=0.02, rescale=False)),
    "gumbel, shallow": SearchSettings(20, max_depth=2, rule=Gumbel()),
    "puct": SearchSettings(20, rule=PUCT()),
    "puct, whole tree": SearchSettings(20, rule=PUCT(normalisation="tree", least_range=0.01)),
    "puct, shallow": SearchSettings(20, max_depth=2, rule=PUCT()),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("gamma", [0.9, -1.0])
def test_finds_the_same(settings: SearchSettings, gamma: float) -> None:
    g = torch.Generator().manual_seed(7)
    for seed in range(3):
        game = random_game(seed, gamma=gamma)
        game = Game(*(x.double() if x.is_floating_point() else x for x in game))
        states = torch.arange(6)
        noise = torch.rand(6, 4, generator=g, dtype=torch.float64)
        if isinstance(settings.rule, PUCT):
            noise = noise / noise.sum(1, keepdim=True)
        result = search(game.root(states), game.step, settings, noise=Noise(root=noise))
        for row, state in enumerate(states.tolist()):
            plain = PlainSearch(game, settings, state, noise[row].tolist())
            assert result.visits[row].tolist() == plain.root.visits()
            assert float(result.value[row]) == pytest.approx(plain.root.mean(), abs=1e-9)
