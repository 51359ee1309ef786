"""The online datamodule continues a run exactly, or says why it cannot."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tape  # noqa: F401 - registers environments
import torch
from learners import Learner, Prioritizing, Searching, Storing, fit, make
from pytorch_lightning import Callback, Trainer
from torchrl.data import LazyTensorStorage

from callbacks.checkpointing import Checkpoint, ExactResume
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import SequenceReplay
from modules.batch import SequenceBatch


class StopAfter(Callback):
    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.updates


def resumable() -> list[Callback]:
    return [Checkpoint(every_n_updates=4), ExactResume()]


def equal(one: SequenceBatch, other: SequenceBatch) -> bool:
    same_keys = all(torch.equal(value, other.observation[key]) for key, value in one.observation.items())
    return same_keys and all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


CHANGES: list[dict[str, Any]] = [
    {"environment": "CartPole-v1"},
    {"environment": "CartPole-v1", "replay": partial(SequenceReplay, prioritize_ends=True), "capacity": 40},
    {"environment": "CartPole-v1", "updates_per_step": 1.0, "steps_per_epoch": 10, "vectorization": "async"},
]


PRIORITIZED: dict[str, Any] = {
    "environment": "CartPole-v1", "replay": partial(PrioritizedReplay, burn_in=2, overlap=2), "capacity": 40,
}  # fmt: skip


SEARCHED: dict[str, Any] = PRIORITIZED | {
    "replay": partial(PrioritizedReplay, burn_in=2, overlap=2, stored_rows=True, refresh_states=True)
}
IN_MEMORY: dict[str, Any] = {"environment": "CartPole-v1", "replay": partial(SequenceReplay, storage=LazyTensorStorage)}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        *((changes, Learner) for changes in CHANGES),
        (CHANGES[0], Storing),
        (PRIORITIZED, Prioritizing),
        (SEARCHED, Searching),
        (IN_MEMORY, Learner),
    ],
)
@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_a_run_continues_exactly(tmp_path: Path, changes: dict[str, Any], kind: type[Learner]) -> None:
    run = partial(fit, callbacks=resumable(), kind=kind)
    whole = run(make(**changes), tmp_path / "whole", epochs=3)
    run(make(**changes), tmp_path / "parts", epochs=1)
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    rest = run(make(**changes), tmp_path / "parts", epochs=3, ckpt_path=last)
    assert len(rest.batches) == 20
    for mine, theirs in zip(rest.batches, whole.batches[10:], strict=True):
        assert equal(mine, theirs)
    assert all(torch.equal(a, b) for a, b in zip(rest.stored, whole.stored[10:], strict=True))
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
