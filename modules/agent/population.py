"""A population: members of one agent that differ in one hyper-parameter and in their seeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.arguments.checks import check_ranges, check_seed, check_sizes

_NOISE_STREAM = 100

MOST_MEMBERS = 10_000
"""Each has a curve, a row in the table and a run in MLflow."""


def one_or_more(values: float | list[float] | tuple[float, ...]) -> list[float]:
    """A hyper-parameter's value, or its values, one for each group of members."""
    return [float(x) for x in (values if isinstance(values, list | tuple) else [values])]


class Population:
    """`M = len(values) * seeds` members, value-major, that share a process and nothing else.

    Everything random in a member comes from streams that depend on its seed alone, so that it learns what it would
    learn without the others.

    Args:
        hyperparameter: name of the hyper-parameter that differs, such as `beta`; empty where members differ in their
            seeds alone, whatever the one value is.
        values: values of the hyper-parameter, with a group of members for each.
        seeds: number of members per value.
        seed: seed of the first member of each value.
        shared_batch: whether all seeds learn from one minibatch per update instead of one each.

    Raises:
        ValueError: a value stands twice, or there is no seed.
    """

    def __init__(
        self, hyperparameter: str, values: Sequence[float], seeds: int, seed: int, shared_batch: bool = False
    ) -> None:
        if len(set(values)) != len(values):
            raise ValueError(f"{hyperparameter} must hold distinct numbers, got {list(values)}")
        if not values:
            raise ValueError(f"{hyperparameter} must hold at least one number, got []")
        check_sizes(seeds=seeds)
        check_seed(seed=seed)
        check_ranges((f"seeds times values of {hyperparameter}", len(values) * seeds, 1, MOST_MEMBERS))
        self.hyperparameter = hyperparameter
        self.values = list(values)
        self.seeds = seeds
        self.seed = seed
        self.minibatches = 1 if shared_batch else seeds
        self.names: tuple[str, ...] = ("",)
        if len(self) > 1:
            groups = [f"{hyperparameter}={v:g}/" if hyperparameter else "" for v in values]
            self.names = tuple(f"{group}seed={seed + s}" for group in groups for s in range(seeds))
        self._noise: list[torch.Generator] = []

    def __len__(self) -> int:
        return len(self.values) * self.seeds

    def per_member(self) -> Tensor:
        """`[M]` hyper-parameter value of each member."""
        return torch.tensor(self.values).repeat_interleave(self.seeds)

    def generators(self, stream: int) -> list[torch.Generator]:
        """One generator per member for one purpose; members of the same seed draw the same numbers."""
        return [_generator(self.seed + m % self.seeds, stream, "cpu") for m in range(len(self))]

    def spread(self, x: Tensor, minibatches: int) -> Tensor:
        """Give every member its rows, one minibatch for all or one a seed: `[minibatches * B, ...] -> [M, B, ...]`."""
        x = x.unflatten(0, (minibatches, -1))
        return x.repeat(len(self) // minibatches, *[1] * (x.ndim - 1)) if minibatches < len(self) else x

    def for_members(self, x: Tensor) -> Tensor:
        """Give every member its seed's draws: `[seeds, ...] -> [M, ...]`."""
        return x.repeat(len(self) // len(x), *[1] * (x.ndim - 1)) if len(x) < len(self) else x

    def draw(self, shape: Sequence[int], device: torch.device, rank: int) -> Tensor:
        """`[seeds, *shape]` standard normal numbers, from one generator per seed and rank."""
        if torch.compiler.is_compiling():  # generators cannot enter a graph that the caller compiles
            return torch.randn(self.seeds, *shape, device=device)
        if not self._noise:  # not before device and rank are known
            self._noise = self._noise_generators(device, rank)
        return torch.stack([torch.randn(*shape, generator=g, device=device) for g in self._noise])

    def state_dict(self) -> list[Tensor]:
        """States of the generators that `draw` uses; empty before the first draw."""
        return [g.get_state() for g in self._noise]

    def load_state_dict(self, states: Sequence[Tensor], device: torch.device, rank: int) -> None:
        """Inverse of `state_dict`."""
        self._noise = self._noise_generators(device, rank) if states else []
        for generator, state in zip(self._noise, states, strict=True):
            generator.set_state(state.cpu())

    def _noise_generators(self, device: torch.device, rank: int) -> list[torch.Generator]:
        return [_generator(self.seed + s, _NOISE_STREAM + rank, device) for s in range(self.seeds)]


def _generator(seed: int, stream: int, device: torch.device | str) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed * 10_000 + stream)
