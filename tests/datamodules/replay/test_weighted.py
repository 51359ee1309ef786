"""Draws in proportion to weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules.replay.weighted import WeightedSampler

NO_STORAGE: Any = None


def test_rows_are_drawn_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 6.0, 0.0])
    index, _ = WeightedSampler(weights, torch.Generator().manual_seed(0)).sample(NO_STORAGE, 50_000)
    share = torch.bincount(index, minlength=6) / len(index)
    torch.testing.assert_close(share, weights / 10.0, atol=0.01, rtol=0.0)
    assert (share[weights == 0.0] == 0.0).all()


@pytest.mark.parametrize(("draw", "row"), [(0.0, 1), (1.0 - 2.0**-53, 2)])
def test_the_ends_of_the_range_hit_rows_that_count(monkeypatch: pytest.MonkeyPatch, draw: float, row: int) -> None:
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.full((size,), draw, dtype=torch.float64))
    index, _ = WeightedSampler(torch.tensor([0.0, 1e-30, 0.3, 0.0]), torch.Generator()).sample(NO_STORAGE, 2)
    assert index.tolist() == [row, row]
