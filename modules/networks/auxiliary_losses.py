"""Losses of layers beside the one that a network is trained by, such as those that even out the load of a mixture.

An algorithm that trains a network opens a scope around the passes of its loss, and a layer that has losses of its own
hands them in, pass by pass. No layer keeps any:

    with collecting(network) as auxiliary:
        error = (network(x) - target).square().mean()
    terms = {"error": error, **auxiliary.losses}
    weights = {"error": 1.0, **auxiliary.weights}
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from modules.networks.passes import repeated


class _Open(threading.local):
    """Scopes that collect in this thread, the innermost last, and what watches them."""

    def __init__(self) -> None:
        self.scopes: list[collecting] = []
        self.watch: watching | None = None


_open = _Open()

_placeholders: weakref.WeakKeyDictionary[nn.Module, list[dict[str, weakref.ref[Tensor]]]] = weakref.WeakKeyDictionary()
"""By layer and pass: leaves in the place of losses, until a reentrant checkpoint repeats the pass with gradients."""


class collecting:
    """Scope in which the layers of a network hand in their auxiliary losses, once per pass with gradients.

    It may be entered again and then goes on. Of nested scopes the innermost gets a pass, of those whose network holds
    the layer. What is not handed in: passes outside, passes without gradients, passes of other networks, and passes
    that activation checkpointing makes once more on the way back. Every thread has scopes of its own, which get none
    of another thread's passes, also where both use one network.

    A reentrant checkpoint makes the graph of these losses only when its own output is gone back through. Where nothing
    that is descended depends on that output, the losses have their values, but their gradients are lost: use the output
    in the loss, or `use_reentrant=False`.

    Args:
        network: network whose layers hand in their losses.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._found: dict[nn.Module, str] | None = None
        self._passes: dict[str, list[tuple[Tensor, int]]] = {}
        self._weights: dict[str, float] = {}

    def __enter__(self) -> Self:
        _open.scopes.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _open.scopes.remove(self)
        if self._passes and not torch.compiler.is_compiling() and _open.watch is not None:
            # Here and not pass by pass: a compiled pass tells the scope alone.
            used = {key.rpartition("/")[0] for key in self._passes}
            _open.watch.collected.update(layer for layer, path in self._paths.items() if path in used)

    @property
    def _paths(self) -> dict[nn.Module, str]:
        """Of the network's layers; looked for when the first of them hands in losses, as most networks have none."""
        if self._found is None:
            self._found = {layer: path for path, layer in self._network.named_modules()}
        return self._found

    def __contains__(self, layer: nn.Module) -> bool:
        return layer in self._paths

    def add(self, layer: nn.Module, losses: Mapping[str, Tensor], weights: Mapping[str, float], tokens: int) -> None:
        """Take in the losses of one pass of a layer of the network, see `hand_in`."""
        path = self._paths[layer]
        for name, loss in losses.items():
            key = f"{path}/{name}" if path else name
            self._passes.setdefault(key, []).append((loss, tokens))
            self._weights[key] = weights[name]

    @property
    def losses(self) -> dict[str, Tensor]:
        """Unweighted losses by `module path/name`, means over the passes, each weighted by its number of tokens."""
        return {key: _mean(self._passes[key]) for key in self._ordered()}

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the losses, by the same names."""
        return {key: self._weights[key] for key in self._ordered()}

    def of_members(self, members: Iterable[nn.Module]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses of an ensemble's members side by side, not-a-number where a member that diverged handed in none.

        Args:
            members: `M` networks of equal layers, all within the network of this scope.

        Returns:
            `[M]` losses by `path within the member/name`, and their weights by the same names.
        """
        losses, weights = self.losses, self.weights
        if not losses:
            return {}, {}
        prefixes = [self._paths[member] for member in members]
        shared = {_below(key, p): weights[key] for p in prefixes for key in losses if _within(key, p)}
        unknown = torch.full_like(next(iter(losses.values())), torch.nan)
        rows = [{_below(key, p): loss for key, loss in losses.items() if _within(key, p)} for p in prefixes]
        return {name: torch.stack([row.get(name, unknown) for row in rows]) for name in shared}, shared

    def _ordered(self) -> list[str]:
        """Names in the order of the network's modules, whatever order they were called in."""
        places = {path: place for place, path in enumerate(self._paths.values())}
        return sorted(self._passes, key=lambda key: places[key.rpartition("/")[0]])


