"""Every argument of the datamodules, changed where a run is continued: the run follows it, or it is refused by name."""

from __future__ import annotations

import copy
import inspect
import re
import shutil
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tape  # noqa: F401 - registers environments
import torch
from learners import Learner, Prioritizing, fit, make
from tensordict import TensorDictBase
from tiny_dataset import Arrays, write_hdf5
from torchrl.data import SamplerWithoutReplacement

from callbacks.checkpointing import Checkpoint, ExactResume
from datamodules.envs.wrappers import RepeatAction
from datamodules.offline import OfflineDataModule
from datamodules.online import OnlineDataModule
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import SequenceReplay
from datamodules.synthetic import CompositionalTask, MixtureTask
from modules.arguments.changed import refuse_changed_run

NO_AGENT = SimpleNamespace()


def saved(data: Any) -> dict[str, Any]:
    return {"datamodule_hyper_parameters": copy.deepcopy(dict(data.hparams))}


# ----------------------------------------------------------------------------------------------------------- recorded
OFFLINE: dict[str, Any] = {
    "batch_size": 16, "minibatches": 2, "validation_fraction": 0.4, "reward_scale": 2.0, "reward_shift": 1.0,
    "shuffle_rewards": True, "truncation": "drop", "initial_observations": True,
}  # fmt: skip
OFFLINE_REFUSED = {
    "seed": 1, "normalize_observation": True, "storage_device": "meta", "sampler": SamplerWithoutReplacement,
    "return_weighting": 0.1,
    "observation_keys": ["goal"],
}  # fmt: skip
OFFLINE_ELSEWHERE = {
    "source", "format", "download", "cache_dir",  # where the rows come from; their spaces are compared
    "environment", "environment_arguments", "wrappers",  # what evaluation plays
    "observation_space", "action_space", "resize", "reference_min", "reference_max",  # what is said of the rows
    "updates_per_epoch", "validation_batches",  # lengths of loaders, read anew
    "storage", "prefetch",  # speed alone
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:action_space was inferred")
def test_recorded_data_follow_a_changed_argument_or_refuse_it(tmp_path: Path, arrays: Arrays) -> None:
    path = str(write_hdf5(tmp_path / "tiny.h5", arrays))

    def make_module(**changes: Any) -> OfflineDataModule:
        settings = {"batch_size": 8, "validation_fraction": 0.0, "cache_dir": str(tmp_path / "cache"), **changes}
        return OfflineDataModule(path, **settings)

    def resumed(**changes: Any) -> TensorDictBase:
        data = make_module(**changes)
        refuse_changed_run(kept, NO_AGENT, data)
        data.load_rank_state(state)
        return next(iter(data.train_dataloader()))

    first = make_module()
    kept = saved(first)
    batches = iter(first.train_dataloader())
    next(batches)
    state = copy.deepcopy(first.rank_state())
    whole = next(batches)
    assert_same(resumed(), whole)
    for name, value in OFFLINE.items():
        other = resumed(**{name: value})
        with pytest.raises(AssertionError):
            assert_same(other, whole)
    for name, value in OFFLINE_REFUSED.items():
        if name != "storage_device":  # this machine may have no other
            now = re.escape(str(value).lower()) if name != "sampler" else "{'class_path': 'torchrl.*"
            with pytest.raises(ValueError, match=rf"data\.{name} was \w+ in the checkpoint and is {now} now"):
                resumed(**{name: value})
    assert set(inspect.signature(OfflineDataModule).parameters) == {*OFFLINE, *OFFLINE_REFUSED, *OFFLINE_ELSEWHERE}
    assert set(OfflineDataModule.fixed_on_resume) == set(OFFLINE_REFUSED)


def assert_same(one: TensorDictBase, other: TensorDictBase) -> None:
    ones, others = (dict(x.items(True, True)) for x in (one, other))
    assert ones.keys() == others.keys()
    assert all(torch.equal(ones[key], others[key]) for key in ones)


# ------------------------------------------------------------------------------------------------------------- played
ONLINE: dict[str, Any] = {
    "updates_per_step": 0.5, "collect_at_once": 50, "reward_scale": 2.0, "prefill": 90, "pretrain_updates": 3,
    "batch_size": 2, "sequence_length": 4, "replay": partial(SequenceReplay, prioritize_ends=True),
    "environment_arguments": {"length": 2}, "wrappers": [partial(RepeatAction, count=2)],
}  # fmt: skip
ONLINE_REFUSED: dict[str, Any] = {
    "seed": 1, "normalize_observation": True, "environments": 1, "capacity": 300, "steps_per_epoch": 80,
}  # fmt: skip
ONLINE_ELSEWHERE = {
    "environment", "resize", "observation_keys",  # as environment_arguments and wrappers
    "vectorization", "max_restarts", "step_timeout", "episode_infos", "collection", "refresh_updates", "ray_workers",
    "folder",  # who plays, and where
    "start_from",  # refused, too; see the tests of first rows
}  # fmt: skip
PRIORITIZED = {"burn_in": 1, "overlap": 1, "alpha": 0.5, "refresh_states": True}


def go_on(folder: Path, name: str, kind: type[Learner] = Learner, **changes: Any) -> list[Any]:
    """Batches of a second epoch, in a copy of the run."""
    shutil.copytree(folder / "run", folder / name)
    last = folder / name / "checkpoints" / "last.ckpt"
    data = make(**{"folder": str(folder / name / "replay"), **changes})
    learner = fit(data, folder / name, epochs=2, callbacks=[Checkpoint(), ExactResume()], kind=kind, ckpt_path=last)
    return [[*batch.observation.values(), *batch[1:]] for batch in learner.batches]


def equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b)
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_played_data_follow_a_changed_argument_or_refuse_it(tmp_path: Path) -> None:
    callbacks = [Checkpoint(), ExactResume()]
    fit(make(folder=str(tmp_path / "run" / "replay")), tmp_path / "run", callbacks=callbacks)
    whole = go_on(tmp_path, "same")
    assert equal(go_on(tmp_path, "again"), whole)
    for name, value in ONLINE.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert not equal(go_on(tmp_path, name, **{name: value}), whole), name
        anew = any("its episodes start anew" in str(warning.message) for warning in said)
        assert anew == (name in ("environment_arguments", "wrappers")), name
    for name, value in ONLINE_REFUSED.items():
        with pytest.raises(
            ValueError, match=rf"data\.{name} was \w+ in the checkpoint and is {str(value).lower()} now"
        ):
            go_on(tmp_path, name, **{name: value})
    assert set(inspect.signature(OnlineDataModule).parameters) == {*ONLINE, *ONLINE_REFUSED, *ONLINE_ELSEWHERE}
    assert set(OnlineDataModule.fixed_on_resume) == {*ONLINE_REFUSED, "start_from"}


