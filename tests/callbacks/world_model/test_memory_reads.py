"""MemoryReads: a picture of an episode that is played aside, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from merlin_agents import CUE, make
from toy_run import SPACES, Toy

from callbacks.world_model.memory_reads import MemoryReads


def trainer(folder: Path) -> Any:
    """A trainer as a callback sees it."""
    data = SimpleNamespace(environment_spec=CUE)
    return SimpleNamespace(datamodule=data, is_global_zero=True, default_root_dir=folder, loggers=[])


def test_the_weights_of_every_head_are_those_of_one_episode_and_are_drawn(tmp_path: Path) -> None:
    agent, callback, run = make(), MemoryReads(seed=3), trainer(tmp_path)
    callback.check_run(run, agent, run.datamodule)
    with torch.no_grad():
        found = callback.look(run, agent)
    assert found.shape == (5, 3, 8)  # cue, three of noise and the question; two heads and the policy's; rows
    assert found.sum(-1) == pytest.approx(1.0, abs=1e-5)
    before = torch.get_rng_state()
    callback.on_train_end(run, agent)
    assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "world_model" / "memory_reads_00000000.png").stat().st_size > 1000


def test_agents_that_read_no_memory_and_data_without_an_environment_are_refused(tmp_path: Path) -> None:
    callback, run = MemoryReads(), trainer(tmp_path)
    for agent in (Toy(SPACES), make(prediction=False, predictor={"memory": None})):
        with pytest.raises(ValueError, match=r"MemoryReads would be ignored: .* reads no external memory"):
            callback.check_run(run, agent, run.datamodule)
    with pytest.raises(ValueError, match="MemoryReads plays an episode: list has no environment"):
        callback.check_run(run, make(), [])
