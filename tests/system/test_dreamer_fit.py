"""DreamerV2 through the command line: files of a run, continuing it exactly, and two processes."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import dreamer_agents
import gymnasium as gym
import numpy as np
import pytest
import torch
from fit_command import on_two_ranks, whole_and_resumed
from ranks import run_on_ranks

import reverie
from modules.agent.agent import Agent
from modules.agent.laprop import LaProp
from modules.algorithms.dreamer import DreamerV2
from modules.batch import SequenceBatch, Spaces
from modules.networks.blocks import DenseStack
from modules.networks.value_codecs import TwoHot
from modules.networks.value_heads import Head
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.imagined import ImaginationNoise
from modules.world_model.latents import CategoricalLatent
from modules.world_model.world_model import WorldModel

MODEL, BEHAVIOUR = "--model.world_model.init_args.", "--model.behaviour.init_args."
SMALL = (
    f"{MODEL}deter", "8", f"{MODEL}hidden", "8", f"{MODEL}units", "8", f"{BEHAVIOUR}units", "8",
    f"{BEHAVIOUR}horizon", "3",
    "--data.environments", "2", "--data.batch_size", "3", "--data.sequence_length", "6", "--data.prefill", "20",
    "--data.steps_per_epoch", "40", "--data.updates_per_step", "0.25", "--data.capacity", "60",
    "--trainer.logger", "false", "--trainer.log_every_n_steps", "5", "--trainer.max_epochs", "4",
    "--evaluation.episodes", "2", "--evaluation.final_episodes", "2", "--checkpoint.every_n_updates", "3",
)  # fmt: skip


@pytest.mark.long
def test_a_run_leaves_curves_pictures_and_a_checkpoint_to_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", "--config", "dreamer/catch", *SMALL, "--trainer.callbacks+", "KLBalancing"])
    printed = capsys.readouterr()
    assert "reverie: warning" not in printed.err
    assert "random policy" in printed.out
    (run,) = (tmp_path / "runs/dreamer-catch").iterdir()
    assert {p.suffix for p in (run / "world_model").iterdir()} == {".png", ".gif"}
    with (run / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["environment_steps"]) for row in rows if row["kind"] == "curve"]
    assert steps == [60, 100, 140, 180]
    agent = Agent.from_checkpoint(run / "checkpoints/last.ckpt")
    assert isinstance(agent, DreamerV2)
    assert agent.updates == 40
    reverie.main(["evaluate", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--episodes", "3"])
    assert "reverie/Catch-v0, 3 episodes" in capsys.readouterr().out


CARTPOLE = ("--config", "dreamer/cartpole", *SMALL)


@pytest.mark.long
def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Although the ring of the replay went round in between."""
    a, _ = whole_and_resumed(tmp_path, *CARTPOLE)
    assert len(a["optimizers"]) == 3


@pytest.mark.long
def test_two_processes_stay_equal_on_experience_of_their_own(tmp_path: Path) -> None:
    balancing = {"class_path": "KLBalancing", "init_args": {"target": 0.5}}
    more = "--data.prefill", "40", "--trainer.callbacks+", json.dumps(balancing)
    ranks = on_two_ranks(tmp_path, *CARTPOLE, *more, atol=1e-6)
    seen = [{tuple(o) for b in rank["batches"] for o in b["observation"].flatten(0, 1).tolist()} for rank in ranks]
    assert len(seen[0]) > 50
    assert not seen[0] & seen[1]


# ------------------------------------------------------------------------------------------- one process on joined rows
STEPS, ROWS, UPDATES = 5, 4, 20
ONE_SCALE = dreamer_agents.third_version()["behaviour"] | {"return_scale": "none"}  # a range is no mean of two


def small_agent(third_version: bool) -> DreamerV2:
    if third_version:  # whose first steps are of size 1 in every number, however small its gradient
        optimizer = partial(LaProp, lr=1e-3, warmup=0, eps=1e-2)
        return dreamer_agents.make_agent(**dreamer_agents.third_version(optimizer=optimizer, behaviour=ONE_SCALE))
    torch.manual_seed(0)
    trunk = partial(DenseStack, layers=1)
    latent = partial(CategoricalLatent, groups=3, classes=4)
    world = partial(WorldModel, latent=latent, deter=8, hidden=8, units=8, trunk=trunk)
    behaviour = partial(ActorCritic, units=8, trunk=trunk, horizon=3, critic=partial(Head, codec=TwoHot))
    spaces = Spaces(gym.spaces.Box(-1.0, 1.0, (3,), np.float32), gym.spaces.Discrete(3))
    return DreamerV2(spaces, world, behaviour)


def draws(rank: int, update: int, agent: DreamerV2) -> tuple[SequenceBatch, Any]:
    """Windows and noise of one rank at one update."""
    torch.manual_seed(1000 * rank + update + 1)
    flags = torch.rand(3, STEPS, ROWS) < 0.1
    sequence = SequenceBatch(
        {"observation": torch.randn(STEPS, ROWS, 3)}, torch.randint(3, (STEPS, ROWS)), torch.randn(STEPS, ROWS), *flags
    )
    return sequence, agent.draw_noise(STEPS, ROWS)


def train_on_rank(rank: int, third_version: bool) -> dict[str, torch.Tensor]:
    agent = small_agent(third_version)
    for update in range(UPDATES):
        agent.update(*draws(rank, update, agent))
        agent.advance()
    return agent.state_dict()


@pytest.mark.parametrize("third_version", [False, True], ids=["second version", "third version"])
def test_two_ranks_equal_one_process_on_the_joined_batches(tmp_path: Path, third_version: bool) -> None:
    first, second = run_on_ranks(2, tmp_path, train_on_rank, third_version)
    agent = small_agent(third_version)
    for update in range(UPDATES):
        (a, noise_a), (b, noise_b) = (draws(rank, update, agent) for rank in range(2))
        observation = {"observation": torch.cat([a.observation["observation"], b.observation["observation"]], 1)}
        fields = [torch.cat(pair, 1) for pair in zip(a[1:], b[1:], strict=True)]
        # Imagination starts from rows time by time, so the two ranks' rows alternate.
        task = [
            torch.cat([x.unflatten(1, (STEPS, ROWS)), y.unflatten(1, (STEPS, ROWS))], 2).flatten(1, 2)
            for x, y in zip(noise_a.task, noise_b.task, strict=True)
        ]
        noise = noise_a._replace(
            posterior=torch.cat([noise_a.posterior, noise_b.posterior], 1), task=ImaginationNoise(*task)
        )
        agent.update(SequenceBatch(observation, *fields), noise)
        agent.advance()
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], value, rtol=0, atol=2e-5)
