"""A compiled simulation is the plain one."""

from __future__ import annotations

import pytest
import torch
from search_models import random_game

from modules.search.rules import PUCT, Gumbel
from modules.search.search import compile_simulation, search
from modules.search.settings import SearchSettings


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.parametrize("rule", [Gumbel(), PUCT(normalisation="tree")], ids=["gumbel", "puct"])
def test_compiled_equals_plain(rule: Gumbel | PUCT, backend: str) -> None:
    game, settings = random_game(0), SearchSettings(4, rule=rule)
    states, compiled = torch.arange(5), compile_simulation()
    for seed in (0, 1):
        plain = search(game.root(states), game.step, settings, torch.Generator().manual_seed(seed))
        draws = torch.Generator().manual_seed(seed)
        result = search(game.root(states), game.step, settings, draws, simulate=compiled)
        for x, y in zip(result, plain, strict=True):
            if x is not None:
                torch.testing.assert_close(x, y)
