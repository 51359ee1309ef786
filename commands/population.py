"""A population and all that it has done, in one file of its folder: enough to go on from, after any crash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.files.written_aside import written_aside
from modules.agent.evolution import Exploit, Explore, Gene, Genes, Returns, new_genes
from modules.arguments.tunable import Change
from modules.trust.files import read_json_object

FILE = "population.json"


@dataclass
class Population:
    """Members of a population, and its generations so far.

    Attributes:
        folder: folder of the population; each member's run has one of its own below it.
        settings: what does not change, such as the seed and the bounds of the genes, as plain values.
        genes: genes of each member in the next generation.
        history: generations that are over, each with the `genes` of all members during it, their `returns` at its end
            (mean, deviation and count of episodes), their `ratings` then, or None where they play no matches, and whom
            each of them `copied`, or None.
    """

    folder: Path
    settings: dict[str, Any]
    genes: list[Genes]
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def new(
        cls, folder: Path, settings: dict[str, Any], bounds: Mapping[str, Gene], kinds: Mapping[str, Change]
    ) -> Population:
        """A population whose genes are drawn."""
        members = range(settings["members"])
        return cls(folder, settings, [new_genes(bounds, kinds, _random(settings, "first", m)) for m in members])

    @classmethod
    def read(cls, folder: Path, settings: Mapping[str, Any]) -> Population:
        """The population of a folder.

        Raises:
            ValueError: the file is damaged, or the settings are not those that it was started with.
        """
        content = read_json_object(folder / FILE)
        if set(content) != {"settings", "genes", "history"}:
            raise ValueError(f"{folder / FILE} holds no population")
        for name, value in settings.items():
            old = content["settings"].get(name)
            if old != value:
                raise ValueError(
                    f"the population was started with {name} {json.dumps(old)} and would go on with "
                    f"{json.dumps(value)}: give the old one, or start a new population without --ckpt_path"
                )
        return cls(folder, **content)

    def write(self) -> None:
        """Write the file; a crash leaves the old one or the new one."""
        content = {"settings": self.settings, "genes": self.genes, "history": self.history}
        with written_aside(self.folder / FILE) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")

    @property
    def members(self) -> list[Path]:
        """Folders of the members."""
        return [self.folder / f"member-{number}" for number in range(len(self.genes))]

    def seed_of(self, member: int) -> int:
        """Seed of a member's run."""
        return int(_random(self.settings, "run", member).integers(2**31 - 1))

    def seed_of_matches(self) -> int:
        """Seed of the matches of all members with each other after the generation that is training."""
        return int(_random(self.settings, "matches", len(self.history)).integers(2**31 - 1))

    def choose(self, returns: list[Returns], ratings: list[float] | None, exploit: Exploit) -> list[int | None]:
        """Whom each member copies; one that has failed copies the best one, if it was not to copy another.

        Raises:
            FloatingPointError: all have failed.
        """
        scores = scores_of(returns, ratings)
        best = int(np.argmax(scores))
        if not np.isfinite(scores[best]):
            raise FloatingPointError(
                "the training of every member has diverged: lower the bounds of the learning rates in genes"
            )
        chosen = exploit.choose(returns, ratings, _random(self.settings, "exploit", len(self.history)))
        return [
            best if not np.isfinite(score) and (donor is None or not np.isfinite(scores[donor])) else donor
            for score, donor in zip(scores, chosen, strict=True)
        ]

    def go_on(
        self,
        returns: list[Returns],
        ratings: list[float] | None,
        copied: list[int | None],
        explore: Explore,
        bounds: Mapping[str, Gene],
        kinds: Mapping[str, Change],
    ) -> None:
        """Add a generation, and give those that copy the genes of whom they copy, changed."""
        number, before = len(self.history), self.genes
        told = {"genes": before, "returns": [list(r) for r in returns], "ratings": ratings, "copied": copied}
        self.history.append(told)
        self.genes = [
            before[member]
            if donor is None
            else explore.change(before[donor], bounds, kinds, _random(self.settings, "explore", number, member))
            for member, donor in enumerate(copied)
        ]


def scores_of(returns: Sequence[Sequence[float]], ratings: Sequence[float] | None) -> list[float]:
    """By what members of a generation are ranked: ratings, or, where they play no matches, means of returns."""
    return [mean for mean, _, _ in returns] if ratings is None else list(ratings)


def _random(settings: Mapping[str, Any], *what: str | int) -> np.random.Generator:
    """A generator of its own for each use, so that what is drawn does not depend on how often a run was continued."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in what]
    return np.random.default_rng([settings["seed"], *words])
