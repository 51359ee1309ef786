"""An online run that begins with recorded rows: what it learns from, when it plays, how it goes on, what is refused."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import goals
import numpy as np
import pytest
import torch
from learners import Learner, Prioritizing, attach, fit, make
from pytorch_lightning import Callback
from recorded_toys import record_toy

from callbacks.checkpointing import Checkpoint, ExactResume
from datamodules.envs.joined import JoinKeys
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.wrappers import resize_image
from datamodules.online import OnlineDataModule
from datamodules.recorded.conversion import convert
from datamodules.recorded.first_rows import FirstRows
from datamodules.replay.buffered import BufferedReplay
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import LatestWindows
from modules.arguments.changed import refuse_changes

CARTPOLE = "CartPole-v1"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> str:
    return record_toy(tmp_path_factory.mktemp("data"), CARTPOLE)


def starting(recorded: str | list[str], **changes: Any) -> OnlineDataModule:
    return make(**{"environment": CARTPOLE, "start_from": recorded, "capacity": 1000} | changes)


def resumable() -> list[Callback]:
    return [Checkpoint(every_n_updates=4), ExactResume()]


def seen(replay: BufferedReplay) -> set[tuple[float, ...]]:
    """All observations in a replay."""
    return {tuple(row) for row in replay.files.values["observation"][: len(replay) * replay.settings.streams].tolist()}


def test_recorded_steps_count_as_prefill_and_nowhere_else(tmp_path: Path, recorded: str) -> None:
    data = starting(recorded)
    learner = fit(data, tmp_path)
    assert data.info is not None
    assert data.pace.prefill == 0
    assert learner.steps[0] == 4  # one for each environment is a reset, and the first update waits for four
    assert data.environment_steps == learner.steps[-1] == 40
    metrics = data.collection_metrics()
    assert metrics["collection/updates_per_step"] == 0.25
    assert metrics["collection/episodes"] < 5
    assert isinstance(data.replay, BufferedReplay)
    assert len(data.replay) * 2 > data.info.transitions + 40
    # Rows are those of the data: rewards of 1, and every first row is a reset.
    steps = FirstRows(recorded, EnvironmentSpec(CARTPOLE)).dataset.steps
    recorded_rows = {tuple(row) for row in steps["row"][:, :4].tolist()}
    assert len(recorded_rows & seen(data.replay)) > 0.98 * len(recorded_rows)
    for batch in learner.batches:
        assert torch.equal(batch.reward, (~batch.is_first).float())
    fewer = starting(recorded, prefill=1000)
    attach(fewer, Learner(2), tmp_path / "other")
    assert fewer.pace.prefill == 1000 - data.info.transitions
    fewer.next_batch()
    assert fewer.environment_steps == pytest.approx(1004 - data.info.transitions, abs=2)


@pytest.mark.filterwarnings("ignore:no best.ckpt")
@pytest.mark.parametrize("prioritized", [False, True])
def test_a_run_continues_exactly_with_the_rows_as_its_own(tmp_path: Path, recorded: str, prioritized: bool) -> None:
    changes: dict[str, Any] = {}
    if prioritized:
        changes = {"replay": partial(PrioritizedReplay, burn_in=2, overlap=2)}
    run = partial(fit, callbacks=resumable(), kind=Prioritizing if prioritized else Learner)
    whole = run(starting(recorded, **changes), tmp_path / "whole", epochs=3)
    first = starting(recorded, **changes)
    run(first, tmp_path / "parts", epochs=1)
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    rest = run(starting(recorded, **changes), tmp_path / "parts", epochs=3, ckpt_path=last)
    assert len(rest.batches) == 20
    for mine, theirs in zip(rest.batches, whole.batches[10:], strict=True):
        assert torch.equal(mine.observation["observation"], theirs.observation["observation"])
        assert torch.equal(mine.previous_action, theirs.previous_action)
    assert rest.steps == whole.steps[10:]


def test_a_continued_run_keeps_what_it_began_with(recorded: str) -> None:
    before = dict(starting(recorded).hparams)
    refuse_changes(OnlineDataModule, before, dict(starting(recorded).hparams), "data")
    with pytest.raises(ValueError, match=r"data\.start_from was .* and is null now"):
        refuse_changes(OnlineDataModule, before, before | {"start_from": None}, "data")


def test_prioritised_sequences_start_with_the_greatest_priority(tmp_path: Path, recorded: str) -> None:
    data = starting(recorded, replay=partial(PrioritizedReplay, burn_in=2, overlap=2))
    attach(data, Prioritizing(2), tmp_path)
    batch = data.next_batch()
    assert torch.equal(batch["weight"], torch.ones(3))
    assert not batch["start_state"].any()  # the agent's before its first action


def test_two_processes_share_the_episodes(tmp_path: Path, recorded: str) -> None:
    found = []
    for rank in range(2):
        data = attach(starting(recorded, folder=str(tmp_path / str(rank))), Learner(2), tmp_path)
        replay = data.replay
        assert isinstance(replay, BufferedReplay)
        first = FirstRows([recorded], EnvironmentSpec(CARTPOLE))
        first.fill(replay, Learner(2), rank, 2)
        found.append(seen(replay))
    assert not found[0] & found[1]
    assert len(found[0] | found[1]) > 0.95 * (first.info.transitions + first.info.episodes)


def test_data_that_do_not_fit_are_refused(tmp_path: Path, recorded: str) -> None:
    assert starting(recorded).spaces
    with pytest.raises(ValueError, match=r"capacity: 100 rows are less than the 2\d+ of .*raise data\.capacity to 2"):
        assert starting(recorded, capacity=100).spaces
    with pytest.raises(ValueError, match="was recorded in CartPole-v1, but Acrobot-v1 is asked for"):
        assert starting(recorded, environment="Acrobot-v1").spaces
    arrays = {name: np.zeros((10, 3), np.float32) for name in ("observations", "next_observations")}
    flags = {name: np.arange(10) == 9 for name in ("terminals",)} | {"timeouts": np.zeros(10, bool)}
    np.savez(tmp_path / "other.npz", **arrays, **flags, actions=np.zeros(10, np.int64), rewards=np.zeros(10))
    with pytest.raises(ValueError, match="observation"):
        assert starting(str(tmp_path / "other.npz")).spaces
    with pytest.raises(ValueError, match="which no recorded row is"):
        attach(starting(recorded, replay=LatestWindows, batch_size=2), Learner(2), tmp_path / "latest").next_batch()
    with pytest.warns(UserWarning, match="was recorded in CartPole-v1, and the run plays CartPole-v1 .sutton"):
        assert starting(recorded, environment_arguments={"sutton_barto_reward": True}).spaces


@pytest.mark.filterwarnings("ignore")
def test_parts_of_observations_are_joined_as_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    episodes = goals.record()
    keys, parts = ["observation", "desired_goal"], ["observation", "desired_goal/far", "desired_goal/side"]

    def begin(source: str, *wrappers: Any) -> FirstRows:
        data = starting(source, environment="goals/Goal-v0", wrappers=list(wrappers), capacity=200)
        assert data.spaces  # refuses what does not fit
        return FirstRows(source, data.environment_spec)

    rows = begin("goal/steered-v0", partial(JoinKeys, keys=keys)).dataset
    expected = np.stack([goals.by_hand(row, parts) for episode in episodes for row in episode[:-1]])
    np.testing.assert_array_equal(rows.steps["row"][:, : expected.shape[1]].numpy(), expected)
    # What the message says can be typed in; without it, or in another order, the numbers would mean other things.
    said = r"--data.wrappers end with {class_path: datamodules.envs.joined.JoinKeys, init_args: {keys: \[(.*)\]}}"
    with pytest.raises(ValueError, match=said) as refused:
        begin("goal/steered-v0")
    told = re.search(said, str(refused.value))
    assert told is not None
    followed = begin("goal/steered-v0", partial(JoinKeys, keys=told[1].split(", ")))
    assert followed.dataset.spaces.observation.shape == (19,)
    assert begin("goal/steered-v0", JoinKeys).dataset.spaces.observation.shape == (19,)
    with pytest.raises(ValueError, match=said) as refused:
        begin(str(rows.folder), partial(JoinKeys, keys=keys[::-1]))
    assert str(refused.value).endswith("{keys: [observation, desired_goal/far, desired_goal/side]}}")
    assert begin(str(rows.folder), partial(JoinKeys, keys=parts)).dataset.folder == rows.folder


def test_images_are_resized_as_those_of_the_run(tmp_path: Path) -> None:
    source = record_toy(tmp_path, "reverie/Catch-v0")
    small = starting(source, environment="reverie/Catch-v0", resize=5)
    assert small.spaces.observation.shape == (5, 5, 1)
    first = FirstRows(source, small.environment_spec)
    found, whole = (data.steps["observation"].numpy() for data in (first.dataset, convert([source])))
    np.testing.assert_array_equal(found, [resize_image(image, 5) for image in whole])
