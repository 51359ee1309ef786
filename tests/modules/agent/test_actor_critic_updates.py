"""Critics' shares of pessimism, their errors, and where values are clipped."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from atac_agents import SPACES, make_batch

from modules.agent.actor_critic_updates import CriticUpdates
from modules.algorithms.atac import ATAC
from modules.algorithms.cql import CQL
from modules.algorithms.iql import IQL
from modules.algorithms.sac import SAC
from modules.algorithms.td3_bc import TD3BC


def test_both_critics_are_pessimistic_unless_roles_are_split() -> None:
    assert CriticUpdates().pessimism_share().tolist() == [[[1.0]], [[1.0]]]
    assert CriticUpdates(roles="split").pessimism_share().tolist() == [[[0.0]], [[1.0]]]


@pytest.mark.parametrize(("clip", "backup", "target"), [("bootstrap", 7.0, 4.0), ("backup", 2.0, 2.0)])
def test_one_of_bootstrap_and_backup_is_clipped(
    clip: Literal["bootstrap", "backup"], backup: float, target: float
) -> None:
    updates = CriticUpdates(value_range=(-1.0, 2.0), clip=clip)
    value = torch.tensor([7.0], requires_grad=True)
    clipped = updates.clip_backup(value)
    assert clipped.item() == backup
    assert torch.autograd.grad(clipped.sum(), value)[0].item() == 1.0  # also where the clip binds
    assert float(updates.clip_backup(torch.tensor(-7.0))) == (-7.0 if clip == "bootstrap" else -1.0)
    # Of reward 3 and half of the value: either the value is clipped before, or the sum after.
    reward, discount = torch.tensor([3.0]), torch.tensor([0.5])
    assert updates.target(reward, discount, torch.tensor([7.0])).item() == target
    # After a terminal state the reward is all there is; only the clip of the whole sum touches it.
    assert updates.target(reward, torch.zeros(1), torch.tensor([7.0])).item() == min(3.0, backup)


def test_without_a_range_nothing_is_clipped() -> None:
    for clip in ("bootstrap", "backup"):
        updates = CriticUpdates(clip=clip)
        assert float(updates.clip_backup(torch.tensor(1e9))) == 1e9
        assert float(updates.target(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(1e9))) == 1e9


def test_errors_are_squared_and_the_residual_has_its_share() -> None:
    updates = CriticUpdates(residual_weight=0.25, value_range=(-1.0, 3.5), clip="backup")
    value, target = torch.tensor([[[1.0]], [[4.0]]]), torch.tensor([[2.0]])
    reward, discount, ahead = torch.tensor([[3.0]]), torch.tensor([[0.5]]), torch.tensor([[[2.0]], [[-2.0]]])
    assert updates.errors(value, None, target, reward, discount).flatten().tolist() == [1.0, 4.0]
    # Backups of 4, clipped to 3.5, and of 2.
    expected = [0.75 * 1.0 + 0.25 * (1.0 - 3.5) ** 2, 0.75 * 4.0 + 0.25 * (4.0 - 2.0) ** 2]
    assert updates.errors(value, ahead, target, reward, discount).flatten().tolist() == expected


@pytest.mark.parametrize("agent", [ATAC, CQL, IQL, SAC, TD3BC])
def test_held_out_errors_are_against_targets_that_are_clipped_as_those_that_are_learned(
    agent: type[ATAC | CQL | IQL | SAC | TD3BC],
) -> None:
    updates = CriticUpdates(value_range=(-1e-6, 1e-6), clip="backup", residual_weight=0.0, projection_radius=None)
    learner = agent(SPACES, hidden=[8], critic=updates)
    batch = make_batch()
    batch = batch._replace(reward=batch.reward + 100.0)
    assert learner.evaluate_losses(batch)["td_error"].item() < 10.0  # 10,000 against the rewards as they are
    noise = [] if isinstance(learner, IQL) else [learner.noise_for(batch)]
    assert abs(learner.learn(batch, *noise).metrics["target"].item()) <= 1e-6
