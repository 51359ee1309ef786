"""One version of `benchmarks/bench_ppo.py`: stable-baselines3's PPO, in an environment of its own.

Takes the settings as JSON, describes itself in a line, and answers each line read by the milliseconds of an update, or
of the collection of one batch: wall time and processor time.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv


def make_model(s: dict[str, Any]) -> PPO:
    """PPO on CartPole, with one batch collected."""
    env = DummyVecEnv([lambda: gym.make("CartPole-v1") for _ in range(s["environments"])])
    size = s["environments"] * s["steps"]
    networks = {"net_arch": {"pi": [s["hidden"]] * 2, "vf": [s["hidden"]] * 2}}
    model = PPO(
        "MlpPolicy", env, n_steps=s["steps"], batch_size=size // s["minibatches"], n_epochs=s["passes"],
        policy_kwargs=networks, seed=0, device="cpu",
    )  # fmt: skip
    model._setup_learn(10**9)
    return model


def main() -> None:
    """Describe, then time one round per line."""
    s = json.loads(sys.argv[1])
    torch.set_num_threads(s["threads"])
    model = make_model(s)
    callback = CallbackList([])
    callback.init_callback(model)

    def collect() -> None:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, s["steps"])

    collect()
    work = model.train if s["what"] == "update" else collect
    for _ in range(3):
        work()
    versions = {name: version(name) for name in ("stable-baselines3", "torch")}
    parameters = sum(p.numel() for p in model.policy.parameters())
    print(json.dumps({"parameters": parameters, "versions": versions}), flush=True)
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(s["rounds_of"]):
            work()
        spent = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps([1e3 * seconds / s["rounds_of"] for seconds in spent]), flush=True)


if __name__ == "__main__":
    main()
