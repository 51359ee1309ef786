"""Collecting in another process while the agent learns."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from acting import FIRST, Counting, Prioritizing, Storing, assert_sound
from forked import PATIENCE, fork
from pytorch_lightning import Callback, LightningModule, Trainer
from torchrl.data import LazyTensorStorage

import datamodules.played.background
import reverie
from callbacks.checkpointing import Checkpoint, ExactResume
from datamodules.online import OnlineDataModule
from datamodules.played.ahead import CHUNK
from datamodules.played.background import portable
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import SequenceReplay
from datamodules.replay.torchrl_parts import EpisodeSampler
from modules.agent.agent import Agent
from modules.batch import PrioritizedSequences

SMALL = {
    "environment": "tape:Tape-v0",
    "environments": 2,
    "prefill": 40,
    "sequence_length": 5,
    "batch_size": 8,
    "steps_per_epoch": 200,
    "updates_per_step": 0.25,
    "collection": "background",
    "refresh_updates": 10,
}
AHEAD = 2 * CHUNK * SMALL["environments"]  # a chunk that has come and one that is under way


def make(**changes: Any) -> OnlineDataModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="collection: ")
        return OnlineDataModule(**SMALL | changes)


def fit(
    data: OnlineDataModule, folder: Path, *, epochs: int = 1, callbacks: Any = (), kind: type[Counting] = Counting,
    **arguments: Any,
) -> Counting:  # fmt: skip
    trainer = Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), enable_checkpointing=bool(callbacks), devices=1,
    )  # fmt: skip
    learner = kind()
    trainer.fit(learner, datamodule=data, **arguments)
    return learner


def collecting() -> list[Any]:
    return [process for process in multiprocessing.active_children() if process.name == "collection"]


@pytest.mark.long
def test_rows_are_sound_and_keep_the_declared_ratio(tmp_path: Path) -> None:
    data = make()
    learner = fit(data, tmp_path, epochs=3)
    assert len(learner.batches) == 150
    assert_sound(learner.batches)
    for n, steps in enumerate(learner.steps, 1):
        assert 40 + 4 * n <= steps <= 40 + 4 * n + AHEAD, n
    metrics = data.collection_metrics()
    assert metrics["collection/environment_steps"] == learner.steps[-1]
    assert metrics["collection/return"] == 100.0
    assert metrics["collection/length"] == 4.0
    assert metrics["collection/episodes"] >= (learner.steps[-1] - 2 * 4) // 4
    assert metrics["collection/steps_per_second"] > 0
    assert not collecting()


def test_the_acting_copy_has_its_memory_and_gets_the_weights(tmp_path: Path) -> None:
    data = make()
    fit(data, tmp_path, epochs=3)
    rows = data.replay.sample_windows(2000, 1, torch.Generator().manual_seed(0)).flatten()
    step, episode = rows["observation"][:, 0], rows["observation"][:, 1]
    action = rows["previous_action"]
    # 20 steps of each copy are of the random policy: the episodes 1 to 5; 0 is that of a reset without steps
    agents = (episode >= 6) & (step > 0)
    unlearned = agents & (action < FIRST + 2)
    assert torch.equal(action[unlearned] == FIRST, step[unlearned] == 1)  # the memory began anew with the episode
    # After 20 updates there were 120 steps, 60 of each copy. Weights go over 10 updates later, one chunk is under way.
    assert (action[agents & (episode < 16)] < FIRST + 2).all()
    late = agents & ((episode - 1) * 4 >= (40 + 4 * 30 + AHEAD) / 2 + 4)
    assert late.sum() > 100
    assert (action[late] == FIRST + 2).all()


def test_an_agent_with_a_record_plays_from_the_beginning(tmp_path: Path) -> None:
    data = make()
    learner = fit(data, tmp_path, kind=Storing)
    assert learner.steps[0] >= 44
    rows = data.replay.sample_windows(2000, 1, torch.Generator().manual_seed(0)).flatten()
    step = rows["observation"][:, 0]
    assert rows["observation"][:, 1].min() == 1  # the first episodes are there
    assert (rows["previous_action"][step > 0] >= FIRST).all()
    assert torch.equal(rows["stored"], step.unsqueeze(-1))


def test_prioritised_sequences_come_with_what_the_agent_stored(tmp_path: Path) -> None:
    replay = partial(PrioritizedReplay, burn_in=0, overlap=3, every_start=True, stored_rows=True)
    learner = fit(make(replay=replay, sequence_length=4, pretrain_updates=0), tmp_path, kind=Prioritizing)
    assert len(learner.batches) == 50
    for batch in cast(list[PrioritizedSequences], learner.batches):
        step = batch.sequence.observation["observation"][..., 0]
        inside = ~batch.padding
        assert batch.stored is not None
        assert torch.equal(batch.stored[inside], step[inside].unsqueeze(-1))
        assert (step.diff(dim=0)[inside[1:] & inside[:-1]] == 1).all()
        assert torch.equal(batch.start_state.squeeze(-1), step[0])


def test_the_replays_own_storage_and_sampler_may_be_others(tmp_path: Path) -> None:
    data = make(replay=partial(SequenceReplay, storage=LazyTensorStorage, sampler=partial(EpisodeSampler, slice_len=5)))
    learner = fit(data, tmp_path)
    assert len(learner.batches) == 50
    assert_sound(learner.batches)


@pytest.mark.long
def test_environments_may_have_processes_of_their_own(tmp_path: Path) -> None:
    learner = fit(make(vectorization="async"), tmp_path)
    assert len(learner.batches) == 50
    assert_sound(learner.batches)
    assert not collecting()


def test_a_signal_to_all_processes_is_left_to_the_learner(tmp_path: Path) -> None:
    class Signalling(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            for sent in (signal.SIGINT, signal.SIGTERM):
                os.kill(collecting()[0].pid, sent)

    assert len(fit(make(), tmp_path, callbacks=[Signalling()]).batches) == 50


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"bad": "reward"}, ValueError, "^environment 'tape:Tape-v0': the reward of environment 0 is not finite"),
        ({"fail_at": 3, "fails": 9}, ValueError, "failed in step for the 4th time: ZeroDivisionError: the simulator"),
        ({"bad": "exit"}, ValueError, "'tape:Tape-v0' ended with exit code 1"),
    ],
)
def test_errors_of_the_process_come_to_the_learner(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        fit(make(environment_arguments=arguments), tmp_path)
    notes = "".join(getattr(raised.value, "__notes__", []))
    assert ("In the collecting process:" in notes) == (arguments.get("bad") != "exit")
    assert not collecting()


def test_success_of_episodes_comes_to_the_learner(tmp_path: Path) -> None:
    data = make(environment="rogue:Rogue-v0", episode_infos=["coins"])
    fit(data, tmp_path)
    metrics = data.collection_metrics()
    assert metrics["collection/coins"] == 5.0
    assert metrics["collection/success_rate"] == 0.0  # only the first episodes know their seed, and are long gone


def test_a_process_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodules.played.background, "RESTART_SECONDS", 0.5)
    monkeypatch.setattr(datamodules.played.background, "PATIENCE", 0.5)
    hanging = {"fault": "hang in C"}
    with pytest.raises(ValueError, match=r"'rogue:Rogue-v0' did not answer within step_timeout, 0\.5 s"):
        fit(make(environment="rogue:Rogue-v0", environment_arguments=hanging, step_timeout=0.5), tmp_path)
    assert not collecting()


def test_an_error_that_cannot_be_pickled_says_the_same() -> None:
    class Odd(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a} and {b}")

    sent = portable(Odd(1, 2))
    assert type(sent) is RuntimeError
    assert str(sent) == "Odd: 1 and 2"
    assert type(portable(KeyError("x"))) is KeyError


def test_an_error_of_the_learner_ends_the_process(tmp_path: Path) -> None:
    class Failing(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            assert len(collecting()) == 1
            raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        fit(make(), tmp_path, callbacks=[Failing()])
    assert not collecting()


@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_a_run_continues_with_rows_and_counters(tmp_path: Path) -> None:
    callbacks = [Checkpoint(), ExactResume()]
    first = fit(make(), tmp_path, callbacks=callbacks)
    data = make()
    last = tmp_path / "checkpoints" / "last.ckpt"
    rest = fit(data, tmp_path, epochs=2, callbacks=[Checkpoint(), ExactResume()], ckpt_path=last)
    assert len(rest.batches) == 50
    assert rest.learned == 1.0
    assert first.steps[-1] <= rest.steps[0] <= first.steps[-1] + AHEAD
    assert 40 + 4 * 100 <= rest.steps[-1] <= 40 + 4 * 100 + AHEAD
    episode = torch.cat([batch.observation["observation"][..., 1].flatten() for batch in rest.batches])
    assert (episode == 2).any()  # rows from before, sampled after
    for batch in rest.batches:  # where the episodes were cut, a new one starts
        step = batch.observation["observation"][..., 0]
        assert torch.equal(batch.is_first, step == 0)
        assert (step.diff(dim=0)[~batch.is_first[1:]] == 1).all()


@pytest.mark.filterwarnings("ignore:no best.ckpt")
def test_an_inline_run_can_continue_in_the_background_and_back(tmp_path: Path) -> None:
    last, steps = None, 0
    for epochs, collection in enumerate(("inline", "background", "inline"), 1):
        data = make(collection=collection)
        callbacks = [Checkpoint(), ExactResume()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the state of tape:Tape-v0 cannot be restored")
            learner = fit(data, tmp_path, epochs=epochs, callbacks=callbacks, ckpt_path=last)
        last = tmp_path / "checkpoints" / "last.ckpt"
        assert len(learner.steps) == 50
        assert steps <= learner.steps[0] <= steps + 40 + 4 + AHEAD
        steps = learner.steps[-1]


class Killing(Callback):
    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        Path(trainer.default_root_dir, "collecting").write_text(str(collecting()[0].pid))
        os.kill(os.getpid(), signal.SIGKILL)


def fit_until_killed(folder: Path) -> None:
    fit(make(), folder, callbacks=[Killing()])


@pytest.mark.long
def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    assert fork(fit_until_killed, tmp_path).wait(PATIENCE) == -signal.SIGKILL
    pid, until = int((tmp_path / "collecting").read_text()), time.monotonic() + 100
    while time.monotonic() < until and alive(pid):
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_it_is_said_that_a_resume_is_not_exact() -> None:
    with pytest.warns(UserWarning, match="collection: background: rows arrive in an unrepeatable order"):
        OnlineDataModule(**SMALL)


def test_an_agent_that_cannot_be_copied_is_named() -> None:
    class Plain(Counting):
        copy_for_acting = None

    data = make()
    data.trainer = Trainer(logger=False)
    data.trainer.strategy.connect(Plain())
    with pytest.raises(ValueError, match="collection: background: Plain has no copy_for_acting; use inline"):
        data.next_batch()


def test_other_loops_name_the_command(tmp_path: Path) -> None:
    class Validating(Counting):
        def validation_step(self, batch: Any, batch_index: int) -> None: ...

        def test_step(self, batch: Any, batch_index: int) -> None: ...

    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    for loop in (trainer.validate, trainer.test):
        with pytest.raises(ValueError, match="`reverie evaluate` plays a checkpoint"):
            loop(Validating(), datamodule=make(collection="inline"))


# ------------------------------------------------------------------------------------------------------- a real agent
@pytest.mark.long
def test_dreamer_learns_while_its_copy_acts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    world, behaviour = "--model.world_model.init_args.", "--model.behaviour.init_args."
    small = (
        f"{world}deter", "8", f"{world}hidden", "8", f"{world}units", "8", f"{behaviour}units", "8",
        f"{behaviour}horizon", "3", "--data.environments", "2", "--data.batch_size", "3", "--data.prefill", "32",
        "--data.steps_per_epoch", "200", "--data.updates_per_step", "0.25", "--data.capacity", "400",
        "--data.collection", "background", "--data.refresh_updates", "10",
        "--trainer.logger", "false", "--trainer.max_epochs", "1",
        "--evaluation.episodes", "2", "--evaluation.final_episodes", "2",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="collection: background: rows arrive"):
        reverie.main(["fit", "--config", "dreamer/catch", *small])
    assert "random policy" in capsys.readouterr().out
    (run,) = (tmp_path / "runs/dreamer-catch").iterdir()
    agent = Agent.from_checkpoint(run / "checkpoints/last.ckpt")
    assert agent.updates == 50
    acting = pickle.loads(pickle.dumps(agent.copy_for_acting(agent.state_dict())))()
    assert acting.updates == 50
    for name, value in agent.state_dict().items():
        assert torch.equal(acting.state_dict()[name], value), name
    seen = torch.zeros(64, 10, 5, 1, dtype=torch.uint8)
    torch.manual_seed(0)
    action, _ = agent.act(seen, explore=True)
    torch.manual_seed(0)
    assert torch.equal(acting.act(seen, explore=True)[0], action)
