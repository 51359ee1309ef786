"""MuZero on the command line: files of a run, continuing it exactly, two processes, and settings that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import refused, trained
from fit_command import on_two_ranks, whole_and_resumed
from joined_sequences import joined
from muzero_agents import KINDS, make_agent, make_batch
from ranks import run_on_ranks
from runs_in_parts import whole_and_resumed as same_in_parts

from modules.algorithms.muzero import MuZero

REPLAY = "--data.replay.init_args."
SMALL = (
    "--model.model.init_args.latent", "8", "--model.model.init_args.units", "8", "--model.search.simulations", "2",
    "--model.value_target.init_args.n", "2", "--model.unroll", "2", "--model.target_period", "7",
    "--data.sequence_length", "4", f"{REPLAY}overlap", "3", "--data.environments", "2", "--data.batch_size", "5",
    "--data.prefill", "60", "--data.steps_per_epoch", "40", "--data.capacity", "120",
    "--data.normalize_observation", "false",
    "--trainer.logger", "false", "--trainer.log_every_n_steps", "5", "--trainer.max_epochs", "4",
    "--evaluation.episodes", "2", "--evaluation.final_episodes", "2", "--checkpoint.every_n_updates", "3",
)  # fmt: skip
MOVED = "{class_path: modules.agent.moved_images.MovedImages, init_args: {"
CARTPOLE = ("--config", "muzero/cartpole", *SMALL)
BOARDS = ("--config", "muzero/tictactoe", *SMALL, "--data.updates_per_step", "0.25")


@pytest.mark.long
def test_a_run_leaves_curves_and_a_checkpoint_to_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the paper's own search."""
    monkeypatch.chdir(tmp_path)
    agent, evaluated = trained("muzero/cartpole_puct", SMALL, capsys)
    assert isinstance(agent, MuZero)
    assert agent.updates == 40
    assert type(agent.search.rule).__name__ == "PUCT"
    assert "CartPole-v1, 3 episodes" in evaluated


@pytest.mark.long
def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Also searches that are made anew and written back, although the replay is full before, members' masks, and images
    that are moved at random.
    """
    reward = "--model.model.init_args.reward"
    ensemble = (
        reward, "modules.networks.reward_models.ValuePrefix",
        f"{reward}.init_args.head", "modules.networks.value_ensemble.EnsembleHead",
        f"{reward}.init_args.head.init_args.members", "2", "--model.search.optimism", "0.1",
    )  # fmt: skip
    anew = f"{REPLAY}refresh_states", "true", "--model.reanalyse", "0.5"
    moved = "--data.environment", "reverie/Catch-v0", "--model.augmentation", f"{MOVED}shift: 1}}}}"
    _, b = whole_and_resumed(tmp_path, *CARTPOLE, *anew, *ensemble, *moved)
    assert any((batch["weight"] < 1.0).any() for batch in b["batches"])  # priorities differ


@pytest.mark.long
def test_a_run_on_turned_boards_goes_on_as_if_it_had_not_been_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The symmetries of its batches are drawn by the random state in its checkpoint."""
    monkeypatch.chdir(tmp_path)
    whole, _ = same_in_parts(("fit", *BOARDS), tmp_path)
    assert whole.updates > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--data.replay", "datamodules.replay.sequences.SequenceReplay"),
            "replay: datamodules.replay.prioritized.PrioritizedReplay",
        ),
        (("--model.unroll", "3"), "too short for unroll 3 and a value target that looks 2 rows ahead"),
        ((f"{REPLAY}refresh_states", "true"), "with reanalyse 0 nothing is searched anew"),
        ((f"{REPLAY}stored_rows", "false"), "set data.replay.init_args.stored_rows to true"),
        (("--model.temperature", "0.5"), "temperature would be ignored"),
        (("--model.search.optimism", "1"), "search.optimism is about what is not known"),
        (
            ("--model.slots", "modules.networks.action_slots.DistinctSlots", "--model.slots.init_args.count", "3"),
            "count to 2 or less",
        ),
        (("--trainer.callbacks+", "PopArt"), "no value head of MuZero has statistics"),
        (("--model.augmentation", f"{MOVED}shift: 4}}}}"), "none is observed in Box"),
        (("--model.augmentation", f"{MOVED}shift: -1}}}}"), "augmentation.shift must be at least 0, got -1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refused((*CARTPOLE, *arguments), message, capsys)


@pytest.mark.long
@pytest.mark.parametrize("task", [CARTPOLE, BOARDS], ids=["cartpole", "turned boards"])
def test_two_processes_stay_equal_on_experience_of_their_own(task: tuple[str, ...], tmp_path: Path) -> None:
    ranks = on_two_ranks(tmp_path, *task)
    assert not torch.equal(ranks[0]["batches"][-1]["start_state"], ranks[1]["batches"][-1]["start_state"])


# ------------------------------------------------------------------------------------------- one process on joined rows
UPDATES = 6


def train_on_rank(rank: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    agent = make_agent(**KINDS["EfficientZero"], target_period=3)
    for update in range(UPDATES):
        feedback = agent.update(make_batch(agent, 100 * rank + update)).feedback
        agent.advance()
    assert feedback is not None
    return agent.state_dict(), feedback.priority


def test_two_ranks_equal_one_process_on_the_joined_batches(tmp_path: Path) -> None:
    (first, low), (second, high) = run_on_ranks(2, tmp_path, train_on_rank)
    agent = make_agent(**KINDS["EfficientZero"], target_period=3)
    for update in range(UPDATES):
        feedback = agent.update(joined(make_batch(agent, update), make_batch(agent, 100 + update))).feedback
        agent.advance()
    assert feedback is not None
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat([low, high]), feedback.priority, rtol=1e-3, atol=1e-3)
