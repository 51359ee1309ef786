"""`--simulations 0 4 16` of `reverie evaluate`: an agent that searches, with more simulations, fewer or none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from callbacks.evaluation.rollout import Player, Rollouts, evaluate_player, evaluation_environments, warn_of_silence
from commands.asked_episodes import Asked
from commands.real_episodes import OnePolicy
from datamodules.envs.episode_infos import return_text
from modules.agent.agent import Agent
from modules.algorithms.lookahead import Lookahead
from modules.functional.statistics import bootstrap_interval
from modules.search.settings import MOST_SIMULATIONS, SearchSettings

FLAG = "--simulations"


@runtime_checkable
class Searching(Protocol):
    """An agent of one member that acts by a search.

    Attributes:
        search: settings of the search, read whenever it acts.
    """

    search: SearchSettings

    def policy(self, member: int = 0) -> nn.Module:
        """The policy that the search begins with, alone: observations `[B, ...]` in, the environment's actions out."""


class Timed:
    """A player that notes how long it decides.

    Args:
        player: player that decides.

    Attributes:
        seconds: time of all decisions so far.
        decisions: their number, one for each row.
    """

    def __init__(self, player: Player) -> None:
        self.player = player
        self.alive = player.alive
        self.member_names = player.member_names
        self.seconds = 0.0
        self.decisions = 0

    @property
    def device(self) -> torch.device:
        """Device of the observations that it takes."""
        return self.player.device

    def initial_state(self, batch: int) -> Any:
        """The player's own."""
        return self.player.initial_state(batch)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        """The player's actions `[B, ...]`, on the host when the clock stops."""
        began = time.perf_counter()
        action, state = self.player.act(observation, state, explore=explore)
        action = action.cpu()
        self.seconds += time.perf_counter() - began
        self.decisions += len(action)
        return action, state

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        """The player's own."""
        return self.player.rewarded(state, reward)


class Searched(NamedTuple):
    """The same episodes with a number of simulations.

    Attributes:
        simulations: per decision; 0 for the policy alone.
        rollouts: episodes of one member.
        seconds: per decision, where as many environments are decided for at once as were played together.
    """

    simulations: int
    rollouts: Rollouts
    seconds: float


class SearchPlays:
    """The agent of a checkpoint with other numbers of simulations; what does not fit is refused before it is played.

    Args:
        agent: agent of the checkpoint, on the CPU.
        path: path of the checkpoint.
        simulations: numbers of simulations, in the order in which they are shown; None for no comparison.
        lookahead: settings of a lookahead, which has no place beside it.

    Attributes:
        searched: the comparison, after `play`.

    Raises:
        ValueError: the agent has no search, a number is out of range or there twice, or lookahead is asked for, too.
    """

    def __init__(self, agent: Agent, path: str, simulations: Sequence[int] | None, lookahead: Lookahead) -> None:
        self.agent = agent
        self.simulations = list(simulations or ())
        self.searched: list[Searched] = []
        if simulations is None:
            return
        if not isinstance(agent, Searching) or not isinstance(agent.search, SearchSettings):
            raise ValueError(
                f"{FLAG}: {path} holds a {type(agent).__name__}, which acts without a search; leave it out"
            )
        if lookahead.model is not None:
            raise ValueError(f"{FLAG} and --lookahead.model are two comparisons; give one of them at a time")
        wrong = [n for n in self.simulations if not 0 <= n <= MOST_SIMULATIONS]
        if wrong or not self.simulations or len(set(self.simulations)) < len(self.simulations):
            raise ValueError(
                f"{FLAG} must be different numbers from 0, the policy alone, to {MOST_SIMULATIONS:,}; "
                f"got {str(self.simulations)[:80]}"
            )

    def play(self, asked: Asked) -> list[tuple[str, Rollouts, int]]:
        """Play the same episodes with each number: its name, the episodes, and 0 for the one member; empty for none."""
        if not self.simulations:
            return []
        episodes, seed, limit = asked.episodes, asked.seed, asked.max_episode_steps
        vector = evaluation_environments(asked.spec, asked.parallel, seed, asked.protection)
        try:
            for simulations in self.simulations:
                player = Timed(self.player(simulations))
                rollouts = evaluate_player(player, vector, episodes, seed, max_episode_steps=limit)
                self.searched.append(Searched(simulations, rollouts, player.seconds / player.decisions))
        finally:
            vector.close()
        warn_of_silence(self.searched[0].rollouts, asked.protection.infos)
        return [(named(s.simulations), s.rollouts, 0) for s in self.searched]

    def player(self, simulations: int) -> Player:
        """The agent with so many simulations, or its policy alone."""
        agent = self.agent.eval()
        assert isinstance(agent, Searching)
        if simulations == 0:
            return OnePolicy(agent.policy())
        agent.search = replace(agent.search, simulations=simulations)
        return self.agent


def print_searched(console: Console, searched: Sequence[Searched]) -> None:
    """One row per number: the return, what it has over the first number on the same episodes, and its time.

    The intervals of the returns themselves are in the table of all policies.
    """
    if not searched:
        return
    first = searched[0]
    table = Table(title="by simulations, on the same episodes", title_justify="left", title_style="bold")
    of = "policy" if first.simulations == 0 else str(first.simulations)
    for column in ("simulations", "return", f"over {of}", "95% interval", "ms per decision"):
        table.add_column(column, justify="right", no_wrap=True)
    for simulations, rollouts, seconds in searched:
        returns = rollouts.returns[0]
        gain = returns - first.rollouts.returns[0]
        shown = "diverged" if np.isnan(returns).any() else return_text(returns.mean())
        gained = ["-", "-"]
        if simulations != first.simulations and np.isfinite(gain).all():
            low, high = (return_text(end, "+") for end in bootstrap_interval(gain))
            gained = [return_text(gain.mean(), "+"), f"{low} .. {high}"]
        table.add_row(str(simulations), shown, *gained, f"{1000 * seconds:.2f}")
    console.print(table)


def named(simulations: int) -> str:
    """The name of a number of simulations, in tables and files."""
    return "policy alone" if simulations == 0 else f"simulations={simulations}"
