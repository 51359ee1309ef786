"""Collecting by the workers of Ray; what needs Ray itself is skipped without it."""

from __future__ import annotations

import functools
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from acting import FIRST, Counting, Prioritizing, Storing, assert_sound
from gymnasium.spaces import Discrete
from pytorch_lightning import Trainer
from tape import Many
from tensordict import TensorDict

from callbacks.checkpointing import Checkpoint, ExactResume
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.online import OnlineDataModule
from datamodules.played.ahead import CHUNK
from datamodules.played.ray_cluster import Streams, WorkerPolicy, check_ray, to_rows
from datamodules.played.ray_start import connect_ray
from datamodules.played.setting import make_environments
from datamodules.replay.prioritized import PrioritizedReplay

SMALL = {
    "environment": "tape:Tape-v0",
    "environments": 4,
    "prefill": 80,
    "sequence_length": 5,
    "batch_size": 8,
    "steps_per_epoch": 400,
    "updates_per_step": 0.125,
    "collection": "ray",
    "refresh_updates": 10,
    "ray_workers": 2,
}
AHEAD = 2 * CHUNK * SMALL["environments"]


def streams(environment: str, count: int = 2) -> Streams:
    make = functools.partial(
        make_environments, EnvironmentSpec(environment), count, vectorization="sync", seed=3, protection=Protection(0)
    )
    return Streams(make, 3)


def policy(random_rows: int) -> WorkerPolicy:
    return WorkerPolicy(functools.partial(Counting), Discrete(7), random_rows)


def roll(env: Streams, acting: WorkerPolicy, steps: int) -> TensorDict:
    """`[1, n, t]` frames, as a collector of one worker hands them over."""
    return env.rollout(steps, acting, break_when_any_done=False).unsqueeze(0)


# ------------------------------------------------------------------------------------------------------- without Ray
def test_frames_become_rows_of_the_replay() -> None:
    env, acting = streams("tape:Tape-v0"), policy(6)
    rows = to_rows(roll(env, acting, 20), beginning=True)
    assert rows.shape == (21, 2)
    step, _, action = rows["observation"].unbind(-1)
    assert torch.equal(step[:, 0], torch.arange(21) % 5)  # 0 1 2 3 4, and again: resets are rows
    assert torch.equal(rows["is_first"], step == 0)
    assert torch.equal(rows["terminated"] | rows["truncated"], step == 4)
    assert torch.equal(rows["reward"], 10 * step)
    assert torch.equal(rows["previous_action"].float(), action)
    # the rows 1 to 6 follow from random actions; the agent's memory began when it acted first, and with each episode
    assert rows["previous_action"][7:16, 0].tolist() == [4, 5, 5, 0, 4, 5, 5, 5, 0]
    later = to_rows(roll(env, acting, 3), beginning=False)
    assert later.shape == (3, 2)


def test_what_the_agent_stores_stands_with_the_row_that_its_action_led_to() -> None:
    """A storing agent counts its actions in the episode; a reset's row has the count of none."""
    env, acting = streams("tape:Tape-v0"), WorkerPolicy(functools.partial(Storing), Discrete(7), 0)
    rows = to_rows(roll(env, acting, 20), beginning=True, at_reset=torch.zeros(1))
    assert rows["stored"].shape == (21, 2, 1)
    assert torch.equal(rows["stored"][..., 0], rows["observation"][..., 0])
    rows = to_rows(roll(env, acting, 20), beginning=True, at_reset=torch.full((1,), 7.0))
    assert (rows["stored"][rows["is_first"]] == 7.0).all()


def test_dictionaries_and_several_actions_pass_through() -> None:
    env = streams("tape:Many-v0")
    acting = WorkerPolicy(functools.partial(Counting), Many.action_space, 100)
    rows = to_rows(roll(env, acting, 6), beginning=True)
    seen = rows["observation"]
    assert seen["camera/front"].dtype == torch.uint8
    assert seen["camera/front"].shape == (7, 2, 4, 4, 1)
    assert seen["clock"][:, 0].argmax(-1).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert torch.equal(seen["reward"][..., 1], rows["previous_action"][..., 0].float())
    assert rows["previous_action"].shape == (7, 2, 2)


@pytest.mark.parametrize("workers", [0, 3])
def test_environments_are_dealt_evenly(workers: int) -> None:
    with pytest.raises(ValueError, match=f"ray_workers: 4 environments cannot be dealt evenly to {workers} workers"):
        check_ray(4, workers)


def test_ray_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Ray, which is not installed: pip install -e '\.\[ray\]'"):
        OnlineDataModule(**SMALL)


