"""Moved images equal those of a loop that pads and cuts; brightness is that of clipped normal draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.functional.augmentation import brightness, shifted


def plain_shift(image: Tensor, pad: int, down: int, right: int) -> Tensor:
    """`[H, W, C]` padded by its edge, `pad` pixels wide, and cut at the place that moves it so far."""
    height, width, channels = image.shape
    padded = torch.zeros(height + 2 * pad, width + 2 * pad, channels, dtype=image.dtype)
    for r in range(height + 2 * pad):
        for c in range(width + 2 * pad):
            padded[r, c] = image[min(max(r - pad, 0), height - 1), min(max(c - pad, 0), width - 1)]
    return padded[pad - down : pad - down + height, pad - right : pad - right + width]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_moved_images_are_padded_by_their_edge_and_cut(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    offset = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4))
    image = torch.randint(0, 256, (len(offset), 6, 5, 2), generator=g).to(dtype)
    expected = [plain_shift(x, 3, down, right) for x, (down, right) in zip(image, offset.tolist(), strict=True)]
    found = shifted(image, offset)
    assert found.dtype == dtype
    assert torch.equal(found, torch.stack(expected))


def test_brightness_lies_within_two_deviations_around_one() -> None:
    found = brightness(torch.tensor([-7.0, -1.0, 0.0, 0.5, 2.0, 3.0]), 0.05)
    torch.testing.assert_close(found, torch.tensor([0.9, 0.95, 1.0, 1.025, 1.1, 1.1]))
