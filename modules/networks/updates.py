"""Layers that take part in an update beyond their gradients: they draw noise in it, or adapt behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


class Noisy:
    """A layer that can draw noise.

    Attributes:
        noise: draw it always (true), never (false), or while `training` (None); free to be set at any time.
    """

    noise: bool | None


class Adapting:
    """A layer that learns something without gradients, such as how often it is used."""

    def after_update(self) -> None:
        """Adapt to the passes since the last call; once per optimiser step, on all ranks together."""
        raise NotImplementedError


def noisy_layers(network: nn.Module) -> dict[str, Noisy]:
    """All layers within a network that can draw noise, by module path."""
    return {path: layer for path, layer in network.named_modules() if isinstance(layer, Noisy)}


def adapting_layers(network: nn.Module) -> list[Adapting]:
    """All layers within a network that adapt after an update, but for those of frozen copies, which follow others."""
    return [layer for layer in network.modules() if isinstance(layer, Adapting) and learns(layer)]


def learns(layer: object) -> bool:
    """Whether a layer has a parameter that is trained."""
    return isinstance(layer, nn.Module) and any(parameter.requires_grad for parameter in layer.parameters())


def set_noise(network: nn.Module, noise: bool | None) -> None:
    """Set the noise switch of every layer within a network."""
    for layer in noisy_layers(network).values():
        layer.noise = noise


@contextmanager
def noise_set(layers: Iterable[Noisy], noise: bool | None) -> Iterator[None]:
    """Set the noise switch of these layers for the time of a `with` block."""
    before = {layer: layer.noise for layer in layers}
    try:
        for layer in before:
            layer.noise = noise
        yield
    finally:
        for layer, switch in before.items():
            layer.noise = switch


def hold_noise(network: nn.Module) -> list[Noisy]:
    """Switch off the noise of layers that would draw it while `training`.

    Returns:
        Those of them that learn, whose noise an update may switch on.

    Raises:
        ValueError: a layer draws noise always.
    """
    held = []
    for path, layer in noisy_layers(network).items():
        if layer.noise:
            where = path or type(layer).__name__
            raise ValueError(f"{where}: an agent draws noise in updates alone; leave noise: true out")
        if layer.noise is None:
            layer.noise = False
            held += [layer] if learns(layer) else []
    return held
