"""How a population of agents evolves: its genes, who copies whom, and how a copy differs.

Source: Jaderberg et al. 2017, "Population Based Training of Neural Networks" (https://arxiv.org/abs/1711.09846).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from modules.arguments.checks import check_group, check_ranges, check_sizes
from modules.arguments.tunable import Change
from modules.functional.evolution import first_gene, perturbed_gene, rated_tournament, tournament, truncation

Genes = dict[str, float | int | list[float | int]]
"""Values by argument of the agent."""


class Returns(NamedTuple):
    """Returns of the episodes of a member's latest evaluation.

    Attributes:
        mean: minus infinity for a member whose training has diverged.
        deviation: standard deviation with `episodes - 1` in the divisor.
        episodes: number of episodes.
    """

    mean: float
    deviation: float
    episodes: int


@dataclass(frozen=True)
class Gene:
    """An argument that differs between members, and changes while they train.

    Args:
        low: smallest value.
        high: largest value.
        size: numbers in it, each a gene of its own, for an argument that is a list; null for a single number.

    Raises:
        ValueError: there is no value in between, or no such list.
    """

    low: float
    high: float
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that no value is between."""
        check_group("genes", self)
        check_ranges(("low", self.low, -1e30, 1e30), ("high", self.high, -1e30, 1e30))
        check_sizes(size=self.size)
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")

    def check(self, name: str, change: Change) -> None:
        """Refuse bounds that do not fit how the argument changes.

        Raises:
            ValueError: it names the gene.
        """
        if change == "scale" and self.low <= 0.0:
            raise ValueError(f"genes.{name}.low must be above 0, for it is drawn by its logarithm, got {self.low:g}")
        if change == "horizon" and not 0.0 <= self.low < self.high < 1.0:
            raise ValueError(
                f"genes.{name}: low and high must be from 0 to below 1, got {self.low:g} and {self.high:g}"
            )
        if change == "whole" and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"genes.{name}: low and high must be integers, got {self.low:g} and {self.high:g}")


class Exploit(ABC):
    """Who copies whom, from the returns of all members, or from ratings by their matches with each other.

    Attributes:
        matches: matches of each pair of members that ratings are made of; 0 where returns are all that counts.
    """

    matches: int = 0

    @abstractmethod
    def choose(
        self, returns: Sequence[Returns], ratings: Sequence[float] | None, random: np.random.Generator
    ) -> list[int | None]:
        """For each member the one that it copies, or None.

        Args:
            returns: of each member.
            ratings: Elo rating of each member, minus infinity for one whose training has diverged; None where there are
                no `matches`.
            random: decides where chance does.
        """


class Truncation(Exploit):
    """The worst members copy one of the best ones.

    Args:
        share: share of the members that counts as worst, and as best, rounded down but one member at least.

    Raises:
        ValueError: the share is none of 0 to a half.
    """

    def __init__(self, share: float = 0.2) -> None:
        check_ranges(("share", share, 0.0, 0.5))
        self.share = share

    def choose(
        self, returns: Sequence[Returns], ratings: Sequence[float] | None, random: np.random.Generator
    ) -> list[int | None]:
        return truncation([r.mean for r in returns], self.share, random)


class Tournament(Exploit):
    """Each member looks at another one, and copies it if its returns are better by Welch's t-test.

    Args:
        level: probability of a difference as large where there is none, below which it counts.

    Raises:
        ValueError: the level is no probability.
    """

    def __init__(self, level: float = 0.05) -> None:
        check_ranges(("level", level, 0.0, 1.0))
        self.level = level

    def choose(
        self, returns: Sequence[Returns], ratings: Sequence[float] | None, random: np.random.Generator
    ) -> list[int | None]:
        means, deviations, counts = zip(*returns, strict=True)
        return tournament(means, deviations, counts, self.level, random)


class WinProbability(Exploit):
    """Each member looks at another one, and copies it if that one would win against it often enough.

    For games of two sides, see `datamodules.played.other_side`: after each generation all members play each other, and
    the ratings that explain the results the best say how often each wins. A chance of 0.7 are 147 points of rating.

    Source: Jaderberg et al. 2019, "Human-level performance in 3D multiplayer games with population-based reinforcement
    learning" (https://arxiv.org/abs/1807.01281), who compare with 70%, of ratings that follow matches of
    training.

    Args:
        threshold: chance of the other one to win, in which a draw is half a win, from which on it is copied.
        matches: matches of each pair of members after a generation.

    Raises:
        ValueError: the threshold is none of a half to 1, or there is no match.
    """

    def __init__(self, threshold: float = 0.7, matches: int = 20) -> None:
        check_ranges(("threshold", threshold, 0.5, 1.0))
        check_sizes(matches=matches)
        self.threshold = threshold
        self.matches = matches

    def choose(
        self, returns: Sequence[Returns], ratings: Sequence[float] | None, random: np.random.Generator
    ) -> list[int | None]:
        assert ratings is not None
        return rated_tournament(ratings, self.threshold, random)


@dataclass(frozen=True)
class Explore:
    """How the genes of a copy differ from those that it copies.

    Args:
        factors: each gene is multiplied by one of these, each as likely; integers are drawn anew instead.
        share: probability that a gene changes at all.
        resample: probability that a gene that changes is drawn as those of a new member.

    Raises:
        ValueError: there is no factor, one is not positive, or a number is no probability.
    """

    factors: tuple[float, ...] = (0.8, 1.2)
    share: float = 1.0
    resample: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what changes nothing or is no probability."""
        check_group("explore", self)
        check_ranges(("explore.share", self.share, 0.0, 1.0), ("explore.resample", self.resample, 0.0, 1.0))
        check_ranges(*((f"explore.factors.{i}", factor, 1e-6, 1e6) for i, factor in enumerate(self.factors)))
        if not self.factors:
            raise ValueError("explore.factors must hold a factor, such as [0.8, 1.2]")

    def change(
        self, genes: Genes, bounds: Mapping[str, Gene], kinds: Mapping[str, Change], random: np.random.Generator
    ) -> Genes:
        """The genes of a copy."""

        def one(name: str, value: float) -> float | int:
            gene, kind = bounds[name], kinds[name]
            if random.random() >= self.share:
                return value
            if random.random() < self.resample:
                return first_gene(kind, gene.low, gene.high, random)
            return perturbed_gene(kind, value, gene.low, gene.high, self.factors, random)

        return {
            name: [one(name, part) for part in value] if isinstance(value, list) else one(name, value)
            for name, value in genes.items()
        }


def new_genes(bounds: Mapping[str, Gene], kinds: Mapping[str, Change], random: np.random.Generator) -> Genes:
    """The genes of a new member."""

    def one(name: str) -> float | int:
        return first_gene(kinds[name], bounds[name].low, bounds[name].high, random)

    return {name: one(name) if gene.size is None else [one(name) for _ in range(gene.size)]
            for name, gene in bounds.items()}  # fmt: skip
