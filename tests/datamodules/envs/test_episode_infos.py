"""Infos of environments about their episodes, and films of them: in curve, table, files and MLflow."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from checkpoint_files import write_checkpoint
from imageio_ffmpeg import read_frames
from rich.console import Console
from toy_run import SPACES, Stairs, Toy, ToyData, episode_length, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from callbacks.evaluation.player import EvaluationPlayer
from callbacks.evaluation.report import Score, print_table, score_table
from callbacks.mlflow.logger import MLflowLogger
from commands.evaluate import evaluate
from datamodules.envs.episode_infos import return_text
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection


class Told(Stairs):
    """A success is an even number of steps; a picture is as bright as the steps that are left."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.length = int(super().reset(seed=seed)[0][0])
        return np.array([float(self.left)]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        *rest, _ = super().step(action)
        return *rest, {"is_success": np.bool_(self.left == 0 and self.length % 2 == 0), "steps": self.length, "x": "y"}

    def render(self) -> np.ndarray:
        np.random.rand()  # a careless one
        return np.full((4, 6, 3), 30 * self.left, np.uint8)


gym.register("Told-v0", Told)


def fit(folder: Any, agent: Toy | None = None, **evaluation: Any) -> tuple[Any, Evaluation]:
    callback = Evaluation(episodes=3, final_episodes=4, parallel=2, **evaluation)
    torch.manual_seed(0)
    trainer = make_trainer(folder, 3, [callback, ExactResume(), Checkpoint()])
    trainer.fit(agent or Toy(SPACES), datamodule=ToyData(environment="Told-v0"))
    return trainer, callback


def share(first: int, count: int) -> float:
    return float(np.mean([episode_length(first + e) % 2 == 0 for e in range(count)]))


def test_success_and_chosen_numbers_are_in_curve_table_and_files(tmp_path, capsys) -> None:
    agent = Toy(SPACES)
    trainer, evaluation = fit(tmp_path, agent, episode_infos=["steps"])
    steps = float(np.mean([episode_length(e) for e in range(3)]))
    assert trainer.callback_metrics["evaluation/success_rate"].item() == pytest.approx(share(0, 3))
    assert trainer.callback_metrics["evaluation/steps"].item() == pytest.approx(steps)
    assert agent.latest_metrics["last/success_rate"] == share(1_000_000, 4)
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").open()))
    curve = [row for row in rows if row["kind"] == "curve"]
    assert len(curve) == 3
    assert {(float(row["success_rate"]), float(row["steps"])) for row in curve} == {(share(0, 3), steps)}
    assert next(row for row in rows if row["kind"] == "behaviour")["success_rate"] == ""
    shown = capsys.readouterr().out
    assert "success" in shown
    assert f"{100 * share(1_000_000, 4):.0f}%" in shown
    assert "\nlast: steps " in shown
    again = Evaluation()
    again.load_state_dict(evaluation.state_dict())
    assert again.history == evaluation.history


def test_a_population_has_the_mean_of_its_living_members(tmp_path) -> None:
    agent = Toy(SPACES, members=3)
    agent.alive[1] = False
    trainer, _ = fit(tmp_path, agent)
    assert trainer.callback_metrics["evaluation/success_rate"].item() == pytest.approx(share(0, 3))
    assert trainer.callback_metrics["evaluation/beta=4/seed=2/success_rate"].item() == pytest.approx(share(0, 3))


def test_scores_of_older_checkpoints_have_no_numbers() -> None:
    old = {"updates": 1, "kind": "curve", "label": "policy", "member": "", "count": 1, "mean": 0, "low": 0, "high": 0}
    assert Score(**old).metrics("evaluation").keys() == {f"evaluation/return{x}" for x in ("", "/low", "/high")}
    shown = io.StringIO()
    known = Score(**{**old, "label": "best checkpoint"}, environment_steps=10_000_000, numbers={"success_rate": 0.25})
    print_table(score_table([known, Score(**old)], "title"), {}, Console(file=shown, width=80))
    assert max(map(len, shown.getvalue().splitlines())) <= 80
    assert "25%" in shown.getvalue()


gym.register("Swing-v3", "test_episode_infos:Swing", max_episode_steps=9)


class Swing(gym.Wrapper):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gym.make("Pendulum-v1").unwrapped)

    def step(self, action: Any) -> Any:
        seen, reward, terminated, _, _ = self.env.step(action)
        return seen, reward, terminated, False, {"success": float(seen[0]) > 0, "angle": float(seen[1])}


