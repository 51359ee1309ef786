"""Whole updates of stable-baselines3's PPO as files that our updates are compared with.

Runs in an environment of its own, which has stable-baselines3 and not this project:

    python benchmarks/peers/stable_baselines3_ppo.py tests/data/stable_baselines3

writes one `ppo_NAME.npz` per case: every parameter before and after the update (`initial/...`, `after/...`, by the
names of stable-baselines3), the steps that were learned from `[T, N]` (`steps/...`, observations before and after
each), the order of the steps in each pass `[P, N T]` (`order`, counted environment by environment) and `about`, a JSON
text with the versions, the hyper-parameters, the number of steps of Adam and what stable-baselines3 logs.

Steps are collected by its own loop, so that time limits are bootstrapped by its own code. Before it learns, the stored
log-probabilities are moved by noise: ratios are then clipped on both sides from the first minibatch on.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

OBSERVATION, ACTION, CHOICES, HIDDEN, ENVIRONMENTS, STEPS = 5, 2, 3, 16, 3, 40
SETTINGS = {
    "batch_size": 30, "n_epochs": 3, "gamma": 0.9, "gae_lambda": 0.8, "clip_range": 0.2, "ent_coef": 0.05,
    "vf_coef": 0.5, "max_grad_norm": 0.5, "learning_rate": 3e-3,
}  # fmt: skip


class Noise(gym.Env):
    """Random numbers as observations, rewards that depend on the action, ends of both kinds; keeps all of its steps."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (OBSERVATION,), np.float32)

    def __init__(self, number: int, discrete: bool) -> None:
        self.action_space = gym.spaces.Discrete(CHOICES) if discrete else gym.spaces.Box(-1.0, 1.0, (ACTION,))
        self.rng = np.random.default_rng(number)
        self.steps: list[dict[str, Any]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A first observation."""
        self.age = 0
        self.now = self.rng.normal(size=OBSERVATION).astype(np.float32)
        return self.now, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """An end by chance, one step in ten, and by time after seven."""
        self.age += 1
        before, self.now = self.now, self.rng.normal(size=OBSERVATION).astype(np.float32)
        reward = np.float32(np.sum(action) + before[0] + self.rng.normal())
        terminated = bool(self.rng.random() < 0.1)
        truncated = self.age == 7 and not terminated
        self.steps.append({
            "observation": before, "action": np.array(action), "reward": reward, "after": self.now,
            "terminated": terminated, "truncated": truncated,
        })  # fmt: skip
        return self.now, float(reward), terminated, truncated, {}


class Shared(BaseFeaturesExtractor):
    """Two layers that policy and value share."""

    def __init__(self, space: gym.Space) -> None:
        super().__init__(space, HIDDEN)
        self.net = nn.Sequential(nn.Linear(OBSERVATION, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, OBSERVATION]` to `[B, HIDDEN]`."""
        return self.net(x)


CASES: dict[str, tuple[bool, dict[str, Any], dict[str, Any]]] = {
    # Whether actions are numbered, arguments of the networks, and other settings.
    "discrete": (True, {"features_extractor_class": Shared, "net_arch": []}, {}),
    "continuous": (False, {"net_arch": {"pi": [HIDDEN] * 2, "vf": [HIDDEN] * 2}, "log_std_init": -1.8}, {}),
    # Ends in the midst of the second pass.
    "target_kl": (
        True,
        {"features_extractor_class": Shared, "net_arch": []},
        {"target_kl": 0.006, "learning_rate": 1e-2},
    ),
}


def parameters(model: sb3.PPO, when: str) -> dict[str, np.ndarray]:
    """All parameters of the networks, each under one name."""
    return {f"{when}/{name}": p.detach().numpy().copy() for name, p in model.policy.named_parameters()}


def run(discrete: bool, networks: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything about the case's update by name."""
    envs = [Noise(number, discrete) for number in range(ENVIRONMENTS)]
    venv = DummyVecEnv([lambda env=env: env for env in envs])
    settings = SETTINGS | settings
    model = sb3.PPO("MlpPolicy", venv, seed=1, device="cpu", n_steps=STEPS, policy_kwargs=networks, **settings)
    for layer in (model.policy.action_net, model.policy.value_net):  # begin far from a uniform policy
        nn.init.normal_(layer.weight, std=0.15 if discrete else 0.06)
    model._setup_learn(10**6)
    callback = CallbackList([])
    callback.init_callback(model)
    model.collect_rollouts(venv, callback, model.rollout_buffer, STEPS)
    buffer = model.rollout_buffer
    scale = 0.02 if "target_kl" in settings else 0.15
    buffer.log_probs += scale * np.random.default_rng(7).normal(size=buffer.log_probs.shape).astype(np.float32)
    # Actions are stored as they were sampled, and played clipped.
    assert discrete or np.abs(buffer.actions).max() < 1.0
    steps = {f"steps/{name}": np.stack([[step[name] for step in env.steps] for env in envs], 1)
             for name in envs[0].steps[0]}  # fmt: skip
    arrays = {**steps, "steps/log_prob": buffer.log_probs.copy(), **parameters(model, "initial")}

    orders, permute = [], np.random.permutation

    def keep(count: int) -> np.ndarray:
        orders.append(permute(count))
        return orders[-1]

    optimizer = model.policy.optimizer
    with patch.object(np.random, "permutation", keep), patch.object(optimizer, "step", wraps=optimizer.step) as step:
        model.train()
    logged = {name.removeprefix("train/"): float(x) for name, x in model.logger.name_to_value.items()}
    versions = {name: version(name) for name in ("stable-baselines3", "torch", "numpy")}
    about = {"versions": versions, "settings": settings, "hidden": HIDDEN, "steps": step.call_count}
    about["logged"] = logged
    arrays |= {**parameters(model, "after"), "order": np.stack(orders)}
    return {**arrays, "about": np.array(json.dumps(about))}


def main() -> None:
    """Write one file per case into the folder that is named."""
    torch.set_num_threads(1)
    for name, case in CASES.items():
        np.savez_compressed(Path(sys.argv[1]) / f"ppo_{name}.npz", **run(*case))


if __name__ == "__main__":
    main()
