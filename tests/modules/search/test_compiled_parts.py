"""Compiled parts of a search are given paths of few lengths, and find the same."""

from __future__ import annotations

import pytest
import torch
from search_models import random_game

from modules.search.compiled_parts import CompiledSimulation, stretched
from modules.search.rules import PUCT, Gumbel
from modules.search.search import begin, finish, search
from modules.search.settings import SearchSettings
from modules.search.simulation import add_nodes


def test_paths_are_stretched_to_few_lengths_by_their_last_node() -> None:
    lengths = {length: len(stretched(torch.zeros(length, 1))) for length in range(1, 26)}
    assert lengths == {
        1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 6, 7: 8, 8: 8, **dict.fromkeys(range(9, 13), 12),
        **dict.fromkeys(range(13, 17), 16), **dict.fromkeys(range(17, 25), 24), 25: 32,
    }  # fmt: skip
    path = torch.arange(10).view(5, 2)
    assert torch.equal(stretched(path), torch.cat([path, path[-1:]]))


@pytest.mark.parametrize("rule", [Gumbel(), PUCT(normalisation="tree", c1=0.1)], ids=["gumbel", "puct"])
@pytest.mark.parametrize("depth", [None, 6])
def test_stretched_paths_find_the_same(rule: Gumbel | PUCT, depth: int | None) -> None:
    """Few actions, so that paths are long and those of different rows differ in length."""
    seen = set()

    def noted(*arguments: object) -> None:
        seen.add(len(arguments[1]))  # type: ignore[arg-type]  # the paths
        add_nodes(*arguments)  # type: ignore[arg-type]

    game, settings = random_game(0, actions=2), SearchSettings(30, depth, rule=rule)
    root, parts = game.root(torch.arange(7)), CompiledSimulation(begin, noted, finish)
    plain = search(root, game.step, settings, torch.Generator().manual_seed(0))
    result = search(root, game.step, settings, torch.Generator().manual_seed(0), simulate=parts)
    assert {4, 6} < seen
    assert 5 not in seen
    for x, y in zip(result, plain, strict=True):
        assert x is y is None or torch.equal(x, y)
