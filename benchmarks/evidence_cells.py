"""A cell of the evidence: one algorithm on one task over its seeds, and all that is known of how it was measured."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offline_results import iqm

UNKNOWN = "not recorded"
ALGORITHMS = {"efficientzero": "muzero", "capture_flag": "ppo"}
"""Algorithm of a folder of configs that has another name."""


@dataclass(frozen=True)
class Goal:
    """A score that was to be reached.

    Attributes:
        text: the goal, for people.
        least: the least middle over the seeds.
        scores: of every seed, by what the goal is about; that of the last weights if it is empty.
    """

    text: str
    least: float
    scores: tuple[float, ...] = ()

    def told(self, scores: Sequence[float]) -> str:
        """Whether the middle of the seeds reaches the goal, and how many of the seeds do."""
        mine = self.scores or scores
        share = f"{sum(score >= self.least for score in mine)} of {len(mine)} seeds"
        word = "reached" if iqm([mine])[0] >= self.least else "**missed**"
        return f"{self.text}: {word}, {iqm([mine])[0]:.4g}, {share}"


@dataclass(frozen=True)
class Cell:
    """One algorithm on one task.

    Attributes:
        name: its name, that of the results file and of what it has several of.
        file: name of the results file.
        task: for people, as `title`.
        title: the algorithm and its variant.
        scores: score of each seed.
        unit: of the scores: what a `return` is of, `return`, or another quantity.
        command: command that made the scores, once for each seed if it has the word SEED.
        goals: scores that were to be reached.
        beside: scores of peers and references on the same task, by what they are.
        data: names of the datasets that it learns from.
        told: how it was measured, as far as the file says: `origin` of `measured_by.py`, and `processor`, `dates`,
            `minutes` of all seeds, and `hashes` by the name of a dataset.
    """

    name: str
    file: str
    task: str
    title: str
    scores: Mapping[int, float]
    unit: str
    command: str
    told: Mapping[str, Any]
    goals: tuple[Goal, ...] = ()
    beside: Mapping[str, float | str] | None = None
    data: tuple[str, ...] = ()

    @property
    def algorithm(self) -> str:
        """Its name among the tags of the code: the folder of its first config, or the first word of its name."""
        found = re.search(r"--config (\w+)/", self.command)
        return ALGORITHMS.get(found[1], found[1]) if found else self.name.partition("-")[0]

    def middle(self) -> tuple[float, float, float]:
        """Interquartile mean over the seeds, of fewer than four their mean, and its 95% interval; NaN of one seed."""
        return iqm([list(self.scores.values())])

    def origins(self) -> list[Mapping[str, Any]]:
        """All that is recorded of how its runs were measured; empty for files that are older than such records."""
        return [told for told in self.told["origins"] if told]

    def tag(self) -> int:
        """The oldest tag of the code that its runs were measured with; the first where none is recorded."""
        return min((told["tags"].get(self.algorithm, 1) if told else 1 for told in self.told["origins"]), default=1)


def interval(low: float, high: float) -> str:
    """`low .. high`; empty where there is none."""
    return "" if math.isnan(low) else f"{low:.4g} .. {high:.4g}"


def number(value: float | str) -> str:
    """A score beside another one."""
    return value if isinstance(value, str) else f"{value:.4g}"


def requoted(command: str) -> str:
    """A command whose JSON arguments stand bare, as earlier files have it, in a form that a shell reads."""
    if "'" in command:
        return command
    words = re.findall(r"\{[^{}]*\}|\S+", command)
    return shlex.join(words)
