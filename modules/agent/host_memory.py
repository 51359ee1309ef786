"""Memory of the process that the allocator gives back to the system between updates, only to ask for it again."""

from __future__ import annotations

import torch

LARGEST_KEPT = 32 << 20
"""Bytes of the largest piece that glibc keeps by its own rule; it gives back what is free beyond twice as much."""


def keep_freed_memory() -> None:
    """Let freed tensors of up to 32 MiB stay in the process.

    Every page that comes from the system has to be cleared, which takes an update of a small agent a tenth of its time.
    glibc raises its limit to the size of the largest piece that was freed so far, so one is freed here; its pages are
    never touched. Limits that the user has set by `MALLOC_TRIM_THRESHOLD_` and the like stay, and other allocators are
    not told anything.
    """
    torch.empty(LARGEST_KEPT - (64 << 10), dtype=torch.uint8)
