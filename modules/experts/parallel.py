"""Experts of a mixture spread over ranks: each rank keeps its share of them and computes it for the tokens of others.

A mixture with `parallel_size = P` is built whole on every rank, as it is in a checkpoint, and is taken apart when
training starts: of `W` ranks, each run of `P` neighbours holds one set of experts, and the `W / P` sets are replicas of
each other. Everything else is whole on every rank, and all ranks have data of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from modules.experts.banks import ExpertMLP
from modules.experts.exchange import Place
from modules.experts.layer import sparse_layers
from modules.networks.replicas import mark_replicas
from modules.networks.resizing import change_entries


def check_parallel_sizes(network: nn.Module, world_size: int) -> None:
    """Refuse mixtures that cannot be spread over so many ranks.

    Raises:
        ValueError: a `parallel_size` that does not divide the ranks, or the experts.
    """
    for path, layer in sparse_layers(network).items():
        size, name = layer.parallel_size, path or "the mixture"
        if world_size % size:
            raise ValueError(
                f"parallel_size={size} of {name} does not divide the {world_size} processes of this run: set it to 1, "
                f"or trainer.devices to a multiple of {size}"
            )
        if layer.num_experts % size:  # after pruning; the constructor looks too
            raise ValueError(f"parallel_size={size} of {name} does not divide its {layer.num_experts} experts")


def shard_experts(network: nn.Module, optimizers: Sequence[Optimizer] = ()) -> None:
    """Keep only this rank's share of the experts of all mixtures with a `parallel_size`; called on all ranks together.

    Parameters and their state in the optimisers shrink in place; all ranks must hold equal ones. From then on every
    pass, with gradients or without, must be made on all ranks of a group together.

    Raises:
        ValueError: as `check_parallel_sizes` does.
    """
    layers = [layer for layer in sparse_layers(network).values() if layer.parallel_size > 1]
    if not layers:
        return
    world = dist.get_world_size()
    check_parallel_sizes(network, world)
    places = {}
    for size in sorted({layer.parallel_size for layer in layers}):
        ranks = torch.arange(world).view(-1, size)
        places[size] = Place(_own_group(ranks), _own_group(ranks.T))
    for layer in layers:
        assert isinstance(layer.experts, ExpertMLP)
        _take_share(layer.experts, places[layer.parallel_size], optimizers)


def join_experts(network: nn.Module, optimizers: Sequence[Optimizer] = ()) -> None:
    """Make all mixtures whole again on every rank, with the optimisers' state; the inverse of `shard_experts`."""
    for experts in _spread(network):
        _gather(experts, optimizers)


@contextmanager
def whole_experts(network: nn.Module, optimizers: Sequence[Optimizer] = ()) -> Iterator[None]:
    """Inside, all mixtures are whole on every rank, and any rank may use, copy or save them alone.

    Entered on all ranks together. The state of other optimisers than the given ones stays apart.
    """
    places = [(experts, experts.place) for experts in _spread(network)]
    join_experts(network, optimizers)
    try:
        yield
    finally:
        for experts, place in places:
            assert place is not None
            _take_share(experts, place, optimizers)


def _own_group(ranks: Tensor) -> ProcessGroup:
    """Make a group of each row of ranks, on all ranks together; the own one."""
    group, _ = dist.new_subgroups_by_enumeration(ranks.tolist())
    assert isinstance(group, ProcessGroup)
    return group


def _spread(network: nn.Module) -> list[ExpertMLP]:
    banks = [layer.experts for layer in sparse_layers(network).values()]
    return [bank for bank in banks if isinstance(bank, ExpertMLP) and bank.place is not None]


def _take_share(experts: ExpertMLP, place: Place, optimizers: Sequence[Optimizer]) -> None:
    device = experts.first.weight.device
    shares = torch.arange(len(experts.first.weight), device=device).chunk(dist.get_world_size(place.group))
    experts.keep(shares[dist.get_rank(place.group)], optimizers)
    experts.place = place
    # Other ranks hold other experts: only gradients of the same ones may be averaged.
    for parameter in experts.parameters():
        mark_replicas(parameter, place.replicas)


def _gather(experts: ExpertMLP, optimizers: Sequence[Optimizer]) -> None:
    place, experts.place = experts.place, None
    assert place is not None
    ranks = dist.get_world_size(place.group)

    def joined(share: Tensor) -> Tensor:
        whole = share.new_empty(ranks * len(share), *share.shape[1:])
        dist.all_gather_single(whole, share.contiguous(), group=place.group)
        return whole

    for parameter in experts.parameters():
        change_entries(parameter, joined, optimizers)
        mark_replicas(parameter, None)
