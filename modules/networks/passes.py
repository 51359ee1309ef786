"""Which passes count: each once, however activation checkpointing (`torch.utils.checkpoint`) repeats them.

A checkpoint makes a pass twice, and only its reentrant kind makes the first one without gradients. Whatever a layer
counts, moves or hands in belongs to the first.
"""

from __future__ import annotations

import torch
from torch.utils.module_tracker import ModuleTracker

from modules.torch_private import records_forward_gradients, transforms

_TRACKER = ModuleTracker()


def trains() -> bool:
    """Whether gradients of this pass are recorded, or will be when a reentrant checkpoint repeats it."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    # `torch.no_grad` leaves forward gradients on; an autograd.Function, such as that of a checkpoint, turns both off.
    return not records_forward_gradients() and not torch.is_inference_mode_enabled()


def repeated() -> bool:
    """Whether this pass is made on the way back, where activation checkpointing makes each pass once more."""
    return not torch.compiler.is_compiling() and _TRACKER.is_bw


def may_count() -> bool:
    """Whether a layer may change what it counts: not a second time, not in a file, and not in a `torch.func` transform,
    which must change nothing.
    """  # fmt: skip
    return not torch.compiler.is_exporting() and not repeated() and not transforms()
