"""Real episodes that `select` spends on its candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from callbacks.evaluation.rollout import evaluate_player, evaluation_environments
from callbacks.evaluation.selection import Selection
from datamodules.envs.make import EnvironmentSpec
from modules.agent.candidates import Candidates
from modules.functional.bandits import Spent, successive_halving, upper_confidence_bound

WAYS = {"halving": successive_halving, "ucb": upper_confidence_bound}


class OnePolicy:
    """A policy without memory as a player: a population of one."""

    device = torch.device("cpu")
    alive = (True,)
    member_names = ("",)

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy

    def initial_state(self, batch: int) -> Any:
        """None: there is nothing to remember."""
        return None

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        """Actions `[B, ...]` for observations `[B, ...]`, never exploring."""
        return self.policy(observation), state

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        """The state, as rewards tell a policy without memory nothing."""
        return state


class RealEpisodes:
    """One environment in which the candidates play, one episode at a time; episode `e` of each starts alike.

    Args:
        candidates: the policies.
        names: what messages call them.
        spec: specification of the environment.
        seed: seed of the first episode of each candidate; the next ones count upwards.

    Raises:
        ValueError: the environment cannot be made.
    """

    def __init__(self, candidates: Candidates, names: Sequence[str], spec: EnvironmentSpec, seed: int) -> None:
        self.players = [OnePolicy(candidates.agents[m.agent].policy(m.place).cpu()) for m in candidates.members]
        self.names = names
        self.seed = seed
        self.environment: VectorEnv = evaluation_environments(spec, 1, seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.environment.close()

    def play(self, candidate: int, episode: int) -> float:
        """Undiscounted return of one episode of a candidate.

        Raises:
            ValueError: the policy's actions are not finite, or the episode does not end.
        """
        rollouts = evaluate_player(self.players[candidate], self.environment, 1, self.seed + episode)
        score = float(rollouts.returns[0, 0])
        if score != score:
            raise ValueError(f"{self.names[candidate]} acts with numbers that are not finite; leave its checkpoint out")
        return score


def spend(
    episodes: RealEpisodes,
    selection: Selection,
    budget: int,
    way: str,
    progress: Callable[[], None] = lambda: None,
) -> list[Spent]:
    """Spend real episodes on the candidates, those that recorded data find the most promising first.

    Args:
        episodes: plays them.
        selection: the judgement by recorded data.
        budget: number of episodes.
        way: one of `WAYS`.
        progress: called after each episode.
    """

    def pull(arm: int, episode: int) -> float:
        score = episodes.play(arm, episode)
        progress()
        return score

    # The choice by recorded data comes first, also where it is the safe one.
    order: Sequence[int] = sorted(selection.promising, key=lambda k: k != selection.choice.chosen)
    return WAYS[way](pull, order, budget)
