"""Settings of a search."""

from __future__ import annotations

from dataclasses import dataclass

from modules.arguments.checks import check_counts, check_group, check_ranges
from modules.search.rules import PUCT, Gumbel

MOST_SIMULATIONS = 100_000


@dataclass(frozen=True)
class SearchSettings:
    """How much is searched, and by which rule.

    Args:
        simulations: per search; each adds a node to the tree.
        max_depth: steps from the root at most; null for as many as there are simulations. A node at that depth is
            evaluated again when a simulation arrives there again.
        optimism: deviations of the epistemic variance that are added to mean returns when slots are chosen, while
            exploring: what the model does not know is tried. The value that is returned has none of them in it.
        pessimism: the same, subtracted, while not exploring: what the model does not know is left alone.
        rule: how slots are chosen; in YAML the other kind is named by `class_path`, with its `init_args`.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `search.simulations` and so on.
    """

    simulations: int = 16
    max_depth: int | None = None
    optimism: float = 0.0
    pessimism: float = 0.0
    rule: Gumbel | PUCT = Gumbel()

    def __post_init__(self) -> None:
        """Refuse what no search can use."""
        check_group("search", self)
        check_counts(1, **{"search.simulations": self.simulations, "search.max_depth": self.max_depth})
        check_ranges(
            ("search.simulations", self.simulations, 1, MOST_SIMULATIONS),
            ("search.optimism", self.optimism, -1e6, 1e6),
            ("search.pessimism", self.pessimism, -1e6, 1e6),
        )

    @property
    def levels(self) -> int:
        """Edges of the longest path."""
        return self.simulations if self.max_depth is None else min(self.max_depth, self.simulations)
