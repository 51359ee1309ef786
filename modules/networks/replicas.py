"""Sums over ranks; and parameters of which not every rank holds the same: who has a copy, and the mean of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from modules.torch_private import data_parallel_wrapper


def own_rank() -> int:
    """Index of this process among all that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


def average_over_ranks(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Mean of the gradients of all ranks' losses, by one flat all-reduce; the gradients themselves in one process.

    A parameter of spread experts, see `mark_replicas`, has a gradient that is summed over the ranks of its group
    already: it is added up among its replicas alone, and divided by the number of all ranks all the same.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return gradients
    averaged = list(gradients)
    groups = [getattr(p, "replicas", None) for p in parameters]
    for group in dict.fromkeys(groups):
        mine = [i for i, g in enumerate(groups) if g is group]
        flat = torch.cat([gradients[i].reshape(-1) for i in mine])
        if group is None or dist.get_world_size(group) > 1:
            dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size()
        for i, part in zip(mine, flat.split([gradients[i].numel() for i in mine]), strict=True):
            averaged[i] = part.view_as(gradients[i])
    return averaged


def add_over_ranks(*tensors: Tensor) -> list[Tensor]:
    """Sums over all ranks, by one flat all-reduce; the tensors themselves in one process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return list(tensors)
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    parts = flat.split([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]


def check_replicas(parameter: Tensor, group: ProcessGroup) -> None:
    """Refuse a parameter that differs between ranks where torch's own data parallel wrappers keep it equal.

    `DistributedDataParallel` writes the first rank's parameters over those of all others; FSDP cuts what it takes for
    one parameter into pieces, which are others without the mark.

    Args:
        parameter: parameter that is about to be used.
        group: group that `mark_replicas` was given.

    Raises:
        ValueError: it is in such a wrapper.
    """
    wrapper = data_parallel_wrapper()
    wrapped = wrapper is not None and any(parameter is p for p in wrapper.parameters())
    if wrapped or getattr(parameter, "replicas", None) is not group:
        raise ValueError(
            "experts that are spread over ranks cannot be in DistributedDataParallel or FSDP, which take every rank's "
            "for the same: set parallel_size to 1, or leave the wrapper out and average gradients by "
            "modules.networks.replicas.average_over_ranks"
        )


def mark_replicas(parameter: Tensor, group: ProcessGroup | None) -> None:
    """Say which ranks hold this parameter; None for all of them, as without a mark."""
    parameter.replicas = group  # type: ignore[attr-defined]
