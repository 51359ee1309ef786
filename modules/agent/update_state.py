"""All that one update of an agent changes: copied, put back, and compared to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.agent.descent import optimizers_of
from modules.agent.events import Announcing
from modules.agent.random_state import random_state, set_random_state
from modules.contracts import HasRankState
from modules.functional.recurrent_state import map_leaves
from modules.torch_private import copy_


class Difference(NamedTuple):
    """A tensor or value that is not the same twice.

    Attributes:
        name: name of the parameter, buffer or state.
        about: what is different, for a message.
    """

    name: str
    about: str


class UpdateState:
    """Copies of an agent's weights, buffers and moments, and of the generators that it draws from.

    It is what a checkpoint holds of an update, buffers that checkpoints leave out, and what callbacks learn in updates.

    Args:
        agent: agent with optimisers of its own as attributes.
    """

    def __init__(self, agent: nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.optimizers: list[dict[Tensor, dict[str, Any]]] = []
        self.take(agent)

    @torch.no_grad()
    def take(self, agent: nn.Module) -> None:
        """Copy the agent's state of now, into the memory of the copies from before where sizes are the same."""
        pairs: list[tuple[Tensor, Tensor]] = []
        self.tensors = _renewed(dict(_tensors(agent)), self.tensors, pairs)
        optimizers = optimizers_of(agent)
        before = self.optimizers if len(self.optimizers) == len(optimizers) else [{} for _ in optimizers]
        self.optimizers = [
            {p: _renewed(state, kept.get(p, {}), pairs) for p, state in optimizer.state.items()}
            for optimizer, kept in zip(optimizers, before, strict=True)
        ]
        if pairs:
            copy_([mine for mine, _ in pairs], [now for _, now in pairs])
        self.extra = {name: _copied(part.get_extra_state()) for name, part in _with_extra_state(agent)}
        self.own = _copied(agent.rank_state()) if isinstance(agent, HasRankState) else {}
        self.random = random_state(_device(agent))

    @torch.no_grad()
    def restore(self, agent: nn.Module, draws: bool = True) -> None:
        """Put everything back, tensors in place: what a compiled or captured update knows of them stays true.

        Args:
            agent: the agent that the state is of.
            draws: whether random generators are put back too, the agent's own with all else of `rank_state`; without,
                what follows draws other numbers.
        """
        for name, tensor in _tensors(agent):
            tensor.copy_(self.tensors[name])
        for name, part in _with_extra_state(agent):
            part.set_extra_state(_copied(self.extra[name]))
        for optimizer, saved in zip(optimizers_of(agent), self.optimizers, strict=True):
            for parameter, state in optimizer.state.items():
                _put_back(state, saved.get(parameter, {}))
        if draws and isinstance(agent, HasRankState):
            agent.load_rank_state(_copied(self.own))
        if draws:
            set_random_state(self.random, _device(agent))

    def differences(self, other: UpdateState, agent: nn.Module) -> list[Difference]:
        """Everything in which another state of the same agent differs, weights first, in the order of the networks."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in agent.named_parameters()}
        found = list(differences(self.tensors, other.tensors))
        for mine, theirs in zip(self.optimizers, other.optimizers, strict=True):
            for parameter in mine.keys() | theirs.keys():
                place = f"the optimiser's state of {names.get(parameter, 'a parameter')}"
                found += differences(mine.get(parameter, {}), theirs.get(parameter, {}), place)
        found += differences(self.extra, other.extra, "counts")
        found += differences(self.own, other.own, "the agent's own state")
        return [*found, *differences(self.random, other.random, "random generators")]


def differences(mine: Any, theirs: Any, name: str = "") -> Iterator[Difference]:
    """Leaves of two nestings that are not equal to the bit; two NaN of the same bits are equal.

    Args:
        mine: tensors and plain values in any nesting of mappings, lists and tuples.
        theirs: the like.
        name: name of what is compared; places within are added to it.
    """
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        if (about := _difference(mine, theirs)) is not None:
            yield Difference(name, about)
    elif isinstance(mine, Mapping) and isinstance(theirs, Mapping) and mine.keys() == theirs.keys():
        for key, item in mine.items():
            yield from differences(item, theirs[key], f"{name} {key}".strip())
    elif isinstance(mine, list | tuple) and isinstance(theirs, list | tuple) and len(mine) == len(theirs):
        for index, (one, two) in enumerate(zip(mine, theirs, strict=True)):
            yield from differences(one, two, f"{name}[{index}]")
    elif type(mine) is not type(theirs) or mine != theirs:
        yield Difference(name, "is not the same" if isinstance(mine, Mapping | list | tuple) else f"{mine}, {theirs}")


def _difference(mine: Tensor, theirs: Tensor) -> str | None:
    """Where two tensors differ first and by what, for a message; None where all bits are equal."""
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return f"is {list(mine.shape)} {mine.dtype}, then {list(theirs.shape)} {theirs.dtype}"
    bits = [
        x.detach().contiguous().flatten().view(torch.uint8).unflatten(0, (-1, x.element_size())) for x in (mine, theirs)
    ]
    unequal = (bits[0] != bits[1]).any(-1) if mine.numel() else torch.zeros(0)
    count = int(unequal.sum())
    if not count:
        return None
    first = int(unequal.nonzero()[0])
    values = " and ".join(repr(x.flatten()[first].item()) for x in (mine, theirs))
    place = [int(index) for index in torch.unravel_index(torch.tensor(first), mine.shape)] if mine.ndim else []
    return f"{place}: {values}, {count:,} of its {mine.numel():,} numbers"


def _tensors(agent: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, those that checkpoints leave out too, and what callbacks learn in updates."""
    yield from agent.named_parameters()
    yield from agent.named_buffers()
    if isinstance(agent, Announcing):
        yield from agent.tensors_of_participants()


def _with_extra_state(agent: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in agent.named_modules():
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            yield name, part


def _put_back(state: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Make the state of a parameter what it was; an optimiser may make it at its first step alone."""
    for key in [key for key in state if key not in saved]:
        del state[key]
    for key, value in saved.items():
        if isinstance(value, Tensor) and isinstance(state.get(key), Tensor):
            state[key].copy_(value)
        else:
            state[key] = _copied(value)


def _renewed(now: Mapping[str, Any], kept: Mapping[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Copies of values by name; tensors that fit into a kept one are left to `pairs`, to be copied all at once."""
    found = {}
    for name, value in now.items():
        old = kept.get(name)
        if not isinstance(value, Tensor):
            found[name] = copy.deepcopy(value)
        elif isinstance(old, Tensor) and (old.shape, old.dtype, old.device) == (value.shape, value.dtype, value.device):
            found[name] = old
            pairs.append((old, value.detach()))
        else:
            found[name] = value.detach().clone()
    return found


def _copied(tree: Any) -> Any:
    """The nesting with copies of its tensors and values."""
    return map_leaves(lambda x: x.detach().clone() if isinstance(x, Tensor) else copy.deepcopy(x), tree)


def _device(agent: nn.Module) -> torch.device:
    return next((p.device for p in agent.parameters()), torch.device("cpu"))
