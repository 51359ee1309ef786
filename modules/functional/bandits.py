"""Which of several policies is the best, by a limited number of real episodes: two ways of spending them.

An episode of a policy is a pull of an arm. Both ways are given the arms with the most promising first; that order is
what is known before any episode, breaks ties, and leaves out the last arms where there are not enough episodes for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Pull = Callable[[int, int], float]
"""Score of the next episode of an arm, called with the arm and how many of its episodes came before."""


class Spent(NamedTuple):
    """One episode that was spent.

    Attributes:
        arm: arm that was pulled.
        score: its score.
        leader: arm that would be chosen now.
        mean: mean score of the leader so far.
    """

    arm: int
    score: float
    leader: int
    mean: float


class _Ledger:
    """Scores by arm, and who leads among some of them."""

    def __init__(self, pull: Pull, order: Sequence[int]) -> None:
        self.pull = pull
        self.scores: dict[int, list[float]] = {arm: [] for arm in order}
        self.spent: list[Spent] = []

    def mean(self, arm: int) -> float:
        return float(np.mean(self.scores[arm])) if self.scores[arm] else -math.inf

    def ranked(self, arms: Sequence[int]) -> list[int]:
        """The arms by mean score, the best first; of equal ones the more promising."""
        return sorted(arms, key=self.mean, reverse=True)  # keeps the order of equal ones

    def spend(self, arm: int, among: Sequence[int]) -> None:
        score = self.pull(arm, len(self.scores[arm]))
        self.scores[arm].append(score)
        leader = self.ranked(among)[0]
        self.spent.append(Spent(arm, score, leader, self.mean(leader)))


def successive_halving(pull: Pull, order: Sequence[int], budget: int) -> list[Spent]:
    """Give all arms as many episodes, drop the worse half, and so on, until two are left for the last round.

    Source: Karnin, Koren & Somekh 2013, "Almost Optimal Exploration in Multi-Armed Bandits"
    (https://proceedings.mlr.press/v28/karnin13.html), algorithm 1; scores of earlier rounds count in later ones.

    Args:
        pull: plays an episode.
        order: arms, the most promising first; as many of them take part as have an episode in each of their rounds.
        budget: number of episodes, all of which are spent.
    """
    taking = [n for n in range(1, len(order) + 1) if n * _rounds(n) <= budget]
    arms = list(order[: max(taking, default=1)])
    ledger = _Ledger(pull, arms)
    for left in range(_rounds(len(arms)), 0, -1):
        for i in range((budget - len(ledger.spent)) // left):
            ledger.spend(arms[i % len(arms)], arms)
        arms = ledger.ranked(arms)[: math.ceil(len(arms) / 2)]
    return ledger.spent


def _rounds(arms: int) -> int:
    return max(1, math.ceil(math.log2(arms)))


def upper_confidence_bound(pull: Pull, order: Sequence[int], budget: int) -> list[Spent]:
    """Pull each arm once, and then the one whose mean could be the highest: UCB1, of scores of any range.

    Source: Auer, Cesa-Bianchi & Fischer 2002, "Finite-time Analysis of the Multiarmed Bandit Problem"
    (https://doi.org/10.1023/A:1013689704352); scores there lie in [0, 1], here the range of those seen is the unit.

    Args:
        pull: plays an episode.
        order: arms, the most promising first.
        budget: number of episodes, all of which are spent.
    """
    ledger = _Ledger(pull, order[:budget])
    arms = list(ledger.scores)
    for n in range(budget):
        if n < len(arms):
            ledger.spend(arms[n], arms[: n + 1])
            continue
        seen = [spent.score for spent in ledger.spent]
        width = (max(seen) - min(seen)) * math.sqrt(2.0 * math.log(n))
        bounds = {arm: ledger.mean(arm) + width / math.sqrt(len(ledger.scores[arm])) for arm in arms}
        ledger.spend(max(arms, key=bounds.__getitem__), arms)
    return ledger.spent
