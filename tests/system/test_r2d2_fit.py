"""R2D2 through the command line: files of a run, continuing it exactly, two processes, and settings that do not fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from command_line import refused, trained
from fit_command import on_two_ranks, whole_and_resumed
from joined_sequences import joined
from ranks import run_on_ranks

import reverie
from modules.agent.agent import Agent
from modules.algorithms.r2d2 import R2D2
from modules.batch import PrioritizedSequences, SequenceBatch, Spaces
from modules.networks.blocks import DenseStack
from modules.networks.recurrent import LSTM, ActionValues

NETWORK, REPLAY = "--model.network.init_args.", "--data.replay.init_args."
SMALL = (
    f"{NETWORK}units", "8", f"{NETWORK}memory.init_args.width", "8", "--model.n_step", "2",
    "--model.target_period", "7",
    f"{REPLAY}burn_in", "2", f"{REPLAY}overlap", "2", "--data.environment_arguments.corridor", "3",
    "--data.environments", "2", "--data.batch_size", "5", "--data.sequence_length", "5", "--data.prefill", "60",
    "--data.steps_per_epoch", "40", "--data.updates_per_step", "0.25", "--data.capacity", "120",
    "--trainer.logger", "false", "--trainer.log_every_n_steps", "5", "--trainer.max_epochs", "4",
    "--evaluation.episodes", "2", "--evaluation.final_episodes", "2", "--checkpoint.every_n_updates", "3",
)  # fmt: skip


def test_a_run_leaves_curves_and_a_checkpoint_to_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    agent, evaluated = trained("r2d2/tmaze", SMALL, capsys)
    assert isinstance(agent, R2D2)
    assert agent.updates == 40
    assert "reverie/TMaze-v0, 3 episodes" in evaluated


TMAZE = ("--config", "r2d2/tmaze", *SMALL)


@pytest.mark.long
def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Also priorities, stored and refreshed states, although the replay is full before."""
    _, b = whole_and_resumed(tmp_path, *TMAZE, f"{REPLAY}refresh_states", "true")
    assert any((batch["weight"] < 1.0).any() for batch in b["batches"])  # priorities differ


def test_popart_takes_the_place_of_the_transform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    codec = (f"{NETWORK}codec", "modules.networks.value_codecs.Normalized")
    reverie.main(["fit", "--config", "r2d2/tmaze", *SMALL, *codec, "--trainer.callbacks+", "PopArt"])
    assert "reverie: warning" not in capsys.readouterr().err
    (run,) = (tmp_path / "runs/r2d2-tmaze").iterdir()
    state = Agent.from_checkpoint(run / "checkpoints/last.ckpt").state_dict()
    assert state["network.head.codec.weight"] > 0
    assert torch.equal(state["network.head.codec.mu"], state["target_network.head.codec.mu"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--data.replay", "datamodules.replay.sequences.SequenceReplay"),
            "replay: datamodules.replay.prioritized.PrioritizedReplay",
        ),
        (("--model.n_step", "6"), "has 5 transitions, but n_step is 6; lengthen data.sequence_length"),
        (("--data.environment", "Pendulum-v1", "--data.environment_arguments", "{}"), "Discrete space of actions"),
        (("--trainer.callbacks+", "PopArt"), "no value head of R2D2 has statistics"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refused((*TMAZE, *arguments), message, capsys)


def test_two_processes_stay_equal_on_experience_of_their_own(tmp_path: Path) -> None:
    ranks = on_two_ranks(tmp_path, *TMAZE)
    assert not torch.equal(ranks[0]["batches"][-1]["start_state"], ranks[1]["batches"][-1]["start_state"])


# ------------------------------------------------------------------------------------------- one process on joined rows
LENGTH, ROWS, UPDATES = 8, 4, 10


def small_agent() -> R2D2:
    torch.manual_seed(0)
    network = partial(ActionValues, units=8, trunk=partial(DenseStack, layers=1), memory=partial(LSTM, width=8))
    spaces = Spaces(gym.spaces.Box(-1.0, 1.0, (3,), np.float32), gym.spaces.Discrete(3))
    agent = R2D2(spaces, network, n_step=2, lr=1e-3, target_period=3)
    agent.burn_in = 2
    return agent


def draws(rank: int, update: int) -> PrioritizedSequences:
    """Sequences of one rank at one update."""
    torch.manual_seed(1000 * rank + update + 1)
    padding = torch.arange(LENGTH).unsqueeze(1) >= torch.randint(4, LENGTH + 1, (ROWS,))
    action, flags = torch.randint(3, (LENGTH, ROWS)), torch.zeros(3, LENGTH, ROWS, dtype=torch.bool)
    rows = SequenceBatch({"observation": torch.randn(LENGTH, ROWS, 3)}, action, torch.randn(LENGTH, ROWS), *flags)
    return PrioritizedSequences(
        rows, padding, torch.randn(ROWS, 16), torch.rand(ROWS), torch.arange(ROWS), torch.arange(ROWS)
    )


def train_on_rank(rank: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    agent = small_agent()
    for update in range(UPDATES):
        feedback = agent.update(draws(rank, update)).feedback
        agent.advance()
    assert feedback is not None
    return agent.state_dict(), feedback.priority, agent.chances(ROWS)


def test_two_ranks_equal_one_process_on_the_joined_batches(tmp_path: Path) -> None:
    (first, low, chances), (second, high, others) = run_on_ranks(2, tmp_path, train_on_rank)
    agent = small_agent()
    for update in range(UPDATES):
        feedback = agent.update(joined(draws(0, update), draws(1, update))).feedback
        agent.advance()
    assert feedback is not None
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], value, rtol=0, atol=2e-5)
    torch.testing.assert_close(torch.cat([low, high]), feedback.priority, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([chances, others]), agent.chances(2 * ROWS))
