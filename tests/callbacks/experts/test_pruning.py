"""Pruning while a run goes on: what is removed, what follows, and resume before, within and after the window."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from equal import assert_equal
from mixture_runs import (
    HELD_OUT,
    PATH,
    Data,
    Known,
    Metrics,
    Mixed,
    Switches,
    run,
    table,
)
from pytorch_lightning import Callback
from torch import Tensor
from toy_run import make_trainer

from callbacks.checkpointing import ExactResume
from callbacks.experts.experts import Experts
from callbacks.experts.pruning import Pruning, copies_of, learning_layers
from modules.experts.layer import SparseMoE


# ------------------------------------------------------------------------------------------------------------- pruning
@pytest.mark.parametrize("kind", ["noisy_top_k", "modules"])
def test_a_collapsed_mixture_loses_what_nobody_uses(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    """Experts 1 and 4 are never used; expert 2 only with noise, which the window does without."""
    agent, experts = Mixed(kind=kind, members=2), Experts(prune_after=12, prune_window=10)
    before: list[Tensor] = []

    class Around(Callback):
        """Looks at the update of the pruning before and after the callback under test."""

        def __init__(self, store: list[Tensor]) -> None:
            self.store = store

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if pl_module.updates == 22:
                copied = copy.deepcopy(pl_module.critic).eval()
                copied[0].noise = copied[1].noise = False
                self.store.append(copied(HELD_OUT["x"]))

    metrics = Metrics()
    first, last = Around(before), Around(before)
    trainer = make_trainer(tmp_path, 4, [first, experts, metrics, last])
    trainer.fit(agent, datamodule=Data())
    torch.testing.assert_close(before[1], before[0], rtol=0, atol=1e-6)
    unused_with_noise = metrics.seen[f"experts/{PATH}/unused_experts"]
    if kind == "noisy_top_k":
        assert unused_with_noise[10] == 2.0  # the noise does reach expert 2
    assert [layer.num_experts for layer in (*agent.critic, *agent.target_critic)] == [3] * 4
    assert metrics.seen[f"experts/{PATH}/num_experts"] == {22: 3.0}
    assert unused_with_noise[40] == 0.0
    held = [p for group in agent.optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in agent.critic.parameters()]
    for p in held:
        assert agent.optimizer.state[p]["exp_avg"].shape == agent.optimizer.state[p]["exp_avg_sq"].shape == p.shape
    assert len(agent.optimizer.state) == len(held)
    printed = capsys.readouterr().out
    assert "critic.0: 6 -> 3 experts, without 1, 2, 4\n" in printed
    assert not any(layer.quiet for layer in agent.critic)
    names, rows = table(tmp_path)
    assert rows[3][0] == "20"
    assert rows[3][names.index(f"{PATH}/2")] == "0"
    assert rows[-1][names.index(f"{PATH}/1")] == ""


def test_noise_returns_after_the_window(tmp_path: Path) -> None:
    switches = Switches()
    run(tmp_path, Mixed(), Experts(prune_after=0, prune_window=20), extra=(switches,))
    assert switches.seen == [True] * 20 + [False] * 20


def test_the_share_that_is_too_small(tmp_path: Path) -> None:
    agent = Known()
    run(tmp_path, agent, Experts(prune_after=0, prune_window=30, min_share=0.2))
    assert agent.critic[0].num_experts == 2  # 5, 2 and 1 of 8 rows


def test_copies_follow_by_place_and_name() -> None:
    agent = Mixed(members=2)
    assert copies_of(agent, learning_layers(agent)) == {
        "critic.0": [agent.target_critic[0]], "critic.1": [agent.target_critic[1]],
    }  # fmt: skip
    agent.slow = copy.deepcopy(agent.critic).requires_grad_(False)
    with pytest.raises(ValueError, match=r"slow\.0 is frozen, and no network that learns has a mixture at its place"):
        copies_of(agent, learning_layers(agent))


def test_mixtures_that_are_spread_over_processes_are_not_pruned() -> None:
    layers = {PATH: SparseMoE(4, 4, 6, parallel_size=2)}
    pruning = Pruning(start=12, window=10, min_share=0.0)
    processes = [SimpleNamespace(world_size=n, estimated_stepping_batches=40) for n in (1, 2)]
    assert pruning.is_due(processes[0], layers, updates=0, opened=False, done=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"critic\.0 is spread over processes and cannot be pruned there"):
        pruning.is_due(processes[1], layers, updates=0, opened=False, done=None)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- resume
PRUNED = {"prune_after": 12, "prune_window": 10}


class Keep(Callback):
    """Checkpoints at these updates; at the end of an epoch where one ends there."""

    def __init__(self, folder: Path, *updates: int) -> None:
        self.folder = folder
        self.updates = updates

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.updates % 10:
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.updates in self.updates:
            trainer.save_checkpoint(self.folder / f"{pl_module.updates}.ckpt")


def whole_state(agent: Mixed, experts: Experts) -> dict[str, Any]:
    state = {"agent": agent.state_dict(), "optimizer": agent.optimizer.state_dict(), "experts": experts.state_dict()}
    return copy.deepcopy(state)


@pytest.mark.parametrize("kind", ["noisy_top_k", "modules"])
def test_resume_equals_the_run_that_was_never_stopped(tmp_path: Path, kind: str) -> None:
    """Before the window, within it, at an epoch's end within it, right after the pruning, and long after it."""
    stops = (9, 17, 20, 22, 33) if kind == "noisy_top_k" else (17, 22)
    agent, experts = Mixed(kind=kind), Experts(**PRUNED)
    run(tmp_path / "whole", agent, experts, extra=(ExactResume(), Keep(tmp_path, *stops)))
    assert agent.critic[0].num_experts == 3
    for stop in stops:
        resumed, again = Mixed(kind=kind), Experts(**PRUNED)
        folder, checkpoint = tmp_path / str(stop), tmp_path / f"{stop}.ckpt"
        run(folder, resumed, again, extra=(ExactResume(),), ckpt_path=checkpoint)
        assert_equal(whole_state(agent, experts), whole_state(resumed, again))
        assert (tmp_path / "whole/expert_load.csv").read_bytes() == (folder / "expert_load.csv").read_bytes()

        loaded = Mixed.from_checkpoint(checkpoint)
        assert isinstance(loaded, Mixed)
        assert loaded.critic[0].num_experts == loaded.target_critic[0].num_experts == (6 if stop < 22 else 3)


def test_a_pruning_that_is_past_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Mixed(), Experts(), extra=(Keep(tmp_path, 40),))
    last = tmp_path / "40.ckpt"
    with pytest.raises(ValueError, match="prune_after=12 is past, the run is at 40 updates; raise it"):
        run(tmp_path, Mixed(), Experts(**PRUNED), epochs=8, ckpt_path=last)
    agent = Mixed()
    run(tmp_path, agent, Experts(prune_after=50, prune_window=10), epochs=8, ckpt_path=last)
    assert agent.critic[0].num_experts == 3


def test_a_window_is_forgotten_when_the_schedule_changes(tmp_path: Path) -> None:
    run(tmp_path, Mixed(), Experts(prune_after=8, prune_window=22), epochs=3, extra=(ExactResume(), Keep(tmp_path, 15)))
    switches, again = Switches(), Experts(prune_after=20, prune_window=5)
    run(tmp_path, Mixed(), again, epochs=3, extra=(ExactResume(), switches), ckpt_path=tmp_path / "15.ckpt")
    assert switches.seen == [False] * 5 + [True] * 5 + [False] * 5
