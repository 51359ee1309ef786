"""GPUs that processes of one command share."""

from __future__ import annotations

import os


def visible_devices() -> list[str]:
    """GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part for part in named.split(",") if part]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
