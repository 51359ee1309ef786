"""`reverie evaluate --lookahead.model ...`: a checkpoint's policy that looks ahead, beside the policy as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from rich.console import Console
from rich.table import Table
from torch import Tensor

from callbacks.evaluation.rollout import Rollouts, evaluate_policy, evaluation_environments
from commands.asked_episodes import Asked
from commands.simulations import Searching
from commands.told_data import UNITS, told_arguments
from datamodules.envs.episode_infos import return_text
from datamodules.envs.simulator import Simulator
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.policy_population import PolicyPopulation
from modules.agent.state_values import state_value
from modules.algorithms.dreamer import DreamerV2
from modules.algorithms.dynamics_ensemble import DynamicsEnsemble
from modules.algorithms.lookahead import Lookahead, LookaheadPolicy
from modules.functional.statistics import bootstrap_interval
from modules.lookahead_contracts import PlansAhead
from modules.same_spaces import check_same_spaces
from modules.world_model.latent_lookahead import LatentLookahead

SIMULATOR, OWN = "simulator", "own"


class RewardUnits(NamedTuple):
    """Rewards that an agent learned from, by the environment's: `reward * scale + shift`."""

    scale: float
    shift: float

    def to(self, other: RewardUnits) -> Callable[[Tensor], Tensor]:
        """The map from these rewards to those of another agent."""
        scale = other.scale / self.scale
        shift = other.shift - self.shift * scale
        return lambda reward: reward * scale + shift


def reward_units(checkpoint: dict[str, Any], path: str) -> RewardUnits:
    """Units of the rewards that the data of the checkpoint at a path gave.

    Raises:
        ValueError: they are no numbers.
    """
    told = told_arguments(checkpoint, path, UNITS)
    return RewardUnits(float(told.get("reward_scale", 1.0)), float(told.get("reward_shift", 0.0)))


