from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from rich.console import Console
from toy_run import SPACES, Toy, ToyData, episode_length, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation import Evaluation
from callbacks.evaluation_report import Score, print_table
from callbacks.randomness import random_state
from callbacks.rollout import evaluate_policy
from datamodules.envs.make import make_vector_env


@pytest.mark.parametrize("parallel", [1, 3, 7, 100])
def test_returns_are_those_of_the_seeded_episodes_whatever_runs_in_parallel(parallel):
    rollouts = evaluate_policy(Toy(SPACES, start=0.5), "Stairs-v0", 7, seed=20, parallel=parallel)
    lengths = [episode_length(20 + e) for e in range(7)]
    assert len(set(lengths)) > 1
    np.testing.assert_array_equal(rollouts.lengths, [lengths])
    np.testing.assert_allclose(rollouts.returns, [[0.5 * n for n in lengths]])


def test_members_play_the_same_episodes_in_one_pass_and_dead_ones_give_nan():
    agent = Toy(SPACES, members=3)
    agent.weight.data = torch.tensor([1.0, float("nan"), -1.0])
    agent.alive = [True, False, True]
    lengths = np.array([episode_length(e) for e in range(5)], dtype=float)
    rollouts = evaluate_policy(agent, "Stairs-v0", 5, seed=0, parallel=2)
    np.testing.assert_allclose(rollouts.returns, [lengths, [np.nan] * 5, -lengths])
    assert rollouts.lengths[1].tolist() == [0] * 5


def test_a_member_that_has_just_diverged_sends_nothing_either():
    agent = Toy(SPACES, members=2)
    agent.weight.data = torch.tensor([float("inf"), 1.0])
    returns = evaluate_policy(agent, "Stairs-v0", 3, seed=0).returns
    assert np.isnan(returns[0]).all()
    assert returns[1].tolist() == [episode_length(e) for e in range(3)]


class Counter(Toy):
    """Plays the number of steps it has seen in this episode: its memory must start anew with each episode."""

    def initial_state(self, batch):
        return torch.zeros(batch)

    def act(self, observation, state=None, *, explore):
        return state[:, None] / 10, state + 1


def test_memory_starts_anew_with_each_episode():
    returns = evaluate_policy(Counter(SPACES), "Stairs-v0", 6, seed=3, parallel=2).returns
    lengths = [episode_length(3 + e) for e in range(6)]
    np.testing.assert_allclose(returns, [[n * (n - 1) / 20 for n in lengths]], rtol=1e-5)


def test_nothing_random_and_no_mode_is_disturbed():
    agent = Toy(SPACES).train()
    before = random_state(torch.device("cpu"))
    evaluate_policy(agent, "Stairs-v0", 3, seed=5)
    after = random_state(torch.device("cpu"))
    assert agent.training
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["numpy"][2:] == after["numpy"][2:]
    assert before["python"] == after["python"]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="episodes=0"):
        evaluate_policy(Toy(SPACES), "Stairs-v0", 0, seed=0)
    with pytest.raises(ValueError, match=r"longer than 2 steps: .* time limit"):
        evaluate_policy(Toy(SPACES), "Stairs-v0", 1, seed=0, max_episode_steps=2)
    vector = make_vector_env("Stairs-v0", 2, seed=0, autoreset=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match=r"AutoresetMode\.DISABLED"):
        evaluate_policy(Toy(SPACES), vector, 1, seed=0)
    vector.close()


def fit(folder, agent, data=None, epochs=4, **evaluation):
    evaluation = Evaluation(episodes=3, final_episodes=5, parallel=2, **evaluation)
    trainer = make_trainer(folder, epochs, [evaluation, ExactResume(), Checkpoint()])
    torch.manual_seed(0)
    trainer.fit(agent, datamodule=data or ToyData())
    return trainer, evaluation


def test_a_run_is_evaluated_reported_and_its_best_checkpoint_kept(tmp_path, capsys):
    agent = Toy(SPACES, warm_start=15)
    trainer, evaluation = fit(tmp_path, agent)
    curve = [s for s in evaluation.history if s.kind == "curve"]
    assert [s.updates for s in curve] == [10, 20, 30, 40]
    phase = [s for s in evaluation.history if s.kind == "phase"]
    assert [(s.updates, s.label, s.count) for s in phase] == [(15, "cloned policy", 5)]
    last, best = evaluation.final
    lengths = np.array([episode_length(1_000_000 + e) for e in range(5)], dtype=float)
    assert last.mean == pytest.approx(agent.weight.item() * lengths.mean(), rel=1e-5)
    assert last.normalized == pytest.approx(last.mean / 5.0 * 100)
    top = max(curve, key=lambda s: s.mean)
    assert best.updates == top.updates
    saved = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["state_dict"]["weight"].item()
    assert best.mean == pytest.approx(saved * lengths.mean(), rel=1e-5)
    assert trainer.callback_metrics["evaluation/return"].item() == pytest.approx(curve[-1].mean, rel=1e-5)
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").open()))
    assert [r["kind"] for r in rows] == ["behaviour", "curve", "phase", "curve", "curve", "curve", "last", "best"]
    assert (tmp_path / "learning_curve.png").stat().st_size > 5000
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("behaviour (data)", "cloned policy", "last", "best checkpoint", "40.0"))
    assert f"checkpoint: {tmp_path}/checkpoints/best.ckpt" in shown


