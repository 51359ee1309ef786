"""Critics' shares of pessimism, and where values are clipped."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from modules.agent.actor_critic_updates import CriticUpdates


def test_both_critics_are_pessimistic_unless_roles_are_split() -> None:
    assert CriticUpdates().pessimism_share().tolist() == [[[1.0]], [[1.0]]]
    assert CriticUpdates(roles="split").pessimism_share().tolist() == [[[0.0]], [[1.0]]]


@pytest.mark.parametrize(("clip", "bootstrap", "backup"), [("bootstrap", 2.0, 7.0), ("backup", 7.0, 2.0)])
def test_one_of_bootstrap_and_backup_is_clipped(
    clip: Literal["bootstrap", "backup"], bootstrap: float, backup: float
) -> None:
    updates = CriticUpdates(value_range=(-1.0, 2.0), clip=clip)
    value = torch.tensor([7.0], requires_grad=True)
    for clipped, expected in ((updates.clip_bootstrap(value), bootstrap), (updates.clip_backup(value), backup)):
        assert clipped.item() == expected
        assert torch.autograd.grad(clipped.sum(), value)[0].item() == 1.0  # also where the clip binds
    assert min(float(f(torch.tensor(-7.0))) for f in (updates.clip_bootstrap, updates.clip_backup)) == -7.0
    assert max(float(f(torch.tensor(-7.0))) for f in (updates.clip_bootstrap, updates.clip_backup)) == -1.0


def test_without_a_range_nothing_is_clipped() -> None:
    for clip in ("bootstrap", "backup"):
        updates = CriticUpdates(clip=clip)
        assert float(updates.clip_bootstrap(torch.tensor(1e9))) == float(updates.clip_backup(torch.tensor(1e9))) == 1e9
