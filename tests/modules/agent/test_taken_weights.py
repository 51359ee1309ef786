"""A run that starts with the weights of another one: what carries over, what begins anew, what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import SPACES, make_agent, run
from pytorch_lightning import LightningDataModule, Trainer

from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces
from modules.contracts import ReplayOffer

NORMALIZED = Spaces(SPACES.observation, SPACES.action, np.arange(4.0), np.full(4, 2.0))


class Data(LightningDataModule):
    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.save_hyperparameters(arguments)


def save(agent: ATAC, path: Path, **data: Any) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": agent.state_dict(), "hyper_parameters": dict(agent.hparams)}
    agent.on_save_checkpoint(checkpoint)
    torch.save({**checkpoint, "datamodule_hyper_parameters": data}, path)
    return path


def test_weights_and_units_carry_over_and_the_rest_begins_anew(tmp_path: Path) -> None:
    old = make_agent(NORMALIZED, warm_start=WarmStart(5, patience=2))
    run(old, 8)
    path = save(old, tmp_path / "old.ckpt", reward_scale=0.1)
    new = make_agent(seed=7)  # announced without statistics, and without the rule
    new.take_weights(path, Data(reward_scale=0.1))
    assert new.updates == 0
    assert new.phase == "training"
    taken, given = new.state_dict(), old.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in taken.items())
    assert torch.equal(new.normalize.mean, torch.arange(4.0))
    observation = torch.randn(6, 4)
    torch.testing.assert_close(new.act(observation, explore=False)[0], old.act(observation, explore=False)[0])
    assert all(not state["exp_avg"].any() for state in new.actor_optimizer.state_dict()["state"].values())
    before = new.actor.network.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    run(new, 2)
    assert any(not torch.equal(value, before[name]) for name, value in new.actor.network.state_dict().items())


def test_what_does_not_fit_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    path = save(make_agent(), tmp_path / "old.ckpt", reward_scale=0.1, reward_shift=-1.0)
    shift = {"reward_shift": -1.0}
    with pytest.raises(ValueError, match=r"old\.ckpt: its weights know rewards .*: set data\.reward_scale to 0\.1"):
        make_agent().take_weights(path, Data(reward_scale=1.0, **shift))
    with pytest.raises(ValueError, match=r"train with data\.reward_shift 0 before"):
        make_agent().take_weights(path, Data(reward_scale=0.1))
    make_agent().take_weights(path, Data(reward_scale=0.1, **shift))
    make_agent().take_weights(path)
    wide = Spaces(SPACES.observation, gym.spaces.Box(-2.0, 2.0, (2,)))
    with pytest.raises(ValueError, match="its actions are from -1 to 1, the environment's from -2 to 2"):
        make_agent(wide).take_weights(path)
    with pytest.raises(ValueError, match="does not fit the configured model"):
        make_agent(hidden=[8, 8]).take_weights(path)
    with pytest.raises(ValueError, match="no checkpoint file"):
        make_agent().take_weights(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="holds the members"):
        make_agent(beta=[1.0, 2.0]).take_weights(path)


def test_one_member_learns_from_transitions_that_it_plays() -> None:
    make_agent().meet(None)
    make_agent().meet(ReplayOffer(2, transitions=True))
    with pytest.raises(ValueError, match=r"set data\.replay to datamodules\.replay\.single_steps\.TransitionReplay"):
        make_agent().meet(ReplayOffer(50))
    played = SimpleNamespace(collection_metrics=dict)
    trainer = cast(Trainer, SimpleNamespace())
    make_agent(warm_start=WarmStart(0)).check_run(trainer, played)
    with pytest.raises(ValueError, match="with one member, and has 2"):
        make_agent(seeds=2).check_run(trainer, played)
