"""Agents with a memory that learn on two ranks, each from what it plays itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from equal import assert_equal
from merlin_agents import CUE, played
from ranks import run_on_ranks
from torch import Tensor

from datamodules.envs.make import EnvironmentSpec


def check_equal_ranks(folder: Path, make: Callable[[], Any], environment: EnvironmentSpec = CUE) -> None:
    """See that two ranks hold equal parameters after three updates.

    Args:
        folder: folder of the processes.
        make: makes the agent; a function of a module, since processes are told its name.
        environment: where the agent plays, with another seed on each rank.
    """
    one, two = run_on_ranks(2, folder, _learn, make, environment)
    assert_equal(one, two, "parameters")


def _learn(rank: int, make: Callable[[], Any], environment: EnvironmentSpec) -> list[Tensor]:
    agent = make()
    stream = played(agent, environment, seed=rank)
    for _ in range(3):
        agent.update(next(stream)[0])
    return [p.detach() for p in agent.parameters()]
