"""The environments of a collection: how many, how they are stepped, and how they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.parallel import OwnForm, protected
from datamodules.envs.plain import plain_space
from datamodules.envs.plain_actions import plain_action_space
from datamodules.envs.restarting import Protection
from modules.arguments.checks import check_ranges
from modules.batch import brief

Vectorization = Literal["sync", "async", "vector_entry_point"]

MOST_ENVIRONMENTS = 10_000
"""Most environments that are made one by one, which takes a while for so many."""


def check_count(environments: int, vectorization: Vectorization) -> None:
    """Refuse more environments than could be made; an environment's own vector form may hold any number.

    Raises:
        ValueError: there are too many.
    """
    if vectorization != "vector_entry_point":
        check_ranges(("environments", environments, 1, MOST_ENVIRONMENTS))


def make_environments(
    spec: EnvironmentSpec, count: int, *, vectorization: Vectorization, seed: int, protection: Protection
) -> VectorEnv:
    """`count` environments that reset in the step after an end, as `RowStream` needs them.

    Args:
        spec: specification of one environment.
        count: number of environments `N`.
        vectorization: `sync` steps them in this process, `async` each in a process of its own, `vector_entry_point`
            takes the environment's own vector form, whose failures are not forgiven.
        seed: environment `i` starts with `seed + i`.
        protection: protection of each environment.

    Raises:
        ValueError: the environment cannot be made like this.
    """
    if vectorization != "vector_entry_point":
        return protected(
            spec,
            count,
            seed=seed,
            autoreset=AutoresetMode.NEXT_STEP,
            protection=protection,
            asynchronous=vectorization == "async",
            copy=False,
        )
    if spec.wrappers:
        raise ValueError(
            "vectorization: vector_entry_point has no wrappers around single environments; use sync or async"
        )
    try:
        env = gym.make_vec(spec.id, count, vectorization_mode="vector_entry_point", **spec.arguments)
    except (gym.error.Error, TypeError) as error:
        raise ValueError(f"{spec.id!r} has no vector form of its own ({error}); use sync or async") from error

    # Rows need plain spaces, and resets in the step after an end; neither can be added to a vector form from outside.
    observation, action = env.single_observation_space, env.single_action_space
    if plain_space(observation)[1] is not None or plain_action_space(action) is not None:
        env.close()
        raise ValueError(
            f"the vector form of {spec.id!r} has observations {brief(observation)} and actions {brief(action)}, which "
            "only environments that are made one by one can be given a plain form of; use vectorization: sync or async"
        )
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(f"the vector form of {spec.id!r} resets in the mode {mode}, not NEXT_STEP; use sync or async")
    env.reset(seed=seed)
    return OwnForm(env, spec.id)


@dataclass
class Setting:
    """Environments, and how they are collected from.

    Attributes:
        spec: specification of one environment.
        environments: number of environments `N`.
        vectorization: see `make_environments`.
        protection: protection of each environment.
        prefill: number of steps of the random policy.
        refresh_updates: updates after which an acting copy of the agent gets the weights of the learning one.
        seed: seed of environments and actions.
    """

    spec: EnvironmentSpec
    environments: int
    vectorization: Vectorization
    protection: Protection
    prefill: int
    refresh_updates: int
    seed: int

    def seed_at(self, steps: int) -> int:
        """Seed of a run that begins, or that continues with new episodes after `steps` environment steps."""
        return int(np.random.SeedSequence([self.seed, steps]).generate_state(1)[0] >> 1) if steps else self.seed

    def make(self, seed: int) -> VectorEnv:
        """The environments."""
        return make_environments(
            self.spec, self.environments, vectorization=self.vectorization, seed=seed, protection=self.protection
        )
