"""Matches of the members of a population with each other, and the ratings that explain their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from callbacks.frozen_players import PRIOR, actions_of
from commands.checkpoints import load_agent
from datamodules.envs.make import EnvironmentSpec
from datamodules.played.other_side import play_matches, with_other_side
from modules.agent.agent import Agent
from modules.agent.random_state import isolated_randomness
from modules.functional.ratings import table_ratings
from modules.trust.names import trusting


class Agents:
    """Agents that play by their own policies, each known by its number.

    Args:
        agents: the agents, none of which remembers.
    """

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents = agents

    def act(self, observation: np.ndarray | Mapping[str, np.ndarray], who: np.ndarray) -> np.ndarray:
        """Actions `[n, ...]` for rows `[n, ...]`, each of the agent whose number it has in `[n]`."""
        return actions_of(lambda number: self.agents[number], observation, who)


@dataclass(frozen=True)
class Matches:
    """Matches of all members with each other, after each generation.

    Attributes:
        count: matches of each pair.
        trust: names of others' code that the user's own config gives, which the members' checkpoints may name.
    """

    count: int
    trust: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], count: int) -> Matches:
        """The matches of members who train with a config.

        Args:
            config: resolved config of a member's run.
            count: matches of each pair.

        Raises:
            ValueError: the data name no environment, or one whose matches have no other side.
        """
        data = config["data"].get("init_args") or {}
        name = data.get("environment")
        if not isinstance(name, str):
            raise ValueError(
                "exploit.matches: members play each other in data.environment, and these data have none; take "
                "Truncation or Tournament, which compare returns"
            )
        try:
            with_other_side(EnvironmentSpec(name, data.get("environment_arguments") or {}))
        except ValueError as error:
            raise ValueError(f"exploit.matches: {error}; Truncation and Tournament compare returns") from error
        package, colon, _ = name.rpartition(":")
        return cls(count, (*_class_paths(config), *([package] if colon else [])))

    def rate(self, checkpoints: Sequence[Path], alive: Sequence[bool], seed: int) -> list[float]:
        """Elo ratings that explain the results of all matches the best, see `table_ratings`.

        Args:
            checkpoints: file of each member.
            alive: whether its training has not diverged.
            seed: seed of the matches and of what the policies draw.

        Returns:
            Rating of each member, whose mean over the living ones is 0; minus infinity for the others.

        Raises:
            ValueError: a member remembers what it saw, or holds several policies.
        """
        living = [member for member, lives in enumerate(alive) if lives]
        ratings = [0.0 if lives else float("-inf") for lives in alive]
        if len(living) < 2:
            return ratings
        with trusting(self.trust):
            loaded = [load_agent(checkpoints[member]) for member in living]
        for member, (agent, _) in zip(living, loaded, strict=True):
            check_player(agent, checkpoints[member])
        # Every pair, all matches at once.
        spec = loaded[0][1].known_environment(str(checkpoints[living[0]]))
        pairs = np.repeat(np.array(list(combinations(range(len(living)), 2))), self.count, axis=0)
        with isolated_randomness(seed, torch.device("cpu")):
            won = play_matches(spec, Agents([agent for agent, _ in loaded]), pairs[:, 0], pairs[:, 1], seed)
        # The table of their points.
        points = np.zeros((len(living), len(living)))
        np.add.at(points, (pairs[:, 0], pairs[:, 1]), 0.5 + 0.5 * won)
        np.add.at(points, (pairs[:, 1], pairs[:, 0]), 0.5 - 0.5 * won)
        found = table_ratings(torch.from_numpy(points), torch.full(points.shape, float(self.count)), PRIOR)
        for member, rating in zip(living, found.tolist(), strict=True):
            ratings[member] = rating
        return ratings


def check_player(agent: Agent, checkpoint: Path) -> None:
    """Refuse an agent that cannot play many matches at once by what it sees alone.

    Raises:
        ValueError: it remembers what it saw, or holds several policies.
    """
    if len(agent.member_names) > 1:
        raise ValueError(f"{checkpoint} holds {len(agent.member_names)} policies; members that play have one each")
    if agent.remembers and agent.initial_state(1) is not None:
        raise ValueError(
            f"exploit.matches: {type(agent).__name__} remembers what it saw, and would need a memory of every match; "
            "take an agent without one, such as PPO or A2C, or compare returns by Tournament"
        )


def _class_paths(config: Any) -> list[str]:
    """All class paths that a config gives."""
    if isinstance(config, Mapping):
        own = [config["class_path"]] if isinstance(config.get("class_path"), str) else []
        return own + [path for value in config.values() for path in _class_paths(value)]
    return [path for value in config for path in _class_paths(value)] if isinstance(config, list) else []
