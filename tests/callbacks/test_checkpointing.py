from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from equal import assert_equal
from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import AtomicCheckpointIO, Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from modules.agent.random_state import random_state, set_random_state
from modules.agent.trust_region import Trust


class StopAt(Callback):
    """Ends the process or the run in the middle of an epoch, after every other callback has seen the batch."""

    def __init__(self, updates, how):
        self.updates = updates
        self.how = how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.updates:
            self.how()


def run(folder, epochs=4, seed=0, extra=(), checkpoint=None, **arguments):
    torch.manual_seed(seed)
    agent = Toy(SPACES, warm_start=7)
    callbacks = [
        Evaluation(episodes=2, final_episodes=2),
        ExactResume(),
        *extra,
        checkpoint or Checkpoint(every_n_updates=3),
    ]
    trainer = make_trainer(folder, epochs, callbacks)
    trainer.fit(agent, datamodule=ToyData(), **arguments)
    return agent, trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))[0]


def assert_same(agent, other):
    assert torch.equal(agent.weight, other.weight)
    assert agent.updates == other.updates
    mine, theirs = (a.optimizer.state[a.weight] for a in (agent, other))
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert torch.equal(agent.generator.get_state(), other.generator.get_state())


@pytest.mark.parametrize(("stop", "resumed_at"), [(17, 15), (20, 20), (21, 21)])
def test_a_run_that_broke_off_continues_exactly(tmp_path, whole, stop, resumed_at):
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, extra=[StopAt(stop, lambda: (_ for _ in ()).throw(RuntimeError("power cut")))])
    path = tmp_path / "checkpoints/last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == resumed_at
    agent, _ = run(tmp_path, seed=123, ckpt_path=path)
    assert_same(agent, whole)


