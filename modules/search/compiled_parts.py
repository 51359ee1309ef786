"""A search in compiled parts: the trees' beginning, all of a simulation behind its walk, and the conclusion.

A walk is as long as the deepest row's, which only the trees know. It is made plainly, one look-up per level, and what
follows is compiled once for each length that paths are stretched to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modules.search.interface import Recurrent
from modules.search.nodes import Tree
from modules.search.rules import Plan
from modules.search.settings import SearchSettings
from modules.search.simulation import add_nodes, walk_down
from modules.torch_private import MOST_LENGTHS


@dataclass(frozen=True)
class CompiledSimulation:
    """Simulates as `simulate` does, and has the other parts of a search beside it.

    Args:
        begin: compiled form of the search's beginning.
        add_nodes: compiled form of `modules.search.simulation.add_nodes`.
        finish: compiled form of the search's end.
    """

    begin: Callable[..., Any]
    add_nodes: Callable[..., Any]
    finish: Callable[..., Any]

    def __call__(
        self,
        tree: Tree,
        plan: Plan,
        number: Tensor,
        ties: Tensor | None,
        noise: object,
        recurrent: Recurrent,
        settings: SearchSettings,
    ) -> None:
        """Add one node to each tree; arguments as those of `simulate`."""
        path = stretched(walk_down(tree, settings.levels))
        self.add_nodes(tree, path, plan, number, ties, noise, recurrent, settings)


def compiled_parts(begin: Callable[..., Any], finish: Callable[..., Any]) -> CompiledSimulation:
    """Compile the simulation, and the beginning and the end of a search."""

    settings: dict[str, Any] = {"fullgraph": True, "dynamic": False, "recompile_limit": MOST_LENGTHS}
    return CompiledSimulation(*(torch.compile(part, **settings) for part in (begin, add_nodes, finish)))


def stretched(path: Tensor) -> Tensor:
    """Paths `[L, B]` whose last node is repeated, up to one of few lengths: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ..."""
    length = len(path)
    step = 1 << max(0, (length - 1).bit_length() - 2)
    return torch.cat([path, path[-1:].expand(-length % step, -1)])
