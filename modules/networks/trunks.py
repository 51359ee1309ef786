"""Ensembles whose members are networks of any kind, where `EnsembleMLP` stacks multilayer perceptrons."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import ALL, EnsembleLinear, EnsembleMLP, Initializer

Trunk = Callable[[int, int], nn.Module]
"""Makes the layers between input and output layer, called with `(d_in, features)`; a class, or a partial of one."""


CRITICS = 2
"""Number of critics per member."""


class EnsembleTrunk(nn.Module):
    """`M` networks of any kind, one module each, under a stacked output layer: `[M, B, in] -> [M, B, out]`.

    Stands where an `EnsembleMLP` does. The output layer runs in float32, as there.

    Args:
        members: number of networks `M`.
        d_in: width of the input.
        features: width of the trunk's output, which the output layer takes.
        d_out: width of the output.
        trunk: makes one member's network `[B, in] -> [B, features]`.
        initializer: function that fills one member's output layer; a trunk initialises itself.
        generators: one random generator per member, so that it starts as it would alone.
    """

    def __init__(
        self,
        members: int,
        d_in: int,
        features: int,
        d_out: int,
        trunk: Trunk,
        initializer: Initializer,
        generators: Sequence[torch.Generator],
    ) -> None:
        super().__init__()
        self.features = features
        made = []
        for member in range(members):
            with global_draws_from(generators[member]):
                made.append(trunk(d_in, features))
        self.trunks = nn.ModuleList(made)
        self.output = EnsembleLinear(members, d_in=features, d_out=d_out)
        self.output.reset_parameters(initializer, generators)

    def forward(self, x: Tensor, members: slice = ALL) -> Tensor:
        """Evaluate all members, or a slice of them on `[len(slice), B, in]` inputs of their own."""
        trunks = list(self.trunks)[members]
        features = torch.stack([self._features(trunk, rows) for trunk, rows in zip(trunks, x.unbind(), strict=True)])
        with torch.autocast(x.device.type, enabled=False):
            return self.output(features.float(), members)

    def _features(self, trunk: nn.Module, rows: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return trunk(rows)
        try:
            return trunk(rows)
        except ValueError:  # mixtures refuse what is not finite, but a member that diverged must not stop the others
            tensors = [rows, *trunk.parameters()]
            if all(bool(t.isfinite().all()) for t in tensors):
                raise
            return (torch.nan * torch.stack([t.sum() for t in tensors]).sum()).expand(len(rows), self.features)

    def member(self, index: int) -> nn.Sequential:
        """One member as a plain `nn.Sequential` of copies: `[B, in] -> [B, out]`."""
        return nn.Sequential(copy.deepcopy(self.trunks[index]), self.output.member(index))


class EncodedEnsemble(nn.Module):
    """An ensemble whose members encode a part of their input first: `[M, B, pixels + rest] -> [M, B, out]`.

    Args:
        encoder: one encoder per member, `[M, B, pixels] -> [M, B, width]`.
        layers: ensemble of `[M, B, width + rest] -> [M, B, out]`.
        pixels: width of what is encoded, at the front of the input.
    """

    def __init__(self, encoder: nn.Module, layers: Ensemble, pixels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = layers
        self.pixels = pixels

    def forward(self, x: Tensor, members: slice = ALL) -> Tensor:
        """Evaluate all members, or a slice of them on inputs of their own."""
        seen, rest = x.split([self.pixels, x.shape[-1] - self.pixels], -1)
        return self.layers(torch.cat([self.encoder(seen, members), rest], -1), members)

    def member(self, index: int) -> EncodedMember:
        """One member as it is defined, of copies: `[B, pixels + rest] -> [B, out]`."""
        return EncodedMember(self.encoder.member(index), self.layers.member(index), self.pixels)  # type: ignore[operator]  # a method of every stacked encoder


class EncodedMember(nn.Module):
    """One member of an `EncodedEnsemble`, with the same arguments."""

    def __init__(self, encoder: nn.Module, layers: nn.Module, pixels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = layers
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        """`[B, pixels + rest] -> [B, out]`."""
        return self.layers(torch.cat([self.encoder(x[..., : self.pixels]), x[..., self.pixels :]], -1))


Ensemble = EnsembleMLP | EnsembleTrunk | EncodedEnsemble
"""Any stacked network that `make_ensemble` makes."""


class Front(ABC):
    """Stands where a trunk does and makes the whole ensemble, with networks before its layers."""

    @abstractmethod
    def ensemble(
        self,
        members: int,
        d_in: int,
        hidden: Sequence[int],
        d_out: int,
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        layer_norm: bool,
    ) -> EncodedEnsemble:
        """The ensemble; the arguments are those of `make_ensemble`."""

    def __call__(self, d_in: int, features: int) -> nn.Module:
        """Refused: it makes ensembles.

        Raises:
            TypeError: always.
        """
        raise TypeError("a front makes whole ensembles, see make_ensemble")


def make_ensemble(
    members: int,
    d_in: int,
    hidden: Sequence[int],
    d_out: int,
    initializer: Initializer,
    generators: Sequence[torch.Generator],
    trunk: Trunk | None,
    layer_norm: bool = False,
) -> Ensemble:
    """Stacked perceptrons with these hidden widths, or members with a trunk that gives the last of the widths.

    Raises:
        ValueError: a trunk, which has layers of its own, is to be normalised.
    """
    if isinstance(trunk, Front):
        return trunk.ensemble(members, d_in, hidden, d_out, initializer, generators, layer_norm)
    if trunk is None:
        return EnsembleMLP(members, d_in, hidden, d_out, initializer, generators, layer_norm)
    if layer_norm:
        raise ValueError("critic.layer_norm normalises hidden layers, not a trunk; leave one of the two out")
    return EnsembleTrunk(members, d_in, hidden[-1], d_out, trunk, initializer, generators)


def make_twin_critics(
    members: int,
    d_in: int,
    hidden: Sequence[int],
    d_out: int,
    initializer: Initializer,
    streams: Sequence[Sequence[torch.Generator]],
    trunk: Trunk | None,
    layer_norm: bool,
) -> tuple[Ensemble, Ensemble]:
    """Critics of `M` members, and their targets, which start as copies and take no gradients.

    Critic `c` of member `m` is row `c * M + m`, so that one critic of all members is one slice.

    Args:
        streams: one random generator per member, for each of the critics.

    The others are those of `make_ensemble`, which raises.
    """
    generators = [generator for stream in streams for generator in stream]
    critics = make_ensemble(CRITICS * members, d_in, hidden, d_out, initializer, generators, trunk, layer_norm)
    return critics, copy.deepcopy(critics).requires_grad_(False)


def twin_values(critics: Ensemble, observation: Tensor, action: Tensor, index: int | None = None) -> Tensor:
    """Values of `M` members' `C` critics, stacked critic by critic: critic `c` of member `m` is row `c * M + m`.

    Args:
        critics: `[C * M, B, D + A] -> [C * M, B, 1]`.
        observation: `[M, B, D]`.
        action: `[M, B, A]`.
        index: index of one critic alone; None for all.

    Returns:
        `[C, M, B]`, or `[1, M, B]` of the critic with this index.
    """
    x = torch.cat([observation, action], -1)
    if index is not None:
        return critics(x, slice(index * len(x), (index + 1) * len(x))).view(1, *x.shape[:2])
    return critics(_for_both(x)).view(CRITICS, *x.shape[:2])


def twin_action_values(critics: Ensemble, observation: Tensor, index: int | None = None) -> Tensor:
    """As `twin_values`, of critics that give every one of `n` actions a value: `[C, M, B, n]`, or `[1, M, B, n]`.

    Args:
        critics: `[C * M, B, D] -> [C * M, B, n]`.
        observation: `[M, B, D]`.
        index: index of one critic alone; None for all.
    """
    members, rows = observation.shape[:2]
    if index is not None:
        return critics(observation, slice(index * members, (index + 1) * members)).unsqueeze(0)
    return critics(_for_both(observation)).view(CRITICS, members, rows, -1)


def _for_both(x: Tensor) -> Tensor:
    """`[M, ...]` for each of the critics, critic by critic; one member's rows are not copied."""
    return x.expand(CRITICS, *x.shape).flatten(0, 1)


def values_of(values: Tensor, action: Tensor) -> Tensor:
    """Values `[..., M, B]` of int64 actions `[M, B]` among those of all actions, `[..., M, B, n]`."""
    index = action.unsqueeze(-1).expand(*values.shape[:-1], 1)
    return values.gather(-1, index).squeeze(-1)


def losses_by_member(ensemble: Ensemble, auxiliary: collecting) -> tuple[dict[str, Tensor], dict[str, float]]:
    """`[M]` losses that the layers of an ensemble's trunks handed in, and their weights; see `collecting.of_members`.

    Args:
        ensemble: ensemble of `M` members.
        auxiliary: the scope of the ensemble's passes.
    """
    layers = ensemble.layers if isinstance(ensemble, EncodedEnsemble) else ensemble
    return auxiliary.of_members(layers.trunks) if isinstance(layers, EnsembleTrunk) else ({}, {})


@contextmanager
def global_draws_from(generator: torch.Generator) -> Iterator[None]:
    """Inside, torch's global CPU generator is seeded by a draw of this one; afterwards it is as if nothing happened."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
