from __future__ import annotations

import csv
import functools
import io
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from rich.console import Console
from toy_run import SPACES, Stairs, Toy, ToyData, episode_length, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from callbacks.evaluation.report import Score, draw_learning_curve, print_table, score_table
from callbacks.evaluation.rollout import evaluate_policy, evaluate_random
from datamodules.envs.make import EnvironmentSpec
from modules.agent.random_state import random_state
from modules.batch import Spaces


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


class Told(Toy):
    """Plays a tenth of the reward before, of which only who steps the environment knows."""

    def initial_state(self, batch):
        return torch.full((batch,), 3.0)

    def act(self, observation, state=None, *, explore):
        return state[:, None] / 10, torch.full_like(state, torch.nan)

    def rewarded(self, state, reward):
        assert reward.dtype == torch.float32
        assert state.isnan().all()
        return 1 + reward


def test_an_agent_is_told_what_its_actions_paid():
    returns = evaluate_policy(Told(SPACES), "Stairs-v0", 5, seed=3, parallel=2).returns
    expected = []
    for e in range(5):
        rewards = [0.3]
        for _ in range(episode_length(3 + e) - 1):
            rewards.append((1 + rewards[-1]) / 10)
        expected.append(sum(rewards))
    np.testing.assert_allclose(returns, [expected], rtol=1e-5)


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


class Lock(gym.Env):
    """Pays 1 for each dial that is turned to what the observation says; lasts as many steps as its seed decides."""

    observation_space = gym.spaces.Dict(
        {"wanted": gym.spaces.Box(0.0, 9.0, (2,), np.float64), "picture": gym.spaces.Box(0, 255, (1, 2, 1), np.uint8)}
    )
    action_space = gym.spaces.MultiDiscrete([3, 4], start=[5, 5])

    def observe(self):
        self.wanted = self.np_random.integers([5, 5], [8, 9])
        return {"wanted": self.wanted.astype(np.float64), "picture": self.wanted.astype(np.uint8).reshape(1, 2, 1)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 2 + seed % 3
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.left -= 1
        reward = float((action == self.wanted).sum())
        return self.observe(), reward, self.left == 0, False, {}


gym.register("Lock-v0", Lock)
LOCK = Spaces(Lock.observation_space, Lock.action_space)


class Locksmith(Toy):
    """Turns one dial as the one key says and one as the other says, from the second step of an episode on."""

    def initial_state(self, batch):
        return {"steps": torch.zeros(batch, 1, dtype=torch.int64)}

    def act(self, observation, state=None, *, explore):
        assert observation["wanted"].dtype == torch.float32
        assert observation["picture"].dtype == torch.uint8
        read = torch.stack([observation["wanted"][:, 0].long(), observation["picture"][:, 0, 1, 0].long()], 1)
        return torch.where(state["steps"] > 0, read, 5), {"steps": state["steps"] + 1}


def test_observations_by_key_and_factored_actions_with_memory():
    rollouts = evaluate_policy(Locksmith(LOCK), EnvironmentSpec("Lock-v0"), 6, seed=30, parallel=2)
    lengths = np.array([2 + (30 + e) % 3 for e in range(6)])
    guessed = [(Lock().reset(seed=30 + e)[0]["wanted"] == 5).sum() for e in range(6)]
    assert len(set(guessed)) > 1
    np.testing.assert_array_equal(rollouts.lengths, [lengths])
    np.testing.assert_array_equal(rollouts.returns, [2.0 * (lengths - 1) + guessed])


def test_dead_members_send_an_allowed_factored_action():
    agent = Locksmith(LOCK, members=2)
    agent.alive = [True, False]
    returns = evaluate_policy(agent, "Lock-v0", 3, seed=0, parallel=1).returns
    assert np.isnan(returns[1]).all()
    assert returns[0].min() >= 2.0


def test_random_actions_are_uniform_and_repeatable():
    environment = EnvironmentSpec("Lock-v0").make_vector(5, seed=0, autoreset=AutoresetMode.DISABLED)
    before = random_state(torch.device("cpu"))
    rollouts = evaluate_random(environment, 300, seed=0)
    assert torch.equal(before["numpy"][1], random_state(torch.device("cpu"))["numpy"][1])
    assert rollouts.returns.shape == (1, 300)
    rate = rollouts.returns.sum() / rollouts.lengths.sum()  # of 900 steps, with a standard deviation of 0.022
    assert rate == pytest.approx(1 / 3 + 1 / 4, abs=0.09)
    np.testing.assert_array_equal(evaluate_random(environment, 300, seed=0).returns, rollouts.returns)
    environment.close()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="episodes=0"):
        evaluate_policy(Toy(SPACES), "Stairs-v0", 0, seed=0)
    with pytest.raises(ValueError, match=r"longer than 2 steps: .* time limit"):
        evaluate_policy(Toy(SPACES), "Stairs-v0", 1, seed=0, max_episode_steps=2)
    vector = EnvironmentSpec("Stairs-v0").make_vector(2, seed=0, autoreset=AutoresetMode.NEXT_STEP)
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
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *a, **k: drawn.append(self))
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
