"""Probes of labelled quantities: fitted to features of some rows, and judged on features of others.

A quantity is a class, of which the probe gives each value a score, or an amount, which it predicts. All quantities are
read off by one probe; those that do not vary are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.functional.probes import accuracy, explained_share, ridge, standardised
from modules.networks.ensemble import EnsembleMLP, torch_default

RIDGE = 1e-3
"""Strength of the linear probe's penalty, of features of deviation 1."""
HIDDEN, UPDATES, BATCH, RATE = 64, 300, 128, 3e-3
"""Width of the hidden layer; number of updates of that probe, rows of each and Adam's learning rate."""


class Quantity(NamedTuple):
    """A quantity and its place among the outputs of a probe.

    Attributes:
        name: its name.
        columns: its outputs: one of an amount, one for each value of a class.
        train: its targets, `[n]`: numbers of the values of a class, int64; else amounts in units of their deviation.
        test: the same `[m]` of the rows that are judged; -1 for values of a class that were not learned.
    """

    name: str
    columns: slice
    train: Tensor
    test: Tensor

    @property
    def is_class(self) -> bool:
        """Whether it is a class."""
        return not self.train.is_floating_point()

    @property
    def measure(self) -> str:
        """The name of its score."""
        return "accuracy" if self.is_class else "R2"


def quantities(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray], device: torch.device) -> list[Quantity]:
    """The quantities that vary, by labels `[n]` of rows to learn from and `[m]` of rows that are judged."""
    found: list[Quantity] = []
    for name, values in train.items():
        if min(values.min(), test[name].min()) == max(values.max(), test[name].max()):
            continue
        first = found[-1].columns.stop if found else 0
        if values.dtype.kind == "f":
            mean, deviation = values.mean(), max(values.std(), 1e-12)
            learned, judged = (torch.from_numpy((x - mean) / deviation).float() for x in (values, test[name]))
            width = 1
        else:
            known = np.unique(values)
            place = np.searchsorted(known, test[name]).clip(max=len(known) - 1)
            place = np.where(known[place] == test[name], place, -1)
            learned, judged = (torch.from_numpy(x).long() for x in (np.searchsorted(known, values), place))
            width = len(known)
        found.append(Quantity(name, slice(first, first + width), learned.to(device), judged.to(device)))
    return found


def score_probes(
    asked: list[Quantity], train: Tensor, test: Tensor, seed: int, shuffled: bool = False
) -> dict[str, dict[str, list[float]]]:
    """Scores of a linear probe and of one with a hidden layer.

    Args:
        asked: quantities.
        train: `[P, n, D]` features of the rows that are learned from, one entry for each of `P` probes.
        test: `[P, m, D]` features of the rows that are judged.
        seed: of all that is drawn.
        shuffled: whether every row to learn from gets the quantities of another one: what remains is chance.

    Returns:
        By kind of probe and by name of the quantity `P` scores: share of right values, or share of the variance
        that is explained, below 0 where the mean of all would be better.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(train.shape[1], generator=generator) if shuffled else torch.arange(train.shape[1])
    asked = [one._replace(train=one.train[rows.to(train.device)]) for one in asked]
    pairs = [standardised(*pair) for pair in zip(train.float(), test.float(), strict=True)]
    train, test = (torch.stack(part) for part in zip(*pairs, strict=True))
    outputs = {"linear": _linear(asked, train, test), "hidden": _hidden(asked, train, test, generator)}
    return {kind: {one.name: _score(one, output) for one in asked} for kind, output in outputs.items()}


def _score(one: Quantity, output: Tensor) -> list[float]:
    said = output[..., one.columns]
    score = accuracy(said, one.test) if one.is_class else explained_share(said.squeeze(-1), one.test)
    found: list[float] = score.tolist()
    return found


def _linear(asked: list[Quantity], train: Tensor, test: Tensor) -> Tensor:
    """`[P, m, C]` outputs of least squares, of classes as ones and zeros."""
    target = torch.cat([F.one_hot(q.train).float() if q.is_class else q.train.unsqueeze(-1) for q in asked], -1)
    return torch.stack([ridge(*pair, strength=RIDGE) for pair in _with(target, train, test)]).float()


def _with(target: Tensor, train: Tensor, test: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(x, target, seen) for x, seen in zip(train, test, strict=True)]


def _hidden(asked: list[Quantity], train: Tensor, test: Tensor, generator: torch.Generator) -> Tensor:
    """`[P, m, C]` outputs of networks with one hidden layer, after a fixed number of updates."""
    probes, count, width = train.shape
    seed = int(torch.randint(2**31, (), generator=generator))
    starts = [torch.Generator().manual_seed(seed) for _ in range(probes)]  # all alike, so that steps compare
    network = EnsembleMLP(probes, width, [HIDDEN], asked[-1].columns.stop, torch_default, starts).to(train.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    for _ in range(UPDATES):
        rows = torch.randint(count, (BATCH,), generator=generator).to(train.device)
        with torch.enable_grad():
            output = network(train[:, rows])
            loss = torch.stack([_loss(one, output[..., one.columns], one.train[rows]) for one in asked]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network(test)


def _loss(one: Quantity, output: Tensor, target: Tensor) -> Tensor:
    """Sum over the probes, which have nothing in common, of mean losses over `[P, B, C]` outputs."""
    target = target.expand(output.shape[:-1])
    if one.is_class:
        return len(output) * F.cross_entropy(output.flatten(0, 1), target.flatten())
    return len(output) * F.mse_loss(output.squeeze(-1), target)
