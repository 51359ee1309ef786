"""Gumbel MuZero by mujax on CartPole-v1 until it is solved, for `bench_muzero_speed.py`; it runs where mujax is.

    .venv-mujax/bin/python benchmarks/peers/mujax_cartpole.py SETTING

`SETTING` is JSON text: seed, goal, and the number of episodes whose mean return is to reach it. Batch and environments
are those of mujax's own example of CartPole; the networks are those that it calls enough for such tasks ("S"). Prints
one JSON line when the latest of those episodes, played by its evaluator in as many environments, reach the goal.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import deque
from importlib.metadata import version
from typing import Any

BEGUN = time.perf_counter()
SETTING = json.loads(sys.argv[1])

import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402
from mujax import EnvLoopObserver, ExperimentConfig, GMZConfig, run_experiment  # noqa: E402

STEPS, ENVIRONMENTS = 20_000, 16


def environments(count: int) -> gym.vector.VectorEnv:
    """CartPole, as mujax wants it."""
    mode = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    return gym.make_vec("CartPole-v1", num_envs=count, vectorization_mode="sync", vector_kwargs=mode)


class Watch(EnvLoopObserver):
    """Sums the rewards of every episode; the evaluator's are told and may end the process, the others are counted."""

    played = 0

    def observe_first(self, env: Any, num_envs: int) -> None:
        """Begin; the evaluator is the loop with as many environments as episodes count."""
        self.judged = num_envs == SETTING["episodes"]
        self.returns = np.zeros(num_envs)
        self.latest: deque[float] = deque(maxlen=SETTING["episodes"])

    def observe(self, env: Any, step: Any) -> None:
        """Add rewards."""
        self.returns += step.reward
        if not self.judged:
            Watch.played += len(self.returns)

    def get_metrics(self, index: int) -> dict[str, float]:
        """One episode is over."""
        value, self.returns[index] = float(self.returns[index]), 0.0
        if self.judged:
            self.latest.append(value)
            mean = float(np.mean(self.latest))
            if len(self.latest) == SETTING["episodes"] and mean >= SETTING["goal"]:
                seconds = time.perf_counter() - BEGUN
                found = {"seconds": seconds, "steps": Watch.played, "mean": mean, "version": version("mujax")}
                print(json.dumps(found), flush=True)
                os._exit(0)  # its threads would go on
        return {}


def main() -> None:
    """Learn until the goal is reached."""
    assert SETTING["episodes"] != ENVIRONMENTS
    os.chdir(tempfile.mkdtemp())
    config = GMZConfig(batch_size=256).with_size("S").with_num_steps(STEPS)
    run_experiment(
        ExperimentConfig(
            config=config, environment_factory=lambda seed: environments(ENVIRONMENTS),
            eval_environment_factory=lambda seed: environments(SETTING["episodes"]), max_num_learner_steps=STEPS,
            seed=SETTING["seed"], observer_factories=[Watch],
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
