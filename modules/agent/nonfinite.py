"""Whether an update was finite, and what was not first: of the batch, weights, networks, losses or gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.descent import optimizers_of
from modules.contracts import Update
from modules.torch_private import absolute_sums


class NotFinite(NamedTuple):
    """Something that is not finite.

    Attributes:
        place: part of an update that it belongs to: batch, weights, outputs, losses or gradients, in this order.
        name: its name there.
        about: where in it and what, for a message.
    """

    place: str
    name: str
    about: str


def infinite_updates(agent: nn.Module, update: Update, members: int) -> Tensor:
    """1 where an update was not finite and 0 where it was, a scalar on the agent's device: nothing waits for it.

    A gradient that is not finite leaves a mean of squares in its optimiser that is not, whatever is clipped: those are
    looked at, and the metrics. They can be looked at behind compiled and captured updates, too. Members of a population
    share their tensors: of them the metrics alone are looked at, and one that is finite is enough.

    Args:
        agent: the agent, after the update.
        update: the update's outcome.
        members: number of its members.
    """
    if members > 1:
        rows = [value.float().expand(members) for value in update.metrics.values()]
        return (~torch.stack(rows).isfinite().all(0).any()).float()
    sizes = absolute_sums([tensor for optimizer in optimizers_of(agent) for _, _, tensor in _moments(optimizer)])
    values = [*sizes, *update.metrics.values()]
    return (~torch.cat([value.detach().float().reshape(-1) for value in values]).isfinite().all()).float()


def in_tensors(place: str, tree: Any) -> list[NotFinite]:
    """Those of the tensors in a nesting that hold a number that is not finite, in its order."""
    named = ((name, tensor) for name, tensor in named_tensors(tree) if tensor.is_floating_point())
    return [NotFinite(place, name, about(tensor)) for name, tensor in named if not bool(tensor.isfinite().all())]


def in_weights(agent: nn.Module) -> list[NotFinite]:
    """Parameters that are not finite; buffers may hold infinities as what they were never set to."""
    return in_tensors("weights", dict(agent.named_parameters()))


def in_gradients(agent: nn.Module) -> list[NotFinite]:
    """Parameters whose moments are not finite, which their gradients were not, then."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in agent.named_parameters()}
    kept = (entry for optimizer in optimizers_of(agent) for entry in _moments(optimizer))
    return in_tensors("gradients", {f"{names.get(p, 'a parameter')} {key}".strip(): x for p, key, x in kept})


@contextmanager
def traced_outputs(agent: nn.Module, most: int = 20) -> Iterator[list[NotFinite]]:
    """A list of the parts of an agent whose outputs hold NaN or infinity, in the order in which they return.

    What masks an action is minus infinity, and healthy. Parts that are compiled are passed over without a word.

    Args:
        agent: the agent.
        most: number of entries at which the list ends.
    """
    found: list[NotFinite] = []

    def look(name: str, output: Any) -> None:
        for inner, tensor in named_tensors(output):
            if len(found) < most and tensor.is_floating_point():
                try:
                    wrong = bool((tensor.isnan() | (tensor == torch.inf)).any())
                except RuntimeError:  # within torch.func, whose tensors have no values yet
                    continue
                if wrong:
                    found.append(NotFinite("outputs", " ".join(part for part in (name, inner) if part), about(tensor)))

    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, part in agent.named_modules()
        if name
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def named_tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nesting of mappings, TensorDicts, tuples and lists, with the path to it."""
    if isinstance(tree, Tensor):
        yield name, tree
        return
    if isinstance(tree, tuple) and hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, Mapping | TensorDictBase):
        entries = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        entries = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return
    for key, value in entries:
        yield from named_tensors(value, f"{name}/{key}" if name else key)


def about(tensor: Tensor) -> str:
    """The first number that is not finite, its place, and how many there are."""
    wrong = ~tensor.detach().isfinite()
    count = int(wrong.sum())
    if not count:
        return "finite"
    first = int(wrong.flatten().nonzero()[0])
    place = [int(index) for index in torch.unravel_index(torch.tensor(first), tensor.shape)] if tensor.ndim else []
    value = float(tensor.detach().flatten()[first])
    return f"{place or ''} {value}, {count:,} of {tensor.numel():,} numbers".strip()


def executed_plainly(agent: Any, batch: Any, update: Callable[[], Update]) -> Callable[[], Update] | None:
    """An update in a form in which the outputs of its networks can be looked at; None where there is no such form."""
    if agent.compile_mode in ("off", "auto"):
        return update
    if agent.compile_mode not in ("update", "tried", "captured"):
        return None

    def plain() -> Update:
        rows = agent.read(batch)
        noise = agent.noise_for(rows)
        result: Update = agent.learn(rows) if noise is None else agent.learn(rows, noise)
        return result

    return plain


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, str, Tensor]]:
    """Every trained parameter with its optimiser's means of squares, by name: nothing overflows before them.

    Of an optimiser without any, its other moments; of one that keeps none, the parameter itself.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            kept = [(key, x) for key, x in optimizer.state.get(p, {}).items() if isinstance(x, Tensor) and x.ndim]
            kept = [(key, x) for key, x in kept if "sq" in key] or kept
            yield from ((p, key, x.detach()) for key, x in kept or [("", p)] if x.numel())
