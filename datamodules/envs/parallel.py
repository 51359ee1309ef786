"""Parallel environments, each of them protected: for collecting and for evaluating."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from datamodules.envs.contract import ContractError, as_declared, quick_test, said
from datamodules.envs.make import EnvironmentSpec, vector_of
from datamodules.envs.restarting import Protection, Restarting
from datamodules.envs.snapshot import SnapshotError, capture, restore


def protected(
    spec: EnvironmentSpec,
    count: int,
    *,
    seed: int,
    autoreset: AutoresetMode,
    protection: Protection,
    asynchronous: bool = False,
    copy: bool = True,
    render_mode: str | None = None,
) -> SyncVectorEnv | AsyncVectorEnv:
    """`count` environments in `Restarting`, stepped in this process or, when `asynchronous`, each in one of its own.

    Seeds, resets and `copy` are those of `vector_of`.

    Args:
        spec: specification of the environment.
        count: number of environments.
        seed: environment `i` is reset with `seed + i`.
        autoreset: behaviour of environments after the last step of an episode.
        protection: protection of each environment.
        asynchronous: give each environment a process of its own.
        copy: observations of a step stay as they are in the next one.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        ValueError: the environment cannot be made, or fails at its first reset.
    """
    make_one = spec.make if render_mode is None else functools.partial(spec.make, render_mode=render_mode)
    make = functools.partial(Restarting, make_one, protection, spec.id)
    return vector_of(
        [make] * count,
        seed=seed,
        autoreset=autoreset,
        asynchronous=asynchronous,
        copy=copy,
        name=spec.id,
        step_timeout=protection.step_timeout,
    )


class OwnForm(VectorWrapper):
    """An environment's own vector form, whose every step is checked; its failures are errors.

    Args:
        env: vector environment that resets in the step after an end.
        name: name of the environment, for errors.
    """

    def __init__(self, env: VectorEnv, name: str) -> None:
        super().__init__(env)
        self._name = name
        self._fits = quick_test(env.observation_space)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of each environment.

        Raises:
            ValueError: the vector form raised an error, or returned something else than it declares.
        """
        try:
            observation, reward, terminated, truncated, info = self.env.step(actions)
        except Exception as error:
            raise ValueError(f"environment {self._name!r} failed in step: {type(error).__name__}: {error}") from error
        for name, values in {"reward": reward, "terminated": terminated, "truncated": truncated}.items():
            if np.shape(values) != (self.num_envs,):
                problem = f"{name} as {said(values)}, its {self.num_envs} environments need one each"
                raise ContractError(f"environment {self._name!r}: step() returned {problem}")
        if not self._fits(observation):
            try:
                observation = as_declared(self.observation_space, observation)
            except ContractError as error:
                raise ContractError(f"environment {self._name!r}: step() returned an observation{error}") from None
        return observation, reward, terminated, truncated, info

    def take_snapshot(self) -> dict[str, Any] | str:
        """State between two steps, see `datamodules.envs.snapshot`, or why it cannot be captured."""
        try:
            return capture(self.env)
        except SnapshotError as error:
            return str(error)

    def restore_snapshot(self, state: Mapping[str, Any]) -> str | None:
        """Put a captured state back; why it cannot be, or None."""
        try:
            restore(self.env, state)
        except SnapshotError as error:
            return str(error)
        return None
