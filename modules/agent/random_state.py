"""State of the global random generators of one process, in types that `weights_only=True` can load."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """The generators of python, numpy and torch, and that of `device` where it is a CUDA device."""
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    keys = torch.from_numpy(numpy["state"]["key"].astype(np.int64))  # 32-bit unsigned tensors cannot be loaded
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (numpy["bit_generator"], keys, numpy["state"]["pos"], int(numpy["has_gauss"]), float(numpy["gauss"])),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Inverse of `random_state`; the CUDA generator is left out where the run moved to or from the CPU."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextmanager
def isolated_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the global generators start from `seed`; afterwards they are as if nothing had been drawn."""
    state = random_state(device)
    random.seed(seed)
    # numpy takes seeds of 32 bits alone.
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_state(state, device)
