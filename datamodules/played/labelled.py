"""Rows of played episodes, with labels of the state that the environment was in, see `datamodules.envs.labels`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from tensordict import TensorDict

from datamodules.envs.labels import Labels, read_labels
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.collector import Collector
from datamodules.played.policies import AgentPolicy, Policy, RandomPolicy
from datamodules.played.setting import make_environments
from modules.contracts import Acting


class LabelledRows(NamedTuple):
    """Streams of experience, one from each of `N` environments.

    Attributes:
        rows: `[T, N]` with the fields of a `modules.batch.SequenceBatch`.
        labels: `[T, N]` by name, int64 for classes, float64 for amounts.
    """

    rows: TensorDict
    labels: dict[str, np.ndarray]


def play_labelled(
    spec: EnvironmentSpec, labels: Labels, agent: Acting | None, streams: int, length: int, seed: int
) -> LabelledRows:
    """Play in environments of its own, all of them at the start of an episode at first.

    Args:
        spec: specification of the environment.
        labels: what reads the labels.
        agent: the agent that acts, exploring; None for random actions.
        streams: number of environments `N`.
        length: number of rows `T` of each; the reset of an episode is a row.
        seed: environment `i` starts with `seed + i`; also of random actions.

    Raises:
        ValueError: the environment cannot be made, fails for good or returns invalid values, or its labels are none.
    """
    env = make_environments(spec, streams, vectorization="sync", seed=seed, protection=Protection())
    assert isinstance(env, SyncVectorEnv), "they are stepped in this process"
    policy: Policy = (
        RandomPolicy(env.single_action_space, streams, seed) if agent is None else AgentPolicy(agent, streams)
    )
    collector = Collector(env, spec.id, seed)
    rows, found = [], []
    try:
        for _ in range(length):
            rows.append(collector.collect(1, policy))
            found.append([read_labels(labels, one, spec.id) for one in env.envs])
    finally:
        collector.close()
    names = found[0][0]
    changed = next((one for moment in found for one in moment if one.keys() != names.keys()), None)
    if changed is not None:
        raise ValueError(f"labels of environment {spec.id!r} must always have the names {list(names)}: {list(changed)}")
    columns = {name: np.array([[one[name] for one in moment] for moment in found]) for name in names}
    return LabelledRows(torch.cat(rows), columns)
