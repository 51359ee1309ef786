"""Models for searches: games of few states as tables, and what a search left in its trees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.search.interface import Noise, Root, SearchResult, Step
from modules.search.nodes import Tree
from modules.search.rules import PUCT, Gumbel
from modules.search.search import search
from modules.search.settings import SearchSettings
from modules.search.simulation import simulate

MCTX = Path(__file__).parents[1] / "data/mctx"
DTYPES = {"next": torch.int64, "valid": torch.bool}


class Game(NamedTuple):
    """Tables of `X` states; a state is its own embedding."""

    logits: Tensor  # [X, K]
    value: Tensor  # [X]
    reward: Tensor  # [X, K]
    discount: Tensor  # [X, K]
    next: Tensor  # [X, K]

    def root(self, states: Tensor, valid: Tensor | None = None) -> Root:
        return Root(self.logits[states], self.value[states], states, valid)

    def step(self, embedding: Tensor, action: Tensor, noise: Any) -> Step:
        after = self.next[embedding, action]
        reward, discount = self.reward[embedding, action], self.discount[embedding, action]
        return Step(reward, discount, self.logits[after], self.value[after], after)


def random_game(seed: int, states: int = 40, actions: int = 4, gamma: float = 0.9) -> Game:
    g = torch.Generator().manual_seed(seed)
    shape = states, actions
    ends = torch.rand(shape, generator=g) < 0.1
    return Game(
        torch.randn(shape, generator=g),
        torch.randn(states, generator=g),
        torch.randn(shape, generator=g),
        torch.where(ends, 0.0, gamma),
        torch.randint(states, shape, generator=g),
    )


def searched(
    root: Root, recurrent: Any, settings: SearchSettings, *args: Any, **named: Any
) -> tuple[SearchResult, Tree]:
    """The result, and the trees that it is of."""
    seen: list[Tree] = []

    def watched(tree: Tree, *arguments: Any) -> None:
        seen.append(tree)
        simulate(tree, *arguments)

    result = search(root, recurrent, settings, *args, simulate=watched, **named)
    return result, seen[-1]


class Golden(NamedTuple):
    """A case that mctx has searched."""

    game: Game
    root: Root
    settings: SearchSettings
    noise: Noise
    found: dict[str, Any]


def golden(path: Path) -> Golden:
    """Read a file that `benchmarks/peers/mctx_trees.py` has made."""
    found = json.loads(path.read_text())
    case = found["case"]
    game = Game(**{key: torch.tensor(x, dtype=DTYPES.get(key, torch.float32)) for key, x in found["game"].items()})
    rules: dict[str, Callable[[], Gumbel | PUCT]] = {
        "gumbel": lambda: Gumbel(considered=case["considered"]),
        "puct": lambda: PUCT(dirichlet_share=case.get("share", 0.25)),
    }
    settings = SearchSettings(case["simulations"], case.get("max_depth"), rule=rules[case["rule"]]())
    root = game.root(torch.arange(len(found["valid"])), torch.tensor(found["valid"]))
    return Golden(game, root, settings, Noise(root=torch.tensor(found["noise"])), found)