def load_dynamics(path: str) -> tuple[DynamicsEnsemble, RewardUnits]:
    """The ensemble that a checkpoint holds, in evaluation mode, and its rewards' units.

    Raises:
        ValueError: there is no such file, it holds something else, or a network of it has diverged.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"--lookahead.model: no checkpoint file at {path}; give one of a DynamicsEnsemble, {SIMULATOR} or {OWN}"
        )
    checkpoint = read_checkpoint(path, "cpu")
    agent = Agent.restored(checkpoint, path)
    if not isinstance(agent, DynamicsEnsemble):
        raise ValueError(
            f"--lookahead.model: {path} holds a {type(agent).__name__}; give a DynamicsEnsemble's, {SIMULATOR} or {OWN}"
        )
    units = reward_units(checkpoint, path)
    if not all(agent.alive) or units.scale == 0:
        raise ValueError(f"--lookahead.model: {path} holds networks that diverged, or that learned no rewards")
    return agent, units


class Pair(NamedTuple):
    """One member with and without lookahead.

    Attributes:
        member: index of the member.
        base: `[E]` returns of its policy.
        ahead: the same episodes with lookahead.
        changed: share of the actions that are not the base policy's.
    """

    member: int
    base: np.ndarray
    ahead: Rollouts
    changed: float


def _check_nothing_else(settings: Lookahead) -> None:
    """Refuse settings of a lookahead that names no model, and so would not be."""
    unused = [field.name for field in fields(settings) if getattr(settings, field.name) != field.default]
    if unused:
        raise ValueError(
            f"--lookahead.{unused[0]} would be ignored: name the model that is looked ahead in by --lookahead.model, a "
            f"DynamicsEnsemble's checkpoint, {SIMULATOR} or {OWN}"
        )


class LookaheadPlays:
    """The members of a checkpoint with lookahead; what does not fit is refused before anything is played.

    Args:
        agent: agent of the checkpoint, on the CPU.
        path: path of the checkpoint.
        asked: episodes that are played.
        members: indices of the members.
        settings: settings of the lookahead; where they name no model, nothing looks ahead.

    Raises:
        ValueError: the agent is of a kind that cannot look ahead, the model does not fit it, or settings are given for
            no model.
    """

    def __init__(self, agent: Agent, path: str, asked: Asked, members: Iterable[int], settings: Lookahead) -> None:
        self.asked = asked
        self.seed = asked.seed
        self.planners: dict[int, LookaheadPolicy] = {}
        self.simulator = Simulator(asked.spec.make, self._live)
        if settings.model is None:
            _check_nothing_else(settings)
            return
        if isinstance(agent, Searching):
            raise ValueError(
                f"{path} holds a {type(agent).__name__}, which searches in a model of its own: leave --lookahead out, "
                "and compare numbers of simulations by --simulations 0 4 16"
            )
        self.vector = evaluation_environments(asked.spec, asked.parallel, asked.seed, asked.protection)
        make = self._latent if settings.model == OWN else self._memoryless
        try:
            self.planners = make(agent, path, list(members), settings)
        except ValueError:
            self._close()
            raise

    def _close(self) -> None:
        self.vector.close()
        self.simulator.close()

    def _latent(self, agent: Agent, path: str, members: list[int], settings: Lookahead) -> dict[int, LookaheadPolicy]:
        if not isinstance(agent, DreamerV2):
            raise ValueError(f"--lookahead.model {OWN}: {path} holds a {type(agent).__name__}, with no world model")
        model, space = LatentLookahead(agent), agent.spaces.action
        return {0: LookaheadPolicy(model.policy, model, model.value, space, settings, agent.gamma, seed=self.seed)}

    def _memoryless(
        self, agent: Agent, path: str, members: list[int], settings: Lookahead
    ) -> dict[int, LookaheadPolicy]:
        model: PlansAhead
        if not isinstance(agent, PolicyPopulation):
            raise ValueError(
                f"{path} holds a {type(agent).__name__}, which has a memory: it looks ahead in its own world model, if "
                f"it has one (--lookahead.model {OWN})"
            )
        if settings.model == SIMULATOR:
            self.simulator.check()
            model, units = self.simulator, RewardUnits(1.0, 0.0)
        else:
            model, units = load_dynamics(str(settings.model))
            check_same_spaces(str(settings.model), model.spaces, path, agent.spaces, "--lookahead.model")
        reward = units.to(reward_units(read_checkpoint(path, "cpu"), path))
        discount = getattr(agent, "discount", 0.99)
        return {
            i: LookaheadPolicy(
                agent.policy(i), model, _value(agent, i), agent.spaces.action, settings, discount, reward, self.seed
            )
            for i in members
        }

    def _live(self) -> list[gym.Env]:
        """The environments that are played, without their protection."""
        assert isinstance(self.vector, SyncVectorEnv)
        return [env.env for env in self.vector.envs if isinstance(env, gym.Wrapper)]

    def compare(self, base: Rollouts) -> list[Pair]:
        """Play the episodes of the base policies once more, by members that are alive, and close the environments."""
        pairs: list[Pair] = []
        if not self.planners:
            return pairs
        try:
            for i, planner in self.planners.items():
                if np.isfinite(base.returns[i]).all():
                    episodes, limit = self.asked.episodes, self.asked.max_episode_steps
                    ahead = evaluate_policy(planner, self.vector, episodes, self.seed, max_episode_steps=limit)
                    pairs.append(Pair(i, base.returns[i], ahead, planner.changed / planner.decided))
        finally:
            self._close()
        return pairs


def _value(agent: PolicyPopulation, member: int) -> Callable[[Tensor], Tensor]:
    """The value by the agent's critics; without any, imagined rewards count alone."""
    least = state_value(agent, member)
    return (lambda observation: torch.zeros(len(observation))) if least is None else least


def print_pairs(console: Console, pairs: Sequence[Pair], names: Sequence[str]) -> None:
    """One row per member: mean returns without and with lookahead, and the difference of the same episodes."""
    if not pairs:
        return
    table = Table(title="with lookahead, on the same episodes", title_justify="left", title_style="bold")
    table.add_column("member", overflow="fold")
    for column in ("base", "lookahead", "difference", "95% interval", "changed"):
        table.add_column(column, justify="right", no_wrap=True)
    for member, base, ahead, changed in pairs:
        name, alone, gain = names[member] or "policy", return_text(base.mean()), ahead.returns[0] - base
        if not np.isfinite(gain).all():
            table.add_row(name, alone, "diverged", *["-"] * 3)
            continue
        low, high = (return_text(end, "+") for end in bootstrap_interval(gain))
        told = (return_text(ahead.returns[0].mean()), return_text(gain.mean(), "+"), f"{low} .. {high}")
        table.add_row(name, alone, *told, f"{changed:.0%}")
    console.print(table)
