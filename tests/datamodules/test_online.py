"""The online datamodule: how many steps are taken when, and what a batch holds."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tape  # noqa: F401 - registers environments
import torch
from jsonargparse import ArgumentError, ArgumentParser
from learners import SMALL, Learner, Prioritizing, Searching, Storing, attach, fit, make
from torch import Tensor
from torchrl.data import LazyTensorStorage, SliceSampler

from datamodules.online import OnlineDataModule
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import LatestWindows, SequenceReplay
from datamodules.replay.single_steps import TransitionReplay
from modules.contracts import Feedback


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


def test_an_epoch_has_at_least_one_update(tmp_path: Path) -> None:
    assert len(make(steps_per_epoch=1, updates_per_step=0.1).train_dataloader()) == 1
    assert "collection/return" not in attach(make(), Learner(), tmp_path).collection_metrics()


def test_the_agent_acts_only_after_the_prefill(tmp_path: Path) -> None:
    class Watching(Learner):
        first = -1

        def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
            if self.first < 0:
                self.first = self.trainer.datamodule.environment_steps  # type: ignore[attr-defined]
            return super().act(observation, state, explore=explore)

    assert fit(make(), tmp_path / "random", kind=Watching).first == 20

    class Both(Storing, Watching):
        pass

    with_record = fit(make(), tmp_path / "own", kind=Both)
    assert with_record.first == 0
    assert with_record.steps[0] == 24  # and it waits for the prefill all the same


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
    batches = fit(make(), tmp_path).batches
    assert len(batches) == 10
    for batch in batches:
        time, episode, _ = batch.observation["observation"].unbind(-1)
        assert torch.equal(batch.reward, 10 * time)
        assert torch.equal(batch.is_first, time == 0)
        assert torch.equal(batch.terminated | batch.truncated, time == 4)
        assert not (batch.terminated & batch.truncated).any()
        assert torch.equal(batch.truncated, (time == 4) & (episode % 2 == 1))
        assert batch.reward.shape == (5, 3)


def test_images_are_resized_and_keys_stay(tmp_path: Path) -> None:
    data = attach(make(environment="tape:Many-v0", resize=6), Learner(), tmp_path)
    assert data.spaces.observation["camera/front"].shape == (6, 6, 1)  # type: ignore[index]
    assert data.environment_spec.to_plain()["wrappers"][0]["init_args"] == {"size": 6}
    data.next_batch()
    windows = data.sample_windows(2, 4, torch.Generator().manual_seed(0))
    assert windows["observation", "camera/front"].shape == (2, 4, 6, 6, 1)
    assert data.replay.folder.name == "rank0"


def test_a_stored_state_stands_with_the_observation_that_its_action_led_to(tmp_path: Path) -> None:
    learner = fit(make(), tmp_path, kind=Storing)
    assert len(learner.stored) == len(learner.batches) == 10
    for batch, stored in zip(learner.batches, learner.stored, strict=True):
        time = batch.observation["observation"][..., 0]
        count, rewards = stored.transpose(0, 1).unbind(-1)
        assert torch.equal(count, time)
        assert torch.equal(rewards, 5 * time * (time - 1) * (time > 0))  # 10 + 20 + ... of the steps before


def test_prioritised_sequences_come_with_the_state_of_their_first_row(tmp_path: Path) -> None:
    # Rows of an episode: times 0 to 4; three transitions from row 0 or 2, after one row to warm up.
    replay = partial(PrioritizedReplay, burn_in=1, overlap=1)
    data = make(replay=replay, sequence_length=3, prefill=40, updates_per_step=1.0)
    learner = fit(data, tmp_path, kind=Prioritizing)
    seen = {}
    for batch, stored in zip(learner.batches, learner.stored, strict=True):
        for rows, kept in zip(batch.observation["observation"][..., 0].T.tolist(), stored.tolist(), strict=True):
            seen[tuple(rows)] = kept
    assert seen == {(0, 0, 1, 2, 3): [0, 0], (1, 2, 3, 4, 0): [1, 0]}


def test_a_learner_refreshes_what_rows_hold_and_priorities_at_once(tmp_path: Path) -> None:
    replay = partial(PrioritizedReplay, burn_in=1, overlap=1, stored_rows=True, refresh_states=True)
    learner = fit(make(replay=replay, sequence_length=3, prefill=40, updates_per_step=1.0), tmp_path, kind=Searching)
    given: dict[int, int] = {}  # by sequence: how often it was learned from
    states = set()
    for found in learner.found:
        time = found.sequence.observation["observation"][..., 0]  # the number of actions, which the learner stores
        times = torch.tensor([given.get(number, 0) for number in found.index.tolist()])
        expected = torch.where(found.padding, 0.0, time + 100 * times)
        assert torch.equal(found.stored[..., 0], expected)
        given |= {number: given.get(number, 0) + 1 for number in found.index.tolist()}
        states |= set(found.start_state[:, 0].tolist())
    assert max(given.values()) > 2
    assert states == {0.0, 1.0, -1.0}  # of the first sequence in an episode, and of the second before and after


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
def test_the_newest_windows_hold_every_step_once(steps: int, tmp_path: Path) -> None:
    data = make(  # one update for each 8 steps of both environments
        environment_arguments={"length": steps}, replay=LatestWindows, batch_size=2, sequence_length=5, prefill=10,
        pretrain_updates=1, updates_per_step=1 / 8, capacity=80,
    )  # fmt: skip
    learner = fit(data, tmp_path, epochs=3)
    assert len(learner.batches) == 15
    for stream in range(2):
        learned = []
        for batch in learner.batches:
            time, episode, _ = batch.observation["observation"][:, stream].unbind(-1)
            rows = zip(episode.tolist(), time.tolist(), batch.is_first[:, stream].tolist(), strict=True)
            learned += [(number, step) for number, step, first in [*rows][1:] if not first]
        first = learned[0][0]
        assert learned == [(first + number // steps, number % steps + 1) for number in range(len(learned))]
        assert len(learned) == learner.steps[-1] // 2  # all that were taken until the last update


def test_a_config_names_the_replay_by_class_path(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(OnlineDataModule, "data")
    for given, made in (
        ({"class_path": "datamodules.replay.sequences.LatestWindows"}, LatestWindows),
        ({"class_path": "SequenceReplay", "init_args": {"prioritize_ends": True}}, SequenceReplay),
        (
            {"class_path": "datamodules.replay.prioritized.PrioritizedReplay", "init_args": {"overlap": 0}},
            PrioritizedReplay,
        ),
        (None, SequenceReplay),
    ):
        config = parser.parse_object({"data": {**SMALL, "batch_size": 2, **({"replay": given} if given else {})}})
        again = parser.parse_string(parser.dump(config))
        data = attach(parser.instantiate(again).data, Learner(), tmp_path)
        assert type(data.replay) is made
        assert (data.replay.settings.length, data.replay.settings.batch_size) == (5, 2)
        for name, value in (given or {}).get("init_args", {}).items():
            assert getattr(data.replay, name) == value
    with pytest.raises(ArgumentError, match="Tape"):
        parser.parse_object({"data": {**SMALL, "replay": {"class_path": "tape.Tape"}}})


def test_a_config_names_the_storage_and_the_sampler_by_class_path(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(OnlineDataModule, "data")
    storage = {"class_path": "torchrl.data.LazyTensorStorage", "init_args": {"device": "cpu"}}
    sampler = {"class_path": "datamodules.replay.torchrl_parts.EpisodeSampler", "init_args": {"slice_len": 5}}
    given = {"class_path": "SequenceReplay", "init_args": {"storage": storage, "sampler": sampler}}
    config = parser.parse_object({"data": {**SMALL, "replay": given}})
    written = parser.dump(config)
    assert "Unable to serialize" not in written
    data = parser.instantiate(parser.parse_string(written)).data
    learner = fit(data, tmp_path)
    assert type(data.replay.buffer.storage) is LazyTensorStorage
    assert isinstance(data.replay.buffer.sampler, SliceSampler)
    assert len(learner.batches) == 10
    for batch in learner.batches:  # episodes of five rows
        assert torch.equal(batch.observation["observation"][..., 0], torch.arange(5.0).unsqueeze(1).expand(5, 3))
    named = data.hparams["replay"]["init_args"]
    assert named["storage"]["class_path"].endswith(".LazyTensorStorage")
    assert named["sampler"] == sampler


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
        ({"updates_per_step": 0.0}, "updates_per_step must lie in"),
        ({"max_restarts": -1}, "max_restarts must be at least 0"),
        ({"capacity": 9}, "capacity: 9 steps are 4 for each of 2 environments.*at least 10"),
        ({"prefill": 9}, "prefill: 9 steps are 4 for each of 2 environments"),
        ({"resize": 0}, r"size must lie in \[1, 4096\]"),
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


def test_what_does_not_fit_the_agent_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reward_scale: 2\.0: the stored states of Storing .*; leave reward_scale"):
        attach(make(reward_scale=2.0), Storing(), tmp_path).setup("fit")
    with pytest.raises(ValueError, match="batch_size: 3: LatestWindows has one window of each environment"):
        attach(make(replay=LatestWindows), Learner(), tmp_path).setup("fit")
    with pytest.raises(ValueError, match=r"sequence_length: 1: .*; set sequence_length to 2 or more"):
        attach(make(replay=LatestWindows, batch_size=2, sequence_length=1), Learner(), tmp_path / "a").setup("fit")
    with pytest.raises(ValueError, match="SequenceReplay has no priorities to write back to"):
        attach(make(), Learner(), tmp_path).write_back(Feedback(torch.zeros(3, dtype=torch.int64), torch.ones(3)))


@pytest.mark.parametrize(
    ("replay", "length", "capacity", "different"),
    [
        (TransitionReplay, 2, 12, 10),  # of two environments, six rows each
        (SequenceReplay, 5, 16, 8),
        (partial(PrioritizedReplay, burn_in=0, overlap=2), 4, 16, 8),  # one for every two rows
    ],
)
def test_a_replay_that_holds_less_than_a_batch_is_refused(
    replay: Any, length: int, capacity: int, different: int, tmp_path: Path
) -> None:
    sizes = {"replay": replay, "sequence_length": length, "capacity": capacity}
    attach(make(**sizes, batch_size=different), Learner(), tmp_path / "enough").setup("fit")
    few = attach(make(**sizes, batch_size=different + 1), Learner(), tmp_path / "few")
    said = rf"hold {different} different .* fewer than the {different + 1} of .*lower data\.batch_size to {different}$"
    with pytest.raises(ValueError, match=f"^capacity: .* {said}"):
        few.setup("fit")


def test_two_processes_are_as_one_with_twice_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = attach(make(), Learner(), tmp_path)
    monkeypatch.setattr(OnlineDataModule, "_rank", (1, 2))
    for _ in range(8):
        data.next_batch()
    # 20 steps of prefill and 4 for each update, of both processes together
    assert 52 <= data.environment_steps < 52 + 4
    assert data._collecting.steps * 2 == data.environment_steps
    assert data._collecting.seed == 1000
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


def test_whole_numbers_are_scaled_by_their_bounds_but_not_zeros_and_ones() -> None:
    glyphs = gym.spaces.Box(0, 400, (2, 3), np.int16)
    ram, cell = gym.spaces.Box(0, 255, (2,), np.uint8), gym.spaces.Discrete(3)
    space = gym.spaces.Dict({"glyphs": glyphs, "ram": ram, "cell": cell})
    arguments = {"observation": space, "action": gym.spaces.Discrete(2)}
    spaces = make(environment="shown:Shown-v0", environment_arguments=arguments, normalize_observation=True).spaces
    found = {key: (centre.tolist(), scale.tolist()) for key, (centre, scale) in spaces.statistics_by_key().items()}
    assert found == {"glyphs": ([200.0] * 6, [100.0] * 6), "ram": ([0.0] * 2, [255.0] * 2)}


def test_images_are_not_normalised() -> None:
    assert make(environment="reverie/Catch-v0", normalize_observation=True).spaces.statistics_by_key() == {}


def test_rewards_are_scaled_in_batches_alone(tmp_path: Path) -> None:
    plain, scaled = (fit(make(reward_scale=scale), tmp_path / str(scale)) for scale in (1.0, 10.0))
    rewards = [torch.stack([batch.reward for batch in learner.batches]) for learner in (plain, scaled)]
    assert rewards[0].abs().sum() > 0
    torch.testing.assert_close(rewards[1], 10.0 * rewards[0])
