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


def test_rows_of_any_shape_have_a_spread_of_their_own() -> None:
    g = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(2, 3, 5, generator=g), torch.rand(2, 3, 5, generator=g)
    found = spread_of(mean, variance)
    for a in range(2):
        for b in range(3):
            row = mean[a, b].tolist()
            middle = sum(row) / 5
            assert float(found.mean[a, b]) == pytest.approx(middle, abs=1e-6)
            assert float(found.aleatoric[a, b]) == pytest.approx(sum(variance[a, b].tolist()) / 5)
            assert float(found.epistemic[a, b]) == pytest.approx(sum((x - middle) ** 2 for x in row) / 5)


def plain_hash(x: int) -> int:
    """The integer hash of Thomas Mueller, 32 bits."""
    x %= 2**32
    x = ((x >> 16) ^ x) * 0x45D9F3B % 2**32
    x = ((x >> 16) ^ x) * 0x45D9F3B % 2**32
    return (x >> 16) ^ x


def test_masks_are_those_of_a_hash_of_plain_integers() -> None:
    """They must not change: a run that goes on would have its members learn of other episodes."""
    groups = [0, 1, 2, 312, 70_000, 2**31 + 5, 2**32 + 1, -1, -70_001]
    for process in (0, 1, 5):
        found = bootstrap_mask(torch.tensor(groups), 6, 0.3, process).tolist()
        for row, group in zip(found, groups, strict=True):
            salts = [(m * 0x3C6EF372 % 2**32) ^ (process * 0x9E3779B1 % 2**32) for m in range(1, 7)]
            assert row == [plain_hash(plain_hash(group) ^ salt) < 0.3 * 2**32 for salt in salts]


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