class watching:
    """Scope of one update, which finds layers that it trains while nobody collects their losses.

    A pass outside of all scopes is right where its loss only goes through the layer, as that of an actor does behind a
    critic, and where other passes of the layer are collected. So a layer counts as forgotten only if its own weights
    were descended in an update that collected none of its passes. Compiled passes outside are not seen.

    Attributes:
        outside: layers with losses of some weight that made a pass outside of all scopes.
        collected: layers of which a scope got a pass.
        descended: ids of the parameters that were trained, see `modules.agent.descent`.
    """

    def __init__(self) -> None:
        self.outside: set[nn.Module] = set()
        self.collected: set[nn.Module] = set()
        self.descended: set[int] = set()

    def __enter__(self) -> Self:
        self._before = _open.watch
        _open.watch = self
        return self

    def __exit__(self, *error: object) -> None:
        _open.watch = self._before

    def forgotten(self, network: nn.Module) -> list[str]:
        """Paths of the forgotten layers within a network."""
        suspects = self.outside - self.collected
        return [
            path
            for path, layer in (network.named_modules() if suspects else ())
            if layer in suspects and any(id(p) in self.descended for p in layer.parameters())
        ]


def note_descended(parameters: Iterable[nn.Parameter]) -> None:
    """Tell the watch of this update, if there is one, which parameters an optimiser has moved."""
    if not torch.compiler.is_compiling() and _open.watch is not None:
        _open.watch.descended.update(map(id, parameters))


def hand_in(layer: nn.Module, losses: Mapping[str, Tensor], weights: Mapping[str, float], tokens: int) -> None:
    """Give the losses of one pass to the scope that collects them, if there is one.

    Args:
        layer: layer that made the pass.
        losses: unweighted scalars by name, without a slash; none for a pass without gradients.
        weights: weights of the losses, by the same names.
        tokens: number of tokens in the pass, the weight of the losses among those of other passes.

    Raises:
        ValueError: a name has a slash, which stands between a layer's path and the name, or a loss has no weight.
    """
    if not losses:
        return
    for name in losses:
        if "/" in name:
            raise ValueError(f"{type(layer).__name__} hands in {name!r}: a loss's name must have no slash")
        if name not in weights:
            raise ValueError(f"{type(layer).__name__} hands in {name!r} without a weight: give weights[{name!r}]")
    if repeated():
        _backward_through_repetition(layer, losses)
        return
    for scope in reversed(_open.scopes):
        if layer in scope:
            scope.add(layer, losses if torch.is_grad_enabled() else _placeholders_of(layer, losses), weights, tokens)
            return
    if not torch.compiler.is_compiling() and _open.watch is not None and any(weights[name] for name in losses):
        _open.watch.outside.add(layer)


# -------------------------------------------------------------------------------------------- reentrant checkpointing
def _placeholders_of(layer: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leaves in the place of losses whose graph is made only when a reentrant checkpoint repeats the pass."""
    leaves = {name: loss.detach().clone().requires_grad_() for name, loss in losses.items()}
    waiting = [one for one in _placeholders.get(layer, []) if all(leaf() is not None for leaf in one.values())]
    _placeholders[layer] = [*waiting, {name: weakref.ref(leaf) for name, leaf in leaves.items()}]
    return leaves


def _backward_through_repetition(layer: nn.Module, losses: Mapping[str, Tensor]) -> None:
    """Send the gradients of a pass's leaves on through the losses of its repetition, which have the same values."""
    waiting = _placeholders.get(layer, [])
    for place, references in reversed(list(enumerate(waiting))):
        leaves = {name: leaf for name, reference in references.items() if (leaf := reference()) is not None}
        if all(name in leaves and torch.equal(leaves[name], loss) for name, loss in losses.items()):
            del waiting[place]
            gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
            if gradients:
                reached = [losses[name] for name in gradients]
                torch.autograd.backward(reached, list(gradients.values()), retain_graph=True)
            return


def _within(key: str, path: str) -> bool:
    """Whether a name is of a layer at this path, or below; all are below the empty path, the network's own."""
    return not path or key.startswith((f"{path}/", f"{path}."))


def _below(key: str, path: str) -> str:
    """A name of a layer at this path, or below, as the network at the path has it."""
    return key[len(path) + 1 :] if path else key


def _mean(passes: list[tuple[Tensor, int]]) -> Tensor:
    if len(passes) == 1:
        return passes[0][0]
    total = max(1, sum(tokens for _, tokens in passes))
    return torch.stack([loss * (tokens / total) for loss, tokens in passes]).sum()
