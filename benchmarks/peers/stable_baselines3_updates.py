"""Two consecutive updates of stable-baselines3's soft actor-critic as files that our updates are compared with.

Runs in an environment of its own, which has stable-baselines3 and not this project:

    python benchmarks/peers/stable_baselines3_updates.py tests/data/stable_baselines3

writes one `.npz` per case, in the form of `d3rlpy_updates.py`. The 1e-6 that stable-baselines3 adds to the Jacobian of
the squashed normal before its logarithm is set to 0: ours has a form that needs none.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from one_batch import OneBatch, Spaces
from recorded_draws import ACTION, BATCH, HIDDEN, OBSERVATION, RATE, UPDATES, make_batch, parameters, recorded
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples

CASES: dict[str, dict[str, Any]] = {"sac": {}, "sac_fixed": {"ent_coef": 0.25, "gamma": 0.9, "tau": 0.1}}
DRAWS = "actor", "target"
REPORTED = "ent_coef", "actor_loss", "critic_loss"


def for_stable_baselines3(batch: dict[str, np.ndarray]) -> ReplayBufferSamples:
    """The batch as an update takes it."""
    names = "observations", "actions", "next_observations", "terminals", "rewards"
    return ReplayBufferSamples(*(torch.from_numpy(batch[name]) for name in names))


def modules_of(model: SAC) -> dict[str, torch.nn.Module]:
    """Networks and, where it is learned, the log temperature."""
    found = {"actor": model.actor, "critic": model.critic, "critic_target": model.critic_target}
    if model.ent_coef_optimizer is None:
        return found
    return found | {"temperature": torch.nn.ParameterDict({"log": torch.nn.Parameter(model.log_ent_coef.detach())})}


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """Everything about the case's updates by name.

    Raises:
        RuntimeError: an update drew more or fewer times than there are names.
    """
    policy = {"net_arch": HIDDEN}
    env = Spaces(OBSERVATION, ACTION)
    model = SAC("MlpPolicy", env, RATE, seed=1, device="cpu", policy_kwargs=policy, **settings)
    model.set_logger(Logger(None, []))
    model.actor.action_dist.epsilon = 0.0
    for p in model.critic_target.parameters():  # far from what they follow
        p.data.add_(0.1 * torch.randn_like(p))
    arrays, losses = parameters(modules_of(model), "initial"), []
    for update in range(1, UPDATES + 1):
        batch = make_batch(update, discrete=False)
        model.replay_buffer = OneBatch(for_stable_baselines3(batch))
        with recorded() as draws:
            model.train(1, BATCH)
        if len(draws) != len(DRAWS):
            raise RuntimeError(f"it drew {len(draws)} times, expected {DRAWS}")
        losses.append({name: float(model.logger.name_to_value[f"train/{name}"]) for name in REPORTED})
        arrays |= {f"batch_{update}/{name}": x for name, x in batch.items()}
        arrays |= {f"draws_{update}/{name}": x for name, x in zip(DRAWS, draws, strict=True)}
        arrays |= parameters(modules_of(model), f"after_{update}")
    versions = {name: version(name) for name in ("stable_baselines3", "torch", "numpy")}
    told = {"gamma": model.gamma, "tau": model.tau, "learning_rate": RATE, "ent_coef": model.ent_coef}
    about = {"versions": versions, "algorithm": "sac", "settings": told, "hidden": HIDDEN, "losses": losses}
    return {**arrays, "about": np.array(json.dumps(about))}


def main() -> None:
    """Write one file per case into the folder that is named."""
    torch.set_num_threads(1)
    for name, settings in CASES.items():
        np.savez_compressed(Path(sys.argv[1]) / f"{name}.npz", **run(settings))


if __name__ == "__main__":
    main()
