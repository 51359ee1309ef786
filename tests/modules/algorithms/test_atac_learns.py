"""ATAC learns: a one-step problem in seconds, and Pendulum from mixed data to its number (slow)."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces, Transition

ROOT = Path(__file__).parents[3]


def one_step_errors(shuffled: bool) -> tuple[float, float]:
    """Mean distance to the best action, cloned and after the game: the reward is -(a - s / 2)^2, then all is over."""
    g = torch.Generator().manual_seed(0)
    observation = 2 * torch.rand(4096, 1, generator=g) - 1
    action = 2 * torch.rand(4096, 1, generator=g) - 1
    reward = -(action - 0.5 * observation).square().squeeze(1)
    if shuffled:
        reward = reward[torch.randperm(4096, generator=g)]
    done = torch.ones(4096, dtype=torch.bool)
    data = Transition(observation, action, reward, observation, done, ~done)
    spaces = Spaces(gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-1, 1, (1,)))
    agent = ATAC(spaces, beta=64.0, hidden=[32, 32], critic_lr=3e-3, actor_lr=1e-3, warm_start=WarmStart(100))
    errors = []
    for update in range(400):
        rows = torch.randint(4096, (128,), generator=g)
        agent.update(Transition(*(x[rows] for x in data[:6])))  # type: ignore[index]
        agent.advance()
        if update in (99, 399):
            states = torch.linspace(-1, 1, 101)[:, None]
            acted, _ = agent.act(states, explore=False)
            errors.append((acted - 0.5 * states).abs().mean().item())
    return errors[0], errors[1]


def test_one_step_problem_is_solved_and_the_rewards_are_the_reason() -> None:
    cloned, learned = one_step_errors(shuffled=False)
    assert cloned > 0.2  # the data act at random: the clone's mean ignores the state
    assert learned < 0.1
    assert one_step_errors(shuffled=True)[1] > 0.2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_pendulum_from_mixed_data(tmp_path: Path) -> None:
    """The default run, three seeds: at least -200 from data of about -640, through the command line."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "REVERIE_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    for command in (
        "collect --config collect/pendulum",
        "fit --config atac/pendulum --model.seeds 3 --run_dir runs/slow",
    ):
        subprocess.run([sys.executable, "-m", "reverie", *command.split()], cwd=tmp_path, env=environment, check=True)
    (report,) = (tmp_path / "runs/slow").glob("*/evaluation.csv")
    rows = list(csv.DictReader(report.open()))
    last = {row["member"]: float(row["mean"]) for row in rows if row["kind"] == "last"}
    (behaviour,) = (float(row["mean"]) for row in rows if row["kind"] == "behaviour")
    assert behaviour < -500
    assert len(last) == 4
    assert np.mean([v for member, v in last.items() if member]) >= -200
