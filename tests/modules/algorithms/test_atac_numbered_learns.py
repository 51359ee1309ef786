"""ATAC of numbered actions learns to balance CartPole from what a policy recorded that does not (slow)."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

ROOT = Path(__file__).parents[3]


def record_leaning(path: Path, rows: int = 15_000) -> Path:
    """CartPole by a rule that pushes to where the pole leans, whatever its velocity, and by chance in a third."""
    env, rng = gym.make("CartPole-v1"), np.random.default_rng(0)
    observations, actions, ends, cuts, finals, lengths = [], [], [], [], [], []
    while len(actions) < rows:
        observation, _ = env.reset(seed=len(lengths))
        length, over = 0, False
        while not over:
            action = int(rng.integers(2)) if rng.random() < 0.3 else int(observation[2] > 0)
            observations.append(observation)
            actions.append(action)
            observation, _, end, cut, _ = env.step(action)
            ends.append(end)
            cuts.append(cut and not end)
            length, over = length + 1, end or cut
        finals.append(observation)
        lengths.append(length)
    np.savez(
        path, observations=np.stack(observations), actions=np.array(actions), rewards=np.ones(len(actions)),
        terminals=np.array(ends), timeouts=np.array(cuts), final_observations=np.stack(finals),
        episode_lengths=np.array(lengths, np.int32),
    )  # fmt: skip
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_cartpole_from_a_mediocre_policy(tmp_path: Path) -> None:
    """The preset, three seeds: at least twice what cloning gets of the same data in each, at the last update."""
    record_leaning(tmp_path / "leaning.npz")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "REVERIE_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        "fit --config atac/cartpole --model.seeds 3 --data.source leaning.npz --data.environment CartPole-v1",
        "--trainer.max_epochs 4 --run_dir runs/slow",
    ]
    command = [sys.executable, "-m", "reverie", *" ".join(command).split()]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    (report,) = (tmp_path / "runs/slow").glob("*/evaluation.csv")
    means: dict[str, list[float]] = {}
    for row in csv.DictReader(report.open()):
        if row["member"] or row["kind"] == "behaviour":
            means.setdefault(row["kind"], []).append(float(row["mean"]))
    assert means["behaviour"][0] < 60
    assert len(means["phase"]) == len(means["last"]) == 3
    assert max(means["phase"]) < 80
    assert min(means["last"]) >= 2 * max(means["phase"])