def test_evaluate_reports_success_per_episode_and_as_a_rate(tmp_path, capsys) -> None:
    write_checkpoint(tmp_path / "a.ckpt", dataset=None)
    for ending in ("json", "csv"):
        evaluate(str(tmp_path / "a.ckpt"), "Swing-v3", 8, output=str(tmp_path / f"o.{ending}"), episode_infos=["angle"])
    (member,) = json.loads((tmp_path / "o.json").read_text())["members"]
    told = [episode["success"] for episode in member["episodes"]]
    assert len(told) == 8
    assert 0 < sum(told) < 8
    assert member["numbers"]["success_rate"] == np.mean(told)
    assert member["numbers"]["angle"] == pytest.approx(np.mean([e["angle"] for e in member["episodes"]]))
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert [float(row["success"]) for row in rows] == told
    shown = " ".join(capsys.readouterr().out.split())
    assert "success rate" in shown
    assert f"{100 * np.mean(told):.0f}%" in shown
    with pytest.warns(UserWarning, match="episode_infos: no episode told a number coins, x/y in its last info"):
        evaluate(str(tmp_path / "a.ckpt"), "Swing-v3", 1, episode_infos=["angle", "coins", "x/y"])
    with pytest.raises(ValueError, match="longer than 3 steps"):
        evaluate(str(tmp_path / "a.ckpt"), "Swing-v3", 1, max_episode_steps=3)


# --------------------------------------------------------------------------------------------------------------- films
def brightness(file: Any) -> list[float]:
    frames = read_frames(str(file))
    meta = next(frames)
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 5
    return [float(np.frombuffer(frame, np.uint8).mean()) for frame in frames]


def test_films_show_the_evaluated_episodes_and_change_no_number(tmp_path) -> None:
    filmed, plain = Toy(SPACES), Toy(SPACES)
    _, one = fit(tmp_path / "filmed", filmed, video_every=2)
    _, other = fit(tmp_path / "plain", plain)
    assert torch.equal(filmed.weight, plain.weight)
    assert one.history == other.history
    assert one.final == other.final
    files = sorted((tmp_path / "filmed" / "videos").iterdir())
    assert [file.name for file in files] == ["best.mp4", "last.mp4", "updates_00000020.mp4"]
    for file, seed in zip(files, (1_000_000, 1_000_000, 0), strict=True):
        length = episode_length(seed)
        assert brightness(file) == pytest.approx([30 * (length - t) for t in range(length)], abs=5)
    assert not (tmp_path / "plain" / "videos").exists()


def test_films_are_artifacts_and_a_failing_one_is_a_warning(tmp_path, monkeypatch) -> None:
    put: list[Any] = []
    logger = MLflowLogger.__new__(MLflowLogger)
    monkeypatch.setattr(MLflowLogger, "put", lambda self, kind, **fields: put.append((kind, fields)))
    player = EvaluationPlayer(1, 10, Protection(), video_every=1)
    trainer = SimpleNamespace(default_root_dir=tmp_path, loggers=[logger])
    agent = Toy(SPACES, members=2)
    means = {"": 9, agent.member_names[0]: 1, agent.member_names[1]: 2}
    scores = [Score(3, "curve", "policy", name, 1, mean, 0, 0) for name, mean in means.items()]
    player.film(trainer, agent, scores, EnvironmentSpec("Told-v0"), 0, [])
    file = tmp_path / "videos" / "updates_00000000.mp4"
    assert put == [("file", {"source": str(file), "folder": "videos"})]
    monkeypatch.setattr(Told, "render", lambda self: 1 / 0)
    with pytest.warns(UserWarning, match=r"no film .*updates_00000000\.mp4: Told-v0 cannot be rendered here: division"):
        player.film(trainer, agent, scores, EnvironmentSpec("Told-v0"), 0, [])
    assert [f.name for f in (tmp_path / "videos").iterdir()] == [file.name]


def test_an_environment_without_pictures_is_refused_at_the_start(tmp_path) -> None:
    callback = Evaluation(episodes=1, video_every=1)
    with pytest.raises(ValueError, match=r"evaluation\.video_every: .*Stairs-v0.*; leave it at 0"):
        make_trainer(tmp_path, 1, [callback]).fit(Toy(SPACES), datamodule=ToyData())
    with pytest.raises(ValueError, match="video_every must be at least 0, got -1"):
        Evaluation(video_every=-1)


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (-0.7665, "", "-0.766"),
        (-0.6418, "", "-0.642"),
        (9.4, "", "9.40"),
        (9.996, "", "10.0"),
        (-9.996, "", "-10.0"),
        (1342.06, "", "1342.1"),
        (0.0, "+", "+0.00"),
        (0.031, "+", "+0.0310"),
        (float("nan"), "", "nan"),
    ],
)
def test_returns_show_tenths_from_ten_on_and_three_digits_below(value: float, sign: str, text: str) -> None:
    assert return_text(value, sign) == text
