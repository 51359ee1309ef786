"""Probes of models whose latents are known: the true state is read off whole, noise and shuffled labels not at all."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from dreamer_agents import make_agent
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.mlflow.logger import MLflowLogger
from callbacks.world_model import probe_fits
from callbacks.world_model.latent_probe import LatentProbe, ahead_of, seen_and_done, split_rows, spread
from datamodules.envs.labels import CartPoleLabels, CatchLabels, Labels
from datamodules.envs.make import EnvironmentSpec
from modules.batch import SequenceBatch

SMALL: dict[str, Any] = {"steps": 3, "streams": 40, "length": 24}


class Marks(gym.Env):
    """A mark that actions move around a ring of four places, and an amount that grows; everything is shown."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (5,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.amount, self.left = int(self.np_random.integers(4)), self.np_random.normal(), 9
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        np.random.rand()  # a careless environment: draws from the global generator
        self.place, self.left = (self.place + int(action)) % 4, self.left - 1
        self.amount += 0.1 * self.place + 0.1 * self.np_random.normal()
        return self._seen(), 0.0, self.left == 0, False, {}

    def _seen(self) -> np.ndarray:
        return np.array([*np.eye(4)[self.place], self.amount], np.float32)


gym.register("Marks-v0", Marks)


class MarkLabels(Labels):
    def __call__(self, env: gym.Env) -> dict[str, float]:
        game: Any = env.unwrapped
        return {"place": game.place, "amount": game.amount, "always": 3}


class Knows(Toy):
    """Its latents are the true state, seen and foreseen."""

    def latents(self, batch: SequenceBatch, steps: int) -> torch.Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        torch.rand(())  # draws from the global generator
        return torch.stack([batch.observation["observation"].roll(-k, 0) for k in range(steps + 1)])

    def untrained(self) -> Noisy:  # type: ignore[override]  # another class, whose latents are known as well
        return Noisy(SPACES)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[torch.Tensor, Any]:
        return torch.randint(4, (len(observation),)), state


class Stays(Knows):
    """Its latents stay what was seen."""

    def latents(self, batch: SequenceBatch, steps: int) -> torch.Tensor:
        return super().latents(batch, 0).expand(steps + 1, -1, -1, -1)


class Noisy(Knows):
    """Its latents are noise."""

    def latents(self, batch: SequenceBatch, steps: int) -> torch.Tensor:
        return torch.randn(steps + 1, *batch.reward.shape, 6)


class Played(ToyData):
    environment_spec = EnvironmentSpec("Marks-v0")


def fit(folder: Path, agent: Toy, callback: LatentProbe | None, epochs: int = 1, **arguments: Any) -> Toy:
    torch.manual_seed(0)
    callbacks = [callback] if callback else []
    make_trainer(folder, epochs, callbacks, **arguments).fit(agent, datamodule=Played())
    return agent


