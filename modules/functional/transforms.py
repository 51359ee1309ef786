"""Invertible maps and clips of values and actions."""

from __future__ import annotations

from torch import Tensor


def clip_straight_through(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp in the forward pass, identity in the backward pass.

    A plain clamp has no gradient where it binds, so a value that has left the range would never be pulled back.
    """
    return x + (x.clamp(low, high) - x).detach()


def to_unit(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `[..., A]` actions from the box `[low, high]` to `[-1, 1]`."""
    return 2.0 * (action - low) / (high - low) - 1.0


def from_unit(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `[..., A]` actions from `[-1, 1]` to the box `[low, high]`."""
    return low + 0.5 * (action + 1.0) * (high - low)
