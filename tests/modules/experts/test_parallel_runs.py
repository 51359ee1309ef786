"""Runs with experts spread over processes: their checkpoints are whole, go on anywhere, and mistakes cost no run."""

from __future__ import annotations

import copy
import os
from datetime import timedelta

import pytest
import torch
from fit_command import fit, load, write_dataset
from ranks import run_on_ranks
from torch import nn
from toy_run import SPACES, Toy, ToyData, make_trainer

import reverie
from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from commands.strategy import AgentDDP
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.descent import descend, make_adam
from modules.contracts import Update
from modules.experts.layer import SparseMoE
from modules.networks.ensemble import follow


class Learner(Toy):
    """Regression by a mixture in a network that a copy follows; the copy acts."""

    def __init__(self, spaces, **arguments):
        super().__init__(spaces, **arguments)
        self.weight.requires_grad_(False)  # by which a Toy plays, and this one does not
        layer = SparseMoE(4, 4, 4, routing="bias_balanced", parallel_size=2)
        self.network = nn.Sequential(nn.Linear(1, 4), layer, nn.Linear(4, 1))
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = make_adam(self.network.parameters(), 0.01)

    def act(self, observation, state=None, *, explore):
        return self.target(observation).clamp(-1, 1), state

    def learn(self, batch):
        x = batch["action"]
        loss = (self.network(x) - (3 * x).sin() + 0.1 * torch.randn(4, 1)).square().mean()
        descend(self.optimizer, loss)
        follow(self.target, self.network, 0.1)
        return Update({"loss": loss.detach()})


class OwnData(ToyData):
    """Each rank draws batches of its own."""

    def setup(self, stage):
        self.generator.manual_seed(self.trainer.global_rank)


def train(folder, epochs, ranks=1, resume=False):
    strategy = AgentDDP(timeout=timedelta(seconds=200)) if ranks > 1 else "auto"
    torch.manual_seed(3)
    agent = Learner(SPACES)
    callbacks = [Evaluation(episodes=2, final_episodes=2), ExactResume(), Checkpoint(every_n_updates=0)]
    trainer = make_trainer(folder, epochs, callbacks, devices=ranks, strategy=strategy)
    trainer.fit(agent, datamodule=OwnData(5), ckpt_path=folder / "checkpoints/last.ckpt" if resume else None)
    state = copy.deepcopy(agent.optimizer.state_dict()["state"])
    return agent.state_dict(), state, agent.act(torch.linspace(-2, 2, 9)[:, None], explore=False)[0]


def train_and_resume(rank, folder):
    os.environ["LOCAL_RANK"] = str(rank)  # to Lightning, somebody else has started the processes
    whole = train(folder / "whole", 4, ranks=2)
    train(folder / "parts", 2, ranks=2)
    return whole, train(folder / "parts", 4, ranks=2, resume=True)


@pytest.mark.long
def test_a_checkpoint_holds_whole_experts_and_goes_on_anywhere(tmp_path):
    results = run_on_ranks(2, tmp_path / "ranks", train_and_resume, tmp_path)
    for (state, moments, actions), (resumed, resumed_moments, resumed_actions) in results:
        for name, value in state.items():  # bit for bit, and the counts of each rank as well
            assert torch.equal(value, resumed[name]), name
        for index, entries in moments.items():
            assert all(torch.equal(value, resumed_moments[index][name]) for name, value in entries.items())
        assert torch.equal(actions, resumed_actions)
    assert not torch.equal(results[0][0][0]["network.1._extra_state"], results[1][0][0]["network.1._extra_state"])

    path = tmp_path / "whole/checkpoints/last.ckpt"
    checkpoint = read_checkpoint(path)
    for rank in range(2):
        for name, value in results[rank][0][0].items():
            if not name.endswith("_extra_state"):
                assert torch.equal(checkpoint["state_dict"][name], value), name
    assert checkpoint["state_dict"]["network.1.experts.first.weight"].shape == (4, 4, 8)
    assert {tuple(s["exp_avg"].shape) for s in checkpoint["optimizer_states"][0]["state"].values()} >= {(4, 4, 8)}
    agent = Learner.from_checkpoint(path)
    torch.testing.assert_close(agent.act(torch.linspace(-2, 2, 9)[:, None], explore=False)[0], results[0][0][2])
    with pytest.warns(UserWarning, match="written by 2 processes and is continued by 1"):
        state, _, _ = train(tmp_path / "whole", 5, resume=True)
    assert state["network.1.experts.first.weight"].isfinite().all()
    assert not torch.equal(state["network.1.experts.first.weight"], agent.network[1].experts.first.weight)


def spread_arguments(data):
    return [
        "--model", "ATAC", "--model.hidden", "[16]", "--model.warm_start.updates", "6",
        "--model.trunk", "SparseMoE", "--model.trunk.num_experts", "4", "--model.trunk.parallel_size", "2",
        "--data", "OfflineDataModule", "--data.source", str(data), "--trainer.accelerator", "cpu",
        "--trainer.logger", "false",
    ]  # fmt: skip


@pytest.mark.long
def test_through_the_command_line(tmp_path):
    data = write_dataset(tmp_path / "tiny.npz")
    done = fit(
        tmp_path, "ranks", *spread_arguments(data), "--trainer.devices", "2", "--trainer.max_epochs", "1",
        "--data.updates_per_epoch", "12", "--run_dir", "runs/spread",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [load(tmp_path / f"ranks/rank{r}.pt") for r in range(2)]
    (path,) = tmp_path.glob("runs/spread/*/checkpoints/last.ckpt")
    saved = read_checkpoint(path)["state_dict"]
    for name, (first, second) in {n: [r["state"][n] for r in ranks] for n in saved}.items():
        if ".experts." in name:  # the recorder looked while they were apart
            assert torch.equal(torch.cat([first, second]), saved[name]), name
        elif not name.endswith("_extra_state"):
            assert torch.equal(first, second), name
            assert torch.equal(first, saved[name]), name
    assert Agent.from_checkpoint(path).act(torch.zeros(5, 3), explore=False)[0].isfinite().all()


def test_runs_that_experts_cannot_be_spread_over_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["fit", *spread_arguments(write_dataset(tmp_path / "tiny.npz"))]
    for more, message in (
        (["1"], "parallel_size=2 of actor.network.trunks.0 does not divide the 1 processes of this run"),
        (["2", "--model.compile", "true"], "cannot be compiled: leave model.compile out"),
    ):
        with pytest.raises(SystemExit) as leaving:
            reverie.main([*arguments, "--trainer.devices", *more])
        assert leaving.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/**/*.*"))
