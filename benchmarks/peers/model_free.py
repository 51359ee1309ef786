"""Model-free agents of stable-baselines3 on the tasks of the world models, with the settings of its zoo.

Runs in an environment of its own, which has stable-baselines3 and not this project:

    python benchmarks/peers/model_free.py TASK SEED STEPS

prints one line of JSON: name, return over 100 episodes, minutes, version.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.evaluation import evaluate_policy


class Catch(gym.Env):
    """The rules of this project's Catch: a ball falls 9 rows, a paddle moves below it, the last reward is 1 or -1."""

    observation_space = gym.spaces.Box(0.0, 1.0, (50,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A ball in a random column, the paddle in the middle."""
        super().reset(seed=seed)
        self.ball, self.row, self.paddle = int(self.np_random.integers(5)), 0, 2
        return self.board(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Left, stay, right."""
        self.paddle = min(max(self.paddle + int(action) - 1, 0), 4)
        self.row += 1
        done = self.row == 9
        reward = (1.0 if self.paddle == self.ball else -1.0) if done else 0.0
        return self.board(), reward, done, False, {}

    def board(self) -> np.ndarray:
        """Pixels, flat."""
        image = np.zeros((10, 5), np.float32)
        image[self.row, self.ball] = image[9, self.paddle] = 1.0
        return image.reshape(-1)


# What the zoo of stable-baselines3 uses for these tasks; for Catch its settings for CartPole.
DQN = {
    "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000, "gamma": 0.99,
    "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]},
}  # fmt: skip
SAC = {"learning_rate": 1e-3}
TASKS: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "cartpole": ("DQN", lambda: gym.make("CartPole-v1"), sb3.DQN, DQN),
    "pendulum": ("SAC", lambda: gym.make("Pendulum-v1"), sb3.SAC, SAC),
    "catch": ("DQN", Catch, sb3.DQN, DQN),
}


def main() -> None:
    """Train and evaluate one agent."""
    task, seed, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    name, make, algorithm, settings = TASKS[task]
    torch.set_num_threads(1)
    start = time.perf_counter()
    model = algorithm("MlpPolicy", make(), seed=seed, device="cpu", **settings)
    model.learn(steps)
    env = make()
    env.reset(seed=1_000_000)
    mean, _ = evaluate_policy(model, env, 100, warn=False)
    minutes = round((time.perf_counter() - start) / 60, 1)
    print(json.dumps({"name": name, "return": float(mean), "minutes": minutes, "version": sb3.__version__}))


if __name__ == "__main__":
    main()
