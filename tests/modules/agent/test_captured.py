"""Updates that are replayed as CUDA graphs: when they are recorded, and that they are the updates themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import armor_agents
import pytest
import torch
from atac_agents import SPACES, make_batch
from torch.utils._pytree import tree_map

from modules.agent import captured
from modules.agent.actor_critic_updates import ActorUpdates
from modules.agent.agent import Agent
from modules.agent.captured import MOST_GRAPHS, CapturedUpdate
from modules.agent.descent import rates_of
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.algorithms.cql import CQL
from modules.algorithms.dynamics_ensemble import DynamicsEnsemble
from modules.algorithms.iql import IQL
from modules.algorithms.sac import SAC
from modules.algorithms.td3_bc import TD3BC

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

AGENTS: dict[str, Callable[..., Agent]] = {
    "atac, in two phases": lambda **form: ATAC(
        SPACES, [1.0, 4.0], 2, warm_start=WarmStart(6), actor=ActorUpdates(interval=2, average_rate=0.1), **form
    ),
    "armor": lambda **form: armor_agents.make_agent(warm_start=WarmStart(6), **form),
    "td3_bc, the policy at every other": lambda **form: TD3BC(SPACES, seeds=2, **form),
    "iql": lambda **form: IQL(SPACES, seeds=2, **form),
    "cql": lambda **form: CQL(SPACES, seeds=2, **form),
    "cloning": lambda **form: BehaviorCloning(SPACES, patience=None, **form),
    "sac": lambda **form: SAC(SPACES, seeds=2, **form),
    "dynamics": lambda **form: DynamicsEnsemble(SPACES, **form),
}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """The updates that were to be recorded; they are executed at every call."""
    found: list[Callable[..., Any]] = []
    monkeypatch.setattr(captured, "CudaGraphModule", lambda update: found.append(update) or update)
    return found


def test_an_update_is_recorded_for_each_branch_and_shape(recorded: list[Any]) -> None:
    phase = ["one"]
    update = CapturedUpdate(lambda rows: float(rows[0].sum()), lambda: phase[0])
    for made, (branch, rows) in enumerate((("one", 3), ("two", 3), ("one", 4)), start=1):
        phase[0] = branch
        assert [update((torch.ones(rows), None)) for _ in range(3)] == [rows] * 3
        assert len(recorded) == made
    phase[0] = "two"
    assert update((torch.ones(3), None)) == 3.0
    assert len(recorded) == 3


def test_of_too_many_recordings_the_oldest_is_made_again(recorded: list[Any]) -> None:
    phase = [0]
    update = CapturedUpdate(lambda x: x, lambda: phase[0])
    for phase[0] in [*range(MOST_GRAPHS + 1), MOST_GRAPHS, 0]:
        update(torch.ones(1))
        assert len(update.graphs) <= MOST_GRAPHS
    assert len(recorded) == MOST_GRAPHS + 2


def test_a_learning_rate_and_a_phase_are_branches_of_an_agents_update() -> None:
    agent = AGENTS["atac, in two phases"]()
    rates, seen = rates_of(agent), set()
    for _ in range(10):
        seen.add((agent.branch, rates()))
        agent.advance()
    # Cloning, and of the game the updates with and without the policy, which has another rate than before.
    assert [branch for branch, _ in sorted(seen)] == [(False, False), (False, True), (True, True)]
    assert {found for branch, found in seen if branch[0]} != {found for branch, found in seen if not branch[0]}


def learned(make: Callable[..., Agent], form: Any) -> list[dict[str, torch.Tensor]]:
    """Metrics of each update of one form, and the weights at the end."""
    agent = make(compile=form).to("cuda")
    agent.configure_optimizers()
    found = []
    for index in range(14):
        rows = make_batch(40, index)
        batch = tree_map(lambda x: x.to("cuda") if isinstance(x, torch.Tensor) else x, rows)
        metrics = agent.update(batch).metrics
        found.append({name: value.cpu() for name, value in metrics.items()})
        agent.advance()
    return [*found, {name: value.cpu() for name, value in agent.state_dict().items()}]


@needs_cuda
@pytest.mark.parametrize("name", AGENTS)
def test_a_captured_update_is_the_update(name: str) -> None:
    for expected, found in zip(learned(AGENTS[name], False), learned(AGENTS[name], "captured"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