@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_the_form_of_prioritised_sequences_is_fixed(tmp_path: Path) -> None:
    base: dict[str, Any] = {"burn_in": 2, "overlap": 2}
    changes: dict[str, Any] = {"replay": partial(PrioritizedReplay, **base), "capacity": 40}
    arguments = {**changes, "folder": str(tmp_path / "run" / "replay")}
    fit(make(**arguments), tmp_path / "run", callbacks=[Checkpoint(), ExactResume()], kind=Prioritizing)
    whole = go_on(tmp_path, "same", Prioritizing, **changes)
    beta = {**changes, "replay": partial(PrioritizedReplay, **base, beta=0.1)}
    assert len(go_on(tmp_path, "beta", Prioritizing, **beta)) == len(whole)
    for name, value in PRIORITIZED.items():
        other = {**changes, "replay": partial(PrioritizedReplay, **{**base, name: value})}
        with pytest.raises(ValueError, match=rf"data\.replay\.{name} was "):
            go_on(tmp_path, name, Prioritizing, **other)
    with pytest.raises(ValueError, match="its sequence_length is 5"):
        go_on(tmp_path, "length", Prioritizing, **{**changes, "sequence_length": 4})


# ------------------------------------------------------------------------------------------------------------- drawn
@pytest.mark.parametrize("task", [MixtureTask, CompositionalTask])
def test_the_seed_of_a_problem_is_fixed(task: Any) -> None:
    sizes = {"batch_size": 4, "validation_size": 4}
    kept = saved(task(**sizes))
    refuse_changed_run(kept, NO_AGENT, task(**{**sizes, "batch_size": 8}))
    with pytest.raises(ValueError, match=r"data\.seed was 0 .* is 1 now"):
        refuse_changed_run(kept, NO_AGENT, task(**sizes, seed=1))
