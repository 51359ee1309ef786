from __future__ import annotations

import csv
import functools
import io
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console
from toy_run import SPACES, Stairs, Toy, ToyData, episode_length, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from callbacks.evaluation.report import Score, draw_learning_curve, print_table, score_table
from datamodules.envs.make import EnvironmentSpec


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
    print_table(score_table(scores, "Toy on stairs"), {"run": "/a/long/path/" * 10}, Console(file=shown, width=80))
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


class OnlineToyData(ToyData):
    """As if it had collected four steps for each batch; its stairs end after three steps at the latest."""

    def __init__(self):
        super().__init__()
        del self.info
        wrapper = gym.wrappers.TimeLimit
        self.environment_spec = EnvironmentSpec("Stairs-v0", {}, (functools.partial(wrapper, max_episode_steps=3),))
        self.environment_steps = 100

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.environment_steps += 4
        return batch


def test_an_online_run_is_compared_with_random_actions_over_environment_steps(tmp_path, capsys):
    agent = Toy(SPACES, warm_start=15)
    _, evaluation = fit(tmp_path, agent, OnlineToyData())
    baseline, *_ = evaluation.history
    assert (baseline.kind, baseline.label, baseline.count, baseline.updates) == ("random", "random policy", 3, 0)
    assert -6.0 <= baseline.low <= baseline.mean <= baseline.high <= 6.0
    assert agent.latest_metrics["random_policy/return"] == baseline.mean
    curve = [s for s in evaluation.history if s.kind == "curve"]
    assert [(s.updates, s.environment_steps) for s in curve] == [(10, 140), (20, 180), (30, 220), (40, 260)]
    last, best = evaluation.final
    assert last.environment_steps == 260
    assert best.environment_steps == 100 + 4 * best.updates
    assert last.mean == pytest.approx(3 * agent.weight.item(), rel=1e-5)  # the data's wrapper is there
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").open()))
    assert [r["kind"] for r in rows][:2] == ["random", "curve"]
    assert [r["environment_steps"] for r in rows][:2] == ["0", "140"]
    shown = capsys.readouterr().out
    assert "Toy on Stairs-v0" in shown
    assert "env. steps" in shown
    assert "random policy" in shown
    assert "normalised" not in shown


def test_a_resumed_online_run_keeps_its_baseline(tmp_path):
    fit(tmp_path, Toy(SPACES), OnlineToyData(), epochs=1)
    second = Evaluation(episodes=1, final_episodes=1, parallel=1)
    trainer = make_trainer(tmp_path, 2, [second, ExactResume(), Checkpoint()])
    trainer.fit(Toy(SPACES), datamodule=OnlineToyData(), ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert [(s.kind, s.count) for s in second.history] == [("random", 3), ("curve", 3), ("curve", 1)]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, ("Stairs-v0", {})),
        ({"environment": "Stairs-v0", "environment_arguments": {"a": 1}}, ("Stairs-v0", {"a": 1})),
        ({"environment": "Lock-v0", "environment_arguments": {"b": 2}}, ("Lock-v0", {"b": 2})),
    ],
)
def test_the_wrappers_of_the_data_stay_whatever_the_environment(given, made, monkeypatch):
    seen = []
    monkeypatch.setattr(EnvironmentSpec, "make", lambda self: seen.append(self) or Stairs())
    data = OnlineToyData()
    trainer = SimpleNamespace(datamodule=data)
    Evaluation(**given).setup(trainer, Toy(SPACES), "fit")
    assert [(s.id, s.arguments, s.wrappers) for s in seen] == [(*made, data.environment_spec.wrappers)]


def labels(figure):
    axes = figure.axes[0]
    return axes.get_xlabel(), [text.get_text() for text in axes.get_legend().get_texts()], axes.get_lines()


@pytest.mark.parametrize(("steps", "label", "moments"), [(0, "updates", [1, 2]), (7, "environment steps", [7, 14])])
def test_the_learning_curve_counts_environment_steps_where_there_are_any(steps, label, moments, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("callbacks.evaluation.report.save_picture", lambda figure, *_: drawn.append(figure))
    curve = [Score(u, "curve", "policy", "", 3, u, u, u, environment_steps=steps * u) for u in (1, 2)]
    draw_learning_curve(curve, Score(0, "random", "random policy", "", 3, -5.0, -6.0, -4.0), "title", tmp_path / "a")
    found, names, (line, baseline) = labels(drawn[0])
    assert found == label
    assert names == ["policy", "random policy"]
    assert list(line.get_xdata()) == moments
    assert set(baseline.get_ydata()) == {-5.0}


def test_the_online_table_fits_80_columns_whole():
    scores = [
        Score(0, "random", "random policy", "", 100, -1234.5, -1345.6, -1123.4),
        Score(1_000_000, "best", "best checkpoint", "", 100, -1234.5, -1345.6, -1123.4, environment_steps=10_000_000),
    ]
    shown = io.StringIO()
    print_table(score_table(scores, "Toy on stairs"), {}, Console(file=shown, width=80))
    assert max(map(len, shown.getvalue().splitlines())) <= 80
    assert "best checkpoint 1,000,000 10,000,000 -1234.5 -1345.6 .. -1123.4 100 episodes" in " ".join(
        shown.getvalue().split()
    )
