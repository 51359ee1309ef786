"""Small MERLINs of every kind, and the windows that they play themselves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.collector import Collector
from datamodules.played.policies import AgentPolicy
from datamodules.played.setting import make_environments
from modules.algorithms.merlin import MERLIN
from modules.batch import Spaces
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.memory import ExternalMemory
from modules.networks.value_heads import PopArtHead
from modules.world_model.memory_predictor import MemoryPredictor

CUE = EnvironmentSpec("reverie/DelayedCue-v0", {"cues": 3, "delay": 3, "bits": 1})
TWO_CATCH = EnvironmentSpec("reverie/TwoCatch-v0", {"scales": [1.0, 2.0], "rows": 4})
PENDULUM = EnvironmentSpec("Pendulum-v1")
STREAMS, ROWS = 3, 6

layer = partial(DenseStack, layers=1, activation="tanh")
memory = partial(ExternalMemory, rows=8)
SETTINGS: dict[str, dict[str, Any]] = {
    "numbered": {},
    "continuous": {"environment": PENDULUM},
    "popart": {"critic": PopArtHead},
    "no retroactive write": {"predictor": {"memory": partial(memory, retroactive=None)}},
    "no prediction": {"prediction": False},
    "no memory": {"prediction": False, "predictor": {"memory": None}},
    "picture and vector": {
        "environment": TWO_CATCH,
        "predictor": {"encoder": partial(Encoder, image_network="mlp"), "units": 8},
    },
    "two layers": {"predictor": {"layers": 2, "policy_heads": 2}},
}


def make(environment: EnvironmentSpec = CUE, predictor: dict[str, Any] | None = None, **settings: Any) -> MERLIN:
    """An agent of some thousand parameters."""
    torch.manual_seed(0)
    env = environment.make()
    sizes = {"latents": 3, "memory": memory, "trunk": layer, "units": 8, "width": 8, "heads": 2, "policy_width": 6}
    made = partial(MemoryPredictor, **{**sizes, **(predictor or {})})
    return MERLIN(
        Spaces(env.observation_space, env.action_space), made, **{"trunk": layer, "units": 8, "lr": 1e-2, **settings}
    )


def played(
    agent: MERLIN, environment: EnvironmentSpec = CUE, seed: int = 0
) -> Iterator[tuple[TensorDict, AgentPolicy]]:
    """Windows `[B, T]`, each from the row that the one before ended at, and the policy that played them."""
    made = make_environments(environment, STREAMS, vectorization="sync", seed=seed, protection=Protection(0))
    collector, policy = Collector(made, environment.id, seed), AgentPolicy(agent, STREAMS)
    rows = collector.collect(ROWS, policy)
    while True:
        yield rows.transpose(0, 1), policy
        rows = torch.cat([rows[-1:], collector.collect(ROWS - 1, policy)])
