"""Earlier selves of a learning agent, which play against it and against each other, and their ratings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.agent.agent import Agent
from modules.agent.random_state import isolated_randomness
from modules.batch import PLAIN
from modules.functional.ratings import elo_gain, matchmaking, win_probability
from modules.networks.replicas import add_over_ranks

PRIOR = 1000.0
"""Standard deviation of a rating before a round-robin: who wins every match is not infinitely strong."""


@torch.no_grad()
def actions_of(
    agents: Callable[[int], Agent], observation: np.ndarray | Mapping[str, np.ndarray], who: np.ndarray
) -> np.ndarray:
    """Actions `[n, ...]` drawn from the policies of several agents, each of which acts once for all of its rows.

    Args:
        agents: gives the agent of a number.
        observation: `[n, ...]` array, or arrays by key.
        who: `[n]` int64 number of the agent that each row is for.
    """
    by_key = observation if isinstance(observation, Mapping) else {PLAIN: observation}
    seen = {name: torch.from_numpy(values) for name, values in by_key.items()}
    found: Tensor | None = None
    for number in np.unique(who).tolist():
        rows = torch.from_numpy(np.flatnonzero(who == number))
        mine: Any = {name: x[rows] for name, x in seen.items()}
        action, _ = agents(number).act(mine, explore=True)
        if found is None:
            found = action.new_empty(len(who), *action.shape[1:])
        found[rows] = action
    assert found is not None
    return found.numpy()


class FrozenPlayers:
    """Copies of an agent's weights that act, and Elo ratings of them and of the agent that learns.

    Both players of a side are moved by the same copy, so that the rating of a team, as the mean of its players, is the
    copy's own.

    Args:
        agent: agent that learns.
        width: see `modules.functional.ratings.matchmaking`.
        k: see `modules.functional.ratings.elo_gain`.

    Attributes:
        weights: tensors of each copy.
        updates: updates of the agent at which each was made.
        ratings: `[P]` float64 rating of each.
        rating: float64 rating of the agent that learns.
    """

    def __init__(self, agent: Agent, width: float, k: float) -> None:
        self.agent = agent
        self.width = width
        self.k = k
        self.weights: list[dict[str, Tensor]] = []
        self.updates: list[int] = []
        self.ratings = torch.zeros(0, dtype=torch.float64)
        self.rating = torch.zeros((), dtype=torch.float64)
        self._acting: dict[int, Agent] = {}

    def __len__(self) -> int:
        return len(self.weights)

    def add(self) -> None:
        """Freeze the agent as it is, with the rating that it has."""
        self.weights.append({name: value.detach().cpu().clone() for name, value in self.agent.state_dict().items()})
        self.updates.append(self.agent.updates)
        self.ratings = torch.cat([self.ratings, self.rating.reshape(1)])

    # --------------------------------------------------------------------------------------------------------- playing
    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Opponents of the agent in so many matches, the closer in strength the more often."""
        weights = matchmaking(win_probability(self.rating - self.ratings), self.width)
        return generator.choice(len(self), size=count, p=weights.numpy())

    def act(self, observation: np.ndarray | Mapping[str, np.ndarray], who: np.ndarray) -> np.ndarray:
        """Actions `[n, ...]` of copies by number, drawn from their policies as the learning agent's are."""
        return actions_of(self._copy, observation, who)

    def _copy(self, number: int) -> Agent:
        if number not in self._acting:
            with isolated_randomness(0, torch.device("cpu")):  # building networks draws initial weights
                self._acting[number] = self.agent.copy_for_acting(self.weights[number])()
        return self._acting[number]

    # --------------------------------------------------------------------------------------------------------- ratings
    def rate(self, results: np.ndarray) -> dict[str, float]:
        """Let all ratings follow the matches of all processes, as they were before any of these.

        Args:
            results: `[n, 2]` int64 matches of the agent in this process, see `datamodules.played.other_side`.

        Returns:
            Numbers of these matches by name: `matches`, `points` and `draws` a match, and how many copies were `met`.
        """
        who, won = torch.from_numpy(results[:, 0]), torch.from_numpy(results[:, 1]).double()
        none = torch.zeros(len(self), dtype=torch.float64)
        counts = torch.stack(
            [
                none.index_add(0, who, 0.5 + 0.5 * won),
                none.index_add(0, who, torch.ones_like(won)),
                none.index_add(0, who, (won == 0.0).double()),
            ]
        )
        # Halves are exact in float32, and ranks on accelerators exchange what lies on these.
        (total,) = add_over_ranks(counts.float().to(self.agent.device))
        points, games, draws = total.cpu().double()
        gain = elo_gain(self.rating - self.ratings, points, games, self.k)
        self.rating = self.rating + gain.sum()
        self.ratings = self.ratings - gain
        played = float(games.sum())
        shares = {"points": float(points.sum()) / max(played, 1.0), "draws": float(draws.sum()) / max(played, 1.0)}
        return {"matches": played, **shares, "met": float((games > 0).sum())}

    # --------------------------------------------------------------------------------------------------------- resume
    def state_dict(self) -> dict[str, Any]:
        """All copies and ratings."""
        copies = {"weights": list(self.weights), "updates": list(self.updates)}
        return {**copies, "ratings": self.ratings, "rating": self.rating}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name in ("weights", "updates", "ratings", "rating"):
            setattr(self, name, state[name])
        self._acting.clear()
