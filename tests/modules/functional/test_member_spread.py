"""Both parts of the variance, and masks that say which member learns of what."""

from __future__ import annotations

import pytest
import torch

from modules.functional.member_spread import bootstrap_mask, spread_of


def test_both_parts_sum_to_the_variance_of_the_mixture() -> None:
    g = torch.Generator().manual_seed(0)
    mean, deviation = torch.randn(3, 5, generator=g), torch.rand(3, 5, generator=g)
    found = spread_of(mean, deviation.square())
    drawn = mean.unsqueeze(-1) + deviation.unsqueeze(-1) * torch.randn(3, 5, 100000, generator=g)
    torch.testing.assert_close(found.mean, drawn.mean((1, 2)), atol=5e-3, rtol=0.0)
    whole = drawn.flatten(1).var(1)
    torch.testing.assert_close(found.aleatoric + found.epistemic, whole, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(found.epistemic, mean.var(1, correction=0))
    # Members that agree know everything but chance; certain members that do not, nothing of it.
    assert (spread_of(torch.ones(3, 5), deviation).epistemic == 0.0).all()
    assert (spread_of(mean, torch.zeros(3, 5)).aleatoric == 0.0).all()


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_masks_have_their_share_and_are_independent_by_group_and_member(share: float) -> None:
    group = torch.arange(20000)
    mask = bootstrap_mask(group, 4, share)
    assert torch.equal(mask[[5, 77]], bootstrap_mask(torch.tensor([5, 77]), 4, share))
    chance = mask.double()
    torch.testing.assert_close(chance.mean(0), torch.full((4,), share).double(), atol=0.012, rtol=0.0)
    assert (torch.corrcoef(chance.T) - torch.eye(4)).abs().max() < 0.03
    for lag in (1, 2, 64):
        neighbours = torch.stack([chance[:-lag, 0], chance[lag:, 0]])
        assert torch.corrcoef(neighbours)[0, 1].abs() < 0.03
    # Another process gives the same numbers to other groups, of which no member learns by what it learns of here.
    other = bootstrap_mask(group, 4, share, 1).double()
    torch.testing.assert_close(other.mean(0), torch.full((4,), share).double(), atol=0.012, rtol=0.0)
    assert torch.corrcoef(torch.cat([chance, other], 1).T)[:4, 4:].abs().max() < 0.03
    # Numbers beyond 32 bits, and one at a time.
    assert 0.4 < bootstrap_mask(2**40 + 2**33 * torch.arange(50), 4, share).float().mean() <= 1.0
    assert bootstrap_mask(torch.tensor(3), 4, 1.0).all()


def test_members_of_all_processes_have_masks_of_their_own() -> None:
    group = torch.arange(400)
    masks = torch.cat([bootstrap_mask(group, 8, 0.5, process) for process in range(16)], 1).T.double()
    agreement = (masks @ masks.T + (1.0 - masks) @ (1.0 - masks).T) / len(group)
    assert (agreement - torch.eye(len(masks))).max() < 0.65  # half, but for five deviations of the mean of 400