class Starting:
    """As much of Ray as starts after some attempts."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.started = self.ended = 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: Any) -> None:
        self.started += 1
        if self.started <= self.failures:
            raise Exception("The current node timed out during startup.")

    def shutdown(self) -> None:
        self.ended += 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


def test_ray_that_a_busy_machine_keeps_from_starting_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = Starting(2)
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert connect_ray(2)
    assert (ray.started, ray.ended) == (3, 2)
    monkeypatch.setitem(sys.modules, "ray", Starting(3))
    with pytest.raises(ValueError, match=r"Ray has not started here: The current node timed out .*`ray start --head`"):
        connect_ray(2)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:6379")
    monkeypatch.setitem(sys.modules, "ray", Starting(1))
    with pytest.raises(ValueError, match=r"Ray has not answered at \$RAY_ADDRESS, nowhere:6379"):
        connect_ray(2)


# ---------------------------------------------------------------------------------------------------------- with Ray
@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    paths = {"PYTHONPATH": str(Path(__file__).parents[2] / "helpers"), "OMP_NUM_THREADS": "1"}
    quiet = {"include_dashboard": False, "logging_level": "error", "log_to_driver": False}
    ray.init(num_cpus=2, runtime_env={"env_vars": paths}, **quiet)
    yield
    ray.shutdown()


def fit(
    folder: Path, *, epochs: int = 1, callbacks: Any = (), ckpt_path: Path | None = None,
    kind: type[Counting] = Counting, **changes: Any,
) -> Any:  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="collection: ")
        data = OnlineDataModule(**SMALL | changes)
    trainer = Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), enable_checkpointing=bool(callbacks), devices=1,
    )  # fmt: skip
    learner = kind()
    trainer.fit(learner, datamodule=data, ckpt_path=ckpt_path)
    return learner, data


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_workers_collect_for_the_learner(tmp_path: Path) -> None:
    callbacks = [Checkpoint(), ExactResume()]
    learner, data = fit(tmp_path, epochs=2, callbacks=callbacks)
    assert len(learner.batches) == 100
    assert_sound(learner.batches)
    for n, steps in enumerate(learner.steps, 1):
        assert 80 + 8 * n <= steps <= 80 + 8 * n + AHEAD, n
    assert data.collection_metrics()["collection/return"] == 100.0
    rows = data.replay.sample_windows(3000, 1, torch.Generator().manual_seed(0)).flatten()
    step, episode = rows["observation"][:, 0], rows["observation"][:, 1]
    action = rows["previous_action"]
    agents = (step > 0) & ((episode - 1) * 4 >= 20 + CHUNK)
    unlearned = agents & (action < FIRST + 2)
    assert torch.equal(action[unlearned] == FIRST, step[unlearned] == 1)
    assert (action[agents & (episode < 15)] < FIRST + 2).all()
    late = agents & ((episode - 1) * 4 >= (80 + 8 * 30 + AHEAD) / 4 + 4)
    assert late.sum() > 100
    assert (action[late] == FIRST + 2).all()  # the weights came over

    rest, _ = fit(tmp_path, epochs=3, callbacks=callbacks, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert len(rest.batches) == 50
    assert learner.steps[-1] <= rest.steps[0] <= learner.steps[-1] + AHEAD


@pytest.mark.usefixtures("cluster")
def test_errors_of_workers_come_to_the_learner(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"environment 'tape:Tape-v0' failed in step.*the simulator fell over"):
        fit(tmp_path, environment_arguments={"fail_at": 3, "fails": 9}, max_restarts=0)
    with pytest.raises(ValueError, match="environment 'tape:Tape-v0': the reward of environment 0 is not finite"):
        fit(tmp_path, environment_arguments={"bad": "reward"})
    with pytest.raises(ValueError, match="ray_workers: 4 are more than the 2 processors that Ray has"):
        fit(tmp_path, ray_workers=4)


@pytest.mark.usefixtures("cluster")
def test_workers_fill_prioritised_sequences_with_what_the_agent_stored(tmp_path: Path) -> None:
    replay = functools.partial(PrioritizedReplay, burn_in=0, overlap=3, every_start=True, stored_rows=True)
    learner, _ = fit(tmp_path, replay=replay, sequence_length=4, pretrain_updates=0, kind=Prioritizing)
    assert len(learner.batches) == 50
    for batch in learner.batches:
        step = batch.sequence.observation["observation"][..., 0]
        assert torch.equal(batch.stored[~batch.padding], step[~batch.padding].unsqueeze(-1))