def test_without_exact_resume_it_would_not(tmp_path, whole):
    run(tmp_path, epochs=2)
    torch.manual_seed(123)
    agent = Toy(SPACES, warm_start=7)
    make_trainer(tmp_path, 4, []).fit(agent, datamodule=ToyData(), ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert agent.updates == whole.updates
    assert not torch.equal(agent.weight, whole.weight)


def test_sigterm_keeps_the_update_that_was_reached(tmp_path, whole):
    stop = StopAt(12, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SIGTERMException):
        run(tmp_path, extra=[stop], checkpoint=Checkpoint(every_n_updates=0))
    path = tmp_path / "checkpoints/last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 13
    agent, _ = run(tmp_path, seed=5, ckpt_path=path)
    assert_same(agent, whole)


def test_names_are_fixed_and_the_best_score_survives_a_move(tmp_path):
    _, trainer = run(tmp_path / "a", epochs=2)
    assert sorted(p.name for p in (tmp_path / "a/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    (tmp_path / "a").rename(tmp_path / "b")
    best = trainer.checkpoint_callback.best_model_score
    checkpoint = Checkpoint()
    run(tmp_path / "b", ckpt_path=tmp_path / "b/checkpoints/last.ckpt", checkpoint=checkpoint)
    assert checkpoint.best_model_path == str(tmp_path / "b/checkpoints/best.ckpt")
    assert checkpoint.best_model_score >= best
    assert sorted(p.name for p in (tmp_path / "b/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


class Judging(Toy):
    """Trusts its policy as long as its weight is small, and knows nothing of one that it has not trained."""

    trained = False

    def judge(self, metrics):
        far = float(self.weight.detach().max())
        return Trust(far < 0.5, f"the weight is {far:.3g}") if self.trained else None

    def advance(self):
        super().advance()
        self.trained = True


def test_the_last_trusted_policy_is_kept_and_named_when_the_last_one_is_not(tmp_path, capsys):
    torch.manual_seed(0)
    agent, evaluation = Judging(SPACES), Evaluation(episodes=2, final_episodes=2)
    callbacks = [evaluation, ExactResume(), Checkpoint()]
    make_trainer(tmp_path, 4, callbacks).fit(agent, datamodule=ToyData())
    path = tmp_path / "checkpoints/trusted.ckpt"
    kept, last = (torch.load(path.with_name(f"{name}.ckpt"), weights_only=True) for name in ("trusted", "last"))
    weights = [float(checkpoint["state_dict"]["weight"]) for checkpoint in (kept, last)]
    assert weights[0] < 0.5 < weights[1]
    assert 0 < kept["global_step"] < last["global_step"]
    (row,) = [score for score in evaluation.final if score.kind == "trusted"]
    assert row.updates == kept["global_step"]
    assert row.label == "trusted checkpoint"
    printed = capsys.readouterr().out
    assert f"trust: the weight is {weights[1]:.3g}: it has left the data, and its value cannot be trusted" in printed
    assert f"the last policy that can be is {path}" in printed
    # A run that has nothing left to train says the same.
    again = [Evaluation(episodes=2, final_episodes=2), ExactResume(), Checkpoint()]
    make_trainer(tmp_path, 4, again).fit(Judging(SPACES), datamodule=ToyData(), ckpt_path=path.with_name("last.ckpt"))
    assert f"trust: the weight is {weights[1]:.3g}: it has left the data" in capsys.readouterr().out


class Cloning(Toy):
    """It wants to be kept as it is after 13 updates."""

    @property
    def kept_as(self):
        return "cloned" if self.updates == 13 else None


def test_what_an_agent_wants_to_be_kept_has_a_file_of_its_own_from_which_a_run_goes_on(tmp_path):
    torch.manual_seed(0)
    make_trainer(tmp_path, 2, [ExactResume(), Checkpoint()]).fit(agent := Cloning(SPACES), datamodule=ToyData())
    kept = tmp_path / "checkpoints/cloned.ckpt"
    assert torch.load(kept, weights_only=True)["global_step"] == 13
    again = make_trainer(tmp_path / "again", 2, [ExactResume(), Checkpoint()])
    again.fit(other := Cloning(SPACES), datamodule=ToyData(), ckpt_path=kept)
    assert_equal(dict(other.state_dict()), dict(agent.state_dict()))


def test_a_run_that_is_killed_after_the_trusted_policy_was_written_goes_on_before_it(tmp_path, monkeypatch):
    def killed(self, trainer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "_write_last", killed)
        with pytest.raises(SystemExit):
            make_trainer(tmp_path, 1, [Checkpoint()]).fit(Judging(SPACES), datamodule=ToyData())
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["trusted.ckpt"]


def test_a_worse_policy_does_not_replace_the_best_after_a_resume(tmp_path):
    run(tmp_path, epochs=2)
    last = tmp_path / "checkpoints/last.ckpt"
    state = torch.load(last, weights_only=True)
    key = next(k for k in state["callbacks"] if k.startswith("Checkpoint"))
    state["callbacks"][key]["best_model_score"] = torch.tensor(1e6)
    AtomicCheckpointIO().save_checkpoint(state, last)
    before = (tmp_path / "checkpoints/best.ckpt").read_bytes()
    run(tmp_path, ckpt_path=last)
    assert (tmp_path / "checkpoints/best.ckpt").read_bytes() == before
    after = torch.load(last, weights_only=True)["callbacks"][key]
    assert after["current_score"] == state["callbacks"][key]["current_score"]  # of the last one that was written


def test_a_new_run_from_the_checkpoint_of_another_looks_for_its_own_best(tmp_path):
    run(tmp_path / "a", epochs=2)
    checkpoint = Checkpoint()
    run(tmp_path / "b", ckpt_path=tmp_path / "a/checkpoints/last.ckpt", checkpoint=checkpoint)
    assert checkpoint.best_model_path == str(tmp_path / "b/checkpoints/best.ckpt")


@pytest.mark.parametrize("together", [False, True])
def test_another_number_of_processes_is_said(together, tmp_path, monkeypatch):
    run(tmp_path, epochs=1)
    path = tmp_path / "checkpoints/last.ckpt"
    state = torch.load(path, weights_only=True)
    state["ranks"] *= 2
    torch.save(state, path)
    loaded = []
    monkeypatch.setattr(ToyData, "same_on_all_ranks", together, raising=False)
    monkeypatch.setattr(ToyData, "load_rank_state", lambda _, state: loaded.append(state))
    words = f"written by 2 processes and is continued by 1: {'rows come on in their order, other ' * together}random"
    with pytest.warns(UserWarning, match=words):
        run(tmp_path, epochs=2, ckpt_path=path)
    assert len(loaded) == together


def test_random_state_round_trip_through_weights_only(tmp_path):
    device = torch.device("cpu")
    np.random.standard_normal()  # leaves half of a pair behind, which the state must carry
    torch.save(random_state(device), tmp_path / "state")
    expected = np.random.standard_normal(3), torch.rand(3), np.random.rand(2)
    set_random_state(torch.load(tmp_path / "state", weights_only=True), device)
    got = np.random.standard_normal(3), torch.rand(3), np.random.rand(2)
    for a, b in zip(expected, got, strict=True):
        assert np.array_equal(a, b)


def test_a_damaged_file_is_named(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "sub/x.ckpt"
    io.save_checkpoint({"state_dict": {"w": torch.arange(1000.0)}}, path)
    assert torch.equal(io.load_checkpoint(path)["state_dict"]["w"], torch.arange(1000.0))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100], b"", b"hello, this is text"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x\.ckpt"):
            io.load_checkpoint(path)
    with pytest.raises(ValueError, match="no checkpoint file"):
        io.load_checkpoint(tmp_path / "absent.ckpt")
    io.save_checkpoint({"weight": 1}, path)
    with pytest.raises(ValueError, match=r"x\.ckpt was not written by reverie"):
        io.load_checkpoint(path)


def test_code_in_a_checkpoint_is_refused(tmp_path):
    torch.save({"x": Path("/")}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"no checkpoint of tensors and plain values.*Path"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="weights_only=True alone"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt", weights_only=False)


@pytest.mark.compile
def test_a_compiled_optimizer_that_had_learned_before_is_read_back(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], capturable=False)
    weight.grad = torch.ones(3)
    optimizer.step()
    torch.compile(optimizer.step, backend="eager")()
    state = optimizer.state_dict()
    assert any(vars(tensor) for tensor in state["state"][0].values()), "nothing was marked"
    io, path = AtomicCheckpointIO(), tmp_path / "x.ckpt"
    io.save_checkpoint({"state_dict": {"w": weight.detach()}, "optimizer_states": [state]}, path)
    read = io.load_checkpoint(path)["optimizer_states"][0]["state"][0]
    assert all(torch.equal(read[name], tensor) for name, tensor in state["state"][0].items())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "x.ckpt"
    io.save_checkpoint({"state_dict": {}, "epoch": 1}, path)
    with pytest.raises(AttributeError, match="pickle"):
        io.save_checkpoint({"a": lambda: None}, path)
    assert io.load_checkpoint(path) == {"state_dict": {}, "epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]


def write_for_ever(path):
    for value in itertools.count():
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.full((2_000_000,), float(value))}}, path)


def test_kill_9_while_writing_leaves_a_whole_file(tmp_path):
    path = tmp_path / "last.ckpt"
    writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path,))
    writer.start()
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    writer.kill()
    writer.join()
    values = AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["w"]
    assert (values == values[0]).all()
