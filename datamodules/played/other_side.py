"""Who plays the other side of an environment's matches while data are collected, and how the matches ended."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from gymnasium.envs.registration import load_env_creator

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.envs.stepping import RowStream
from datamodules.played.ahead import Ahead
from datamodules.played.inline import InlineCollection
from datamodules.played.setting import make_environments
from modules.contracts import Opponents, Players


class HasOtherSide(Protocol):
    """A vector form of an environment, whose rows are the players of one side of matches that end together.

    Attributes:
        team_size: rows of a match, one behind the other.
        built_in: names that the environment's argument `opponent` takes.
    """

    team_size: int
    built_in: tuple[str, ...]

    def oppose(self, opponents: Opponents) -> None:
        """Let these play the other side, from the next match on."""

    def take_results(self) -> np.ndarray:
        """`[n, 2]` int64 the matches that ended since the last call: against whom, and 1, 0 or -1 by who won."""


def with_other_side(spec: EnvironmentSpec) -> type[HasOtherSide]:
    """The vector form of an environment, whose other side others can play.

    Raises:
        ValueError: it has no such form.
    """
    env = spec.bare()  # which imports the package that an id may name
    env.close()
    assert env.spec is not None
    entry: Any = env.spec.vector_entry_point
    form: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    if not hasattr(form, "oppose"):
        raise ValueError(f"{spec.id} has no other side that others could play, as reverie/CaptureFlag-v0 has")
    found: type[HasOtherSide] = form
    return found


class OtherSide:
    """The other side of the matches of a collection.

    Args:
        spec: environment.
        vectorization: form that its environments are made in.
        collection: kind of collection.
    """

    def __init__(self, spec: EnvironmentSpec, vectorization: str, collection: str) -> None:
        self.spec = spec
        self.vectorization = vectorization
        self.collection = collection
        self._opponents: Opponents | None = None
        self._env: Any = None

    def check(self) -> None:
        """See that others than the environment's own players can play it.

        Raises:
            ValueError: they cannot; the message says why, and what can be done.
        """
        if self.collection != "inline":
            raise ValueError(
                f"data.collection: {self.collection}: frozen opponents play in the process that learns, where their "
                "ratings follow from every match and a resume is exact; set data.collection to inline"
            )
        with_other_side(self.spec)
        if self.vectorization != "vector_entry_point":
            raise ValueError(
                f"data.vectorization: {self.vectorization}: frozen opponents act in all matches at once; set it to "
                "vector_entry_point"
            )

    def oppose(self, opponents: Opponents) -> None:
        """Let these play it in the environments of the collection that begins.

        Raises:
            ValueError: see `check`.
        """
        self.check()
        self._opponents = opponents

    def join(self, collection: InlineCollection | Ahead) -> None:
        """Let who was asked to play it join a collection."""
        if self._opponents is not None:
            assert isinstance(collection, InlineCollection)
            self._env = collection.env.unwrapped
            self._env.oppose(self._opponents)

    def take_results(self) -> np.ndarray:
        """`[n, 2]` int64 the matches of this process that ended since the last call, see `HasOtherSide`."""
        assert self._env is not None
        taken: np.ndarray = self._env.take_results()
        return taken


class Dealt:
    """Opponents of whom each match has the one that is given for it.

    Args:
        opponents: those who act.
        who: `[G]` int64 number of the one of each match.
    """

    def __init__(self, opponents: Players, who: np.ndarray) -> None:
        self.act = opponents.act
        self.who = who

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """All of them, in their order."""
        assert count == len(self.who)
        return self.who


def play_matches(
    spec: EnvironmentSpec, players: Players, first: np.ndarray, second: np.ndarray | None, seed: int
) -> np.ndarray:
    """One match for each pair of players, all at once.

    Args:
        spec: environment with an other side, see `with_other_side`.
        players: those who act.
        first: `[G]` int64 numbers of who plays the one side.
        second: `[G]` of who plays the other; None for whom the environment names.
        seed: seed of the environment.

    Returns:
        `[G]` int64: 1 where the first won, 0 for a draw, -1 where the second won.
    """
    form, count = with_other_side(spec), len(first)
    env = make_environments(spec, form.team_size * count, vectorization="vector_entry_point", seed=seed,
                            protection=Protection())  # fmt: skip
    side: Any = env.unwrapped
    if second is not None:
        side.oppose(Dealt(players, second))
    stream, who = RowStream(env), np.repeat(first, form.team_size)
    row = stream.reset(seed)
    while not stream.ended.any():
        row = stream.step(players.act(row.observation, who))
    won: np.ndarray = side.take_results()[:, 1]
    env.close()
    assert len(won) == count
    return won