def scores(agent: Toy, quantity: str, source: str) -> list[float]:
    """Of the linear probe by steps, then of the one with a hidden layer."""
    names = [f"world_model/probe/{quantity}/{source}/{probe}/{k}" for probe in ("linear", "hidden") for k in range(4)]
    return [agent.latest_metrics[name] for name in names]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe with a hidden layer hardly learns, where its scores do not matter."""
    monkeypatch.setattr(probe_fits, "UPDATES", 3)


def test_the_true_state_is_read_off_whole_at_every_step_and_controls_are_chance(tmp_path: Path) -> None:
    agent = fit(tmp_path, Knows(SPACES), LatentProbe(MarkLabels, **SMALL))
    assert scores(agent, "place", "latent") == [1.0] * 8
    assert min(scores(agent, "amount", "latent")) > 0.98
    for control in ("random_encoder", "shuffled_labels"):
        assert scores(agent, "place", control) == pytest.approx([0.25] * 8, abs=0.15)
        assert max(scores(agent, "amount", control)) < 0.1
    # What was seen last and the actions since: a sum modulo four is not linear in them.
    seen = scores(agent, "place", "observation")
    assert seen[0] == seen[4] == 1.0
    assert max(seen[1:4]) < 0.5 < 0.9 < seen[5]
    assert not any("always" in name for name in agent.latest_metrics)  # what does not vary tells nothing


@pytest.mark.long
def test_noise_is_chance_and_a_latent_that_stays_is_right_about_the_past_alone(tmp_path: Path) -> None:
    noise = fit(tmp_path, Noisy(SPACES), LatentProbe(MarkLabels, **SMALL))
    assert scores(noise, "place", "latent") == pytest.approx([0.25] * 8, abs=0.15)
    assert max(scores(noise, "amount", "latent")) < 0.1
    stays = fit(tmp_path, Stays(SPACES), LatentProbe(MarkLabels, **SMALL))
    place, amount = scores(stays, "place", "latent"), scores(stays, "amount", "latent")
    assert place[0] == place[4] == 1.0
    assert place[1:4] + place[5:] == pytest.approx([0.25] * 6, abs=0.15)
    assert amount[0] > amount[1] > amount[3] > 0.5  # it changes slowly


@pytest.mark.usefixtures("hasty")
def test_training_is_what_it_would_be_without_and_reports_are_the_same_every_time(tmp_path: Path) -> None:
    probed = fit(tmp_path / "a", Knows(SPACES), LatentProbe(MarkLabels, 1, **SMALL), epochs=2)
    plain = fit(tmp_path / "b", Knows(SPACES), None, epochs=2)
    assert probed.training
    assert torch.equal(probed.weight, plain.weight)
    tables = sorted((tmp_path / "a/world_model").glob("*.csv"))
    assert [path.name for path in tables] == ["latent_probe_00000010.csv", "latent_probe_00000020.csv"]
    assert tables[0].read_text() == tables[1].read_text()


@pytest.mark.usefixtures("hasty")
def test_the_agent_may_act(tmp_path: Path) -> None:
    agent = fit(tmp_path, Knows(SPACES), LatentProbe(MarkLabels, play="agent", **SMALL))
    assert scores(agent, "place", "latent")[:4] == [1.0] * 4


@pytest.mark.usefixtures("hasty")
def test_table_and_picture_are_written_and_sent_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr(MLflowLogger, "put", lambda self, kind, run_id=None, **fields: sent.append((kind, fields)))
    monkeypatch.setattr(MLflowLogger, "experiment", None)
    monkeypatch.setattr(MLflowLogger, "finalize", lambda self, status="success": None)
    logger = MLflowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", run_directory=str(tmp_path))
    agent = fit(tmp_path, Knows(SPACES), LatentProbe(MarkLabels, **SMALL), logger=logger)
    written = sorted(path.name for path in (tmp_path / "world_model").iterdir())
    assert written == ["latent_probe_00000010.csv", "latent_probe_00000010.png"]
    files = [fields for kind, fields in sent if kind == "file"]
    assert {Path(f["source"]).name for f in files} == set(written)
    assert {f["folder"] for f in files} == {"world_model"}
    with (tmp_path / "world_model/latent_probe_00000010.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 2 * 4  # quantities, sources, probes, steps
    assert {(row["quantity"], row["measure"]) for row in rows} == {("place", "accuracy"), ("amount", "R2")}
    for row in rows:
        name = "world_model/probe/{quantity}/{source}/{probe}/{step}".format(**row)
        assert float(row["value"]) == agent.latest_metrics[name]


@pytest.mark.usefixtures("hasty")
def test_a_world_model_is_probed(tmp_path: Path) -> None:
    spaces = EnvironmentSpec("reverie/Catch-v0").spaces()
    agent = make_agent(spaces.observation, spaces.action)
    probe = LatentProbe(CatchLabels, steps=2, streams=8, length=12)
    data = ToyData()
    data.environment_spec = EnvironmentSpec("reverie/Catch-v0")  # type: ignore[attr-defined]
    trainer = make_trainer(tmp_path, 1, [probe])
    probe.check_run(trainer, agent, data)
    trainer.datamodule = data  # type: ignore[attr-defined]
    with torch.no_grad():
        found = probe.look(trainer, agent.eval())
    assert {(s.quantity, s.step) for s in found} == {
        (quantity, step) for quantity in ("ball_row", "ball_column", "paddle") for step in range(3)
    }
    names = {s: (s.quantity, s.source, s.probe) for s in found}
    assert min(s.value for s in found if names[s] == ("ball_row", "observation", "linear")) > 0.8


def test_latents_that_are_not_finite_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stays, "latents", lambda self, batch, steps: torch.full((steps + 1, 24, 4, 1), torch.nan))
    with pytest.raises(FloatingPointError, match="training diverged; lower the learning rates"):
        fit(tmp_path, Stays(SPACES), LatentProbe(MarkLabels, steps=3, streams=4, length=24))


def test_rows_have_so_many_of_their_episode_before_them() -> None:
    first = np.zeros((7, 8), bool)
    first[0] = first[4, 1] = first[6, 4] = True
    train, test = split_rows(first, 2)
    expected = [(t, n) for t in range(7) for n in range(8) if t >= 2 and not first[t, n] and not first[t - 1, n]]
    assert sorted(map(tuple, [*train, *test])) == sorted(expected)
    assert set(test[:, 1]) == {0, 4}  # whole streams, so that no episode is in both
    assert set(train[:, 1]) == {1, 2, 3, 5, 6, 7}
    assert len(spread(train, 5)) == 5
    assert spread(train, 1000) is train


def test_latents_are_those_that_were_foreseen_for_a_row() -> None:
    latents = torch.arange(3 * 6 * 2).view(3, 6, 2, 1)
    found = ahead_of(latents, torch.tensor([[2, 0], [5, 1]]))
    assert found.squeeze(-1).tolist() == [[latents[k, t - k, n].item() for t, n in ((2, 0), (5, 1))] for k in range(3)]


def test_the_observation_stands_beside_the_actions_since() -> None:
    flags = torch.zeros(4, 1, dtype=torch.bool)
    action = torch.tensor([0, 2, 1, 0])[:, None]
    batch = SequenceBatch({"a": torch.arange(4.0)[:, None]}, action, torch.zeros(4, 1), flags, flags, flags)
    found = seen_and_done(batch, 2, torch.tensor([[2, 0], [3, 0]]))
    none, left, stay, right = [0.0] * 3, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    assert found[:, 0].tolist() == [[2.0, *none, *none], [1.0, *stay, *none], [0.0, *stay, *right]]
    assert found[:, 1].tolist() == [[3.0, *none, *none], [2.0, *left, *none], [1.0, *left, *stay]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs must be at least 1"),
        ({"streams": 3}, "streams must be at least 4"),
        ({"steps": 5, "length": 5}, "foresees 5 steps in streams of length 5; give longer ones"),
        ({"play": "best"}, "play must be"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LatentProbe(MarkLabels, **arguments)


def test_runs_without_what_it_needs_are_refused(tmp_path: Path) -> None:
    probe, trainer = LatentProbe(MarkLabels, **SMALL), make_trainer(tmp_path, 1, [])
    with pytest.raises(ValueError, match="LatentProbe is for agents with a model of latents: Toy has none"):
        probe.check_run(trainer, Toy(SPACES), Played())
    with pytest.raises(ValueError, match=r"which name none: give --data\.environment"):
        probe.check_run(trainer, Knows(SPACES), ToyData())
    with pytest.raises(ValueError, match=r"CartPoleLabels cannot read environment 'Marks-v0': .* attribute 'state'"):
        LatentProbe(CartPoleLabels, **SMALL).check_run(trainer, Knows(SPACES), Played())
    with pytest.raises(ValueError, match="no episode has more than 12 steps; give fewer steps"):
        fit(tmp_path, Knows(SPACES), LatentProbe(MarkLabels, steps=12, streams=4, length=24))
