"""The online datamodule: how many steps are taken when, what a batch holds, and continuing a run exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import tape  # noqa: F401 - registers environments
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.checkpointing import Checkpoint, ExactResume
from datamodules.online import OnlineDataModule
from modules.batch import Sequence

SMALL = {
    "environment": "tape:Tape-v0",
    "environments": 2,
    "prefill": 20,
    "sequence_length": 5,
    "batch_size": 3,
    "steps_per_epoch": 40,
    "updates_per_step": 0.25,
}


def make(**changes: Any) -> OnlineDataModule:
    return OnlineDataModule(**SMALL | changes)


class Learner(LightningModule):
    """Acts at random, with a memory that counts; remembers what it is given."""

    def __init__(self, actions: int = 7) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.actions = actions
        self.batches: list[Sequence] = []
        self.steps: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def initial_state(self, batch: int) -> Any:
        return (torch.zeros(batch, dtype=torch.int64),)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        (count,) = state
        draw = torch.randint(self.actions, count.shape)
        return (draw + count) % self.actions, (count + 1,)

    def training_step(self, batch: Any, batch_index: int) -> None:
        self.optimizers().step()  # type: ignore[union-attr]
        self.batches.append(Sequence.from_tensordict(batch.clone()))
        self.steps.append(self.trainer.datamodule.environment_steps)  # type: ignore[attr-defined]


def fit(data: OnlineDataModule, folder: Path, *, epochs: int = 1, callbacks: Any = (), **arguments: Any) -> Learner:
    trainer = Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), enable_checkpointing=bool(callbacks), devices=1,
    )  # fmt: skip
    learner = Learner(7 if "Tape" in data.environment_spec.id else 2)
    torch.manual_seed(0)
    trainer.fit(learner, datamodule=data, **arguments)
    return learner


# ----------------------------------------------------------------------------------------------------------- schedule
@pytest.mark.parametrize(
    ("ratio", "pretrain", "epoch"), [(0.25, 0, 10), (0.25, 3, 10), (1.0, 0, 40), (2.5, 0, 100), (0.03, 0, 1)]
)
def test_steps_and_updates_keep_their_ratio(tmp_path: Path, ratio: float, pretrain: int, epoch: int) -> None:
    data = make(updates_per_step=ratio, pretrain_updates=pretrain)
    learner = fit(data, tmp_path, epochs=3)
    assert len(learner.steps) == 3 * epoch == data.updates
    for n, steps in enumerate(learner.steps, 1):
        owed = 20 + max(0, n - pretrain) / ratio
        assert owed - 1e-9 <= steps < math.ceil(owed) + 2, n  # never early, and at most one vector step late
    metrics = data.collection_metrics()
    assert metrics["collection/environment_steps"] == learner.steps[-1]
    assert metrics["collection/updates_per_step"] == (3 * epoch - pretrain) / (learner.steps[-1] - 20)
    assert metrics["collection/episodes"] > 0
    assert metrics["collection/return"] == 100.0  # 10 + 20 + 30 + 40
    assert metrics["collection/length"] == 4.0
    assert metrics["collection/steps_per_second"] > 0
    assert metrics["collection/restarts"] == 0


def test_an_epoch_has_at_least_one_update() -> None:
    assert len(make(steps_per_epoch=1, updates_per_step=0.1).train_dataloader()) == 1
    assert "collection/return" not in make().collection_metrics()


def test_the_agent_acts_only_after_the_prefill(tmp_path: Path) -> None:
    class Watching(Learner):
        first = -1

        def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
            if self.first < 0:
                self.first = self.trainer.datamodule.environment_steps  # type: ignore[attr-defined]
            return super().act(observation, state, explore=explore)

    data, learner = make(), Watching()
    trainer = Trainer(max_steps=1, default_root_dir=tmp_path, accelerator="cpu", logger=False, devices=1,
                      enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
    trainer.fit(learner, datamodule=data)
    assert learner.first == 20


# ------------------------------------------------------------------------------------------------------------ contents
def test_an_action_stands_with_the_observation_that_it_led_to(tmp_path: Path) -> None:
    """A table from an action to the next observation predicts the rows exactly, and shifted by one it does not."""
    learner = fit(make(), tmp_path, epochs=2)

    def errors(shift: int) -> tuple[int, int]:
        wrong = total = 0
        for batch in learner.batches:
            action = batch.previous_action.roll(shift, 0)[1:]
            within = ~batch.is_first[1:]
            wrong += int((action != batch.observation["observation"][1:, :, 2])[within].sum())
            total += int(within.sum())
        return wrong, total

    assert errors(0)[0] == 0
    wrong, total = errors(1)
    assert wrong > 0.5 * total
    wrong, total = errors(-1)
    assert wrong > 0.5 * total


def test_rewards_and_ends_stand_with_the_observation_that_they_came_with(tmp_path: Path) -> None:
    for batch in fit(make(), tmp_path).batches:
        time, episode, _ = batch.observation["observation"].unbind(-1)
        assert torch.equal(batch.reward, 10 * time)
        assert torch.equal(batch.is_first, time == 0)
        assert torch.equal(batch.terminated | batch.truncated, time == 4)
        assert not (batch.terminated & batch.truncated).any()
        assert torch.equal(batch.truncated, (time == 4) & (episode % 2 == 1))
        assert batch.reward.shape == (5, 3)


def test_images_are_resized_and_keys_stay(tmp_path: Path) -> None:
    data = make(environment="tape:Many-v0", resize=6)
    assert data.spaces.observation["camera/front"].shape == (6, 6, 1)  # type: ignore[index]
    assert data.environment_spec.to_plain()["wrappers"][0]["init_args"] == {"size": 6}
    data.replay.extend(data.collector.collect(10, data._random))
    windows = data.sample_windows(2, 4, torch.Generator().manual_seed(0))
    assert windows["observation", "camera/front"].shape == (2, 4, 6, 6, 1)
    assert data.replay.folder.name == "rank0"


def test_a_config_names_wrappers_by_class_path() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(OnlineDataModule, "data")
    wrapper = {"class_path": "datamodules.envs.wrappers.RepeatAction", "init_args": {"count": 2}}
    config = parser.parse_object({"data": {**SMALL, "wrappers": [wrapper]}})
    data = parser.instantiate(config).data
    assert data.environment_spec.to_plain()["wrappers"] == [wrapper]
    assert isinstance(data.spaces.action, gym.spaces.Discrete)


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environments": 0}, "environments must be at least 1"),
        ({"updates_per_step": 0.0}, "updates_per_step must be positive"),
        ({"max_restarts": -1}, "max_restarts must be at least 0"),
        ({"capacity": 9}, "capacity: 9 steps are 4 for each of 2 environments.*at least 10"),
        ({"prefill": 9}, "prefill: 9 steps are 4 for each of 2 environments"),
        ({"resize": 0}, "size must be at least 1"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        assert make(**changes).spaces


def test_wrong_environments_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'CartPole-v1'"):
        make(environment="CartPol-v1").setup("fit")
    with pytest.raises(ValueError, match="no image"):
        make(environment="CartPole-v1", resize=64).setup("fit")


# --------------------------------------------------------------------------------------------------------- exact resume
class StopAfter(Callback):
    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.updates


def resumable() -> list[Callback]:
    return [Checkpoint(every_n_updates=4), ExactResume()]


def equal(one: Sequence, other: Sequence) -> bool:
    same_keys = all(torch.equal(value, other.observation[key]) for key, value in one.observation.items())
    return same_keys and all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


CHANGES: list[dict[str, Any]] = [
    {"environment": "CartPole-v1"},
    {"environment": "CartPole-v1", "prioritize_ends": True, "capacity": 40},
    {"environment": "CartPole-v1", "updates_per_step": 1.0, "steps_per_epoch": 10, "vectorization": "async"},
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_a_run_continues_exactly(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = fit(make(**changes), tmp_path / "whole", epochs=3, callbacks=resumable())
    fit(make(**changes), tmp_path / "parts", epochs=1, callbacks=resumable())
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    data = make(**changes)
    rest = fit(data, tmp_path / "parts", epochs=3, callbacks=resumable(), ckpt_path=last)
    assert len(rest.batches) == 20
    for mine, theirs in zip(rest.batches, whole.batches[10:], strict=True):
        assert equal(mine, theirs)
    assert rest.steps == whole.steps[10:]


@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_a_run_that_was_killed_continues_exactly(tmp_path: Path) -> None:
    changes = {"environment": "CartPole-v1"}
    whole = fit(make(**changes), tmp_path / "whole", epochs=2, callbacks=resumable())

    class Killed(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 6:  # two updates after the last checkpoint
                raise KeyError("power failure")

    with pytest.raises(KeyError):
        fit(make(**changes), tmp_path / "parts", epochs=2, callbacks=[*resumable(), Killed()])
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    rest = fit(make(**changes), tmp_path / "parts", epochs=2, callbacks=resumable(), ckpt_path=last)
    assert len(rest.batches) == 16
    assert all(equal(mine, theirs) for mine, theirs in zip(rest.batches, whole.batches[4:], strict=True))


@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_a_resume_that_cannot_be_exact_says_so(tmp_path: Path) -> None:
    for name, arguments, said in (
        ("opaque", {"environment_arguments": {"opaque": True}}, "opaque is a builtins.memoryview"),
        ("gone", {}, "is not that of the checkpoint"),
    ):
        fit(make(**arguments), tmp_path / name, callbacks=resumable())
        if name == "gone":
            for path in (tmp_path / name / "replay" / "rank0").iterdir():
                path.unlink()
        last = tmp_path / name / "checkpoints" / "last.ckpt"
        data = make(**arguments)
        with pytest.warns(UserWarning, match=said):
            rest = fit(data, tmp_path / name, epochs=2, callbacks=resumable(), ckpt_path=last)
        assert len(rest.batches) == 10
        for batch in rest.batches:  # and the data are sound all the same
            time = batch.observation["observation"][..., 0]
            assert torch.equal(batch.is_first, time == 0)
            assert (time.diff(dim=0)[~batch.is_first[1:]] == 1).all()


def test_two_processes_are_as_one_with_twice_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make()
    monkeypatch.setattr(OnlineDataModule, "_rank", (1, 2))
    monkeypatch.setitem(vars(data), "_acting", data._random)
    for _ in range(8):
        data.next_batch()
    # 20 steps of prefill and 4 for each update, of both processes together
    assert 52 <= data.environment_steps < 52 + 4
    assert data.collector.steps * 2 == data.environment_steps
    assert data.collector.seed == 1000
    assert data.replay.folder.name == "rank1"
    with pytest.raises(ValueError, match=r"prefill: 20 steps are 5 for each of 4 environments.*at least 24"):
        make(sequence_length=6).setup("fit")


# ------------------------------------------------------------------------------------------------------------- scales
def test_numbers_are_scaled_by_their_bounds() -> None:
    spaces = make(environment="Pendulum-v1", normalize_observation=True).spaces
    ((centre, scale),) = spaces.statistics_by_key().values()
    assert centre.tolist() == [0.0, 0.0, 0.0]
    assert scale.tolist() == [0.5, 0.5, 4.0]


def test_numbers_without_bounds_are_scaled_by_a_random_policy() -> None:
    spaces = make(environment="CartPole-v1", normalize_observation=True).spaces
    ((centre, scale),) = spaces.statistics_by_key().values()
    assert scale[[0, 2]].tolist() == pytest.approx([2.4, 0.2095], rel=1e-3)  # a quarter of the box, twice the track
    assert all(abs(centre[[1, 3]]) < 0.3)
    assert 0.3 < scale[1] < 0.8  # speeds of carts that fall after 22 steps
    assert 0.5 < scale[3] < 1.2
    again = make(environment="CartPole-v1", normalize_observation=True).spaces
    assert (again.observation_std["observation"] == scale).all()  # type: ignore[index]


def test_images_are_not_normalised() -> None:
    with pytest.raises(ValueError, match="works on float vectors, and there is none"):
        make(environment="reverie/Catch-v0", normalize_observation=True).spaces  # noqa: B018


def test_rewards_are_scaled_in_batches_alone(tmp_path: Path) -> None:
    plain, scaled = (fit(make(reward_scale=scale), tmp_path / str(scale)) for scale in (1.0, 10.0))
    rewards = [torch.stack([batch.reward for batch in learner.batches]) for learner in (plain, scaled)]
    assert rewards[0].abs().sum() > 0
    torch.testing.assert_close(rewards[1], 10.0 * rewards[0])