def test_the_table_fits_80_columns_whole():
    names = ["", "beta=0.0625/seed=0", "beta=0.0625/seed=1"]
    scores = [
        Score(1_000_000, "best", "best checkpoint", name, 100, -1234.5, -1345.6, -1123.4, 12.3, 11.2, 13.4)
        for name in names
    ]
    shown = io.StringIO()
    print_table(scores, "Toy on stairs", {"run": "/a/long/path/" * 10}, Console(file=shown, width=80))
    *rows, footer = shown.getvalue().splitlines()
    assert max(map(len, rows)) <= 80
    assert "…" not in shown.getvalue()
    assert "beta=0.0625/seed=1" in shown.getvalue()
    assert footer == "run: " + "/a/long/path/" * 10


def test_members_are_logged_by_name_and_as_their_mean(tmp_path):
    agent = Toy(SPACES, members=3)
    agent.alive[1] = False
    trainer, evaluation = fit(tmp_path, agent, epochs=1)
    metrics = {k: v.item() for k, v in trainer.callback_metrics.items()}
    first, third = metrics["evaluation/beta=4/seed=0/return"], metrics["evaluation/beta=4/seed=2/return"]
    assert "evaluation/beta=4/seed=1/return" not in metrics
    assert metrics["evaluation/return"] == pytest.approx((first + third) / 2, rel=1e-5)
    assert metrics["evaluation/return/low"] == pytest.approx(min(first, third), rel=1e-5)
    assert (evaluation.history[0].member, evaluation.history[0].count) == ("", 2)
    assert agent.latest_metrics["evaluation/beta=4/seed=0/normalized_return"] == pytest.approx(first * 20, rel=1e-5)


def test_evaluation_does_not_change_what_is_learned(tmp_path):
    often, seldom = Toy(SPACES), Toy(SPACES)
    fit(tmp_path / "a", often, every_n_epochs=1)
    fit(tmp_path / "b", seldom, every_n_epochs=100)
    assert torch.equal(often.weight, seldom.weight)


def test_history_survives_a_resume(tmp_path):
    _, whole = fit(tmp_path / "a", Toy(SPACES, warm_start=15))
    fit(tmp_path / "b", Toy(SPACES, warm_start=15), epochs=2)
    second = Evaluation(episodes=3, final_episodes=5, parallel=2)
    trainer = make_trainer(tmp_path / "b", 4, [second, ExactResume(), Checkpoint()])
    torch.manual_seed(99)
    trainer.fit(Toy(SPACES, warm_start=15), datamodule=ToyData(), ckpt_path=tmp_path / "b/checkpoints/last.ckpt")
    assert second.history == whole.history
    assert second.final == whole.final


def test_an_environment_of_other_spaces_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stairs-mixed was recorded in Stairs-v0, but Wide-v0"):
        fit(tmp_path, Toy(SPACES), environment="Wide-v0")
    with pytest.raises(ValueError, match=r"stairs-mixed does not fit Wide-v0: its observation space"):
        fit(tmp_path, Toy(SPACES), ToyData(environment=None), environment="Wide-v0")


def test_data_without_environment_or_references(tmp_path):
    with pytest.warns(UserWarning, match="no evaluation: the dataset names no environment"):
        _, evaluation = fit(tmp_path / "a", Toy(SPACES), ToyData(environment=None), epochs=1)
    assert evaluation.history == []
    assert not (tmp_path / "a/checkpoints/best.ckpt").exists()
    _, evaluation = fit(tmp_path / "b", Toy(SPACES), ToyData(references=False), epochs=1)
    assert evaluation.final[0].normalized is None


def test_testing_a_checkpoint_logs_its_return(tmp_path):
    agent, data = Toy(SPACES, start=1.0), ToyData()
    data.test_dataloader = data.train_dataloader
    agent.test_step = lambda batch, batch_idx: None
    evaluation = Evaluation(final_episodes=4)
    (values,) = make_trainer(tmp_path, 1, [evaluation]).test(agent, datamodule=data, verbose=False)
    assert values["test/return"] == pytest.approx(np.mean([episode_length(1_000_000 + e) for e in range(4)]))
