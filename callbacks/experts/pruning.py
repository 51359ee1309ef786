"""When and how unused experts are removed from mixtures, and from the copies that follow them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.experts.layer import SparseMoE, sparse_layers
from modules.experts.routers import ExpertChoice, Soft

ROWS_PER_EXPERT = 50  # on average, before "never used" says anything about an expert


@dataclass(frozen=True)
class Pruning:
    """Which experts are removed, and when.

    Attributes:
        start: number of updates before the window in which no noise is drawn.
        window: number of updates of that window.
        min_share: share of a mixture's rows; an expert that gets no more is removed.
    """

    start: int
    window: int
    min_share: float

    @property
    def end(self) -> int:
        """Updates after which experts are removed."""
        return self.start + self.window

    def is_due(
        self, trainer: Trainer, layers: Mapping[str, SparseMoE], updates: int, opened: bool, done: int | None
    ) -> bool:
        """Whether it is still to come.

        Args:
            trainer: trainer of the run.
            layers: mixtures that learn, by module path.
            updates: number of updates that were done.
            opened: the window was opened before.
            done: updates after which the run was pruned, if it was.

        Raises:
            ValueError: the moment is past or behind the end of the run, or there is a mixture that cannot be pruned,
                or none that has unused experts.
        """
        for path, layer in layers.items() if trainer.world_size > 1 else ():
            if layer.parallel_size > 1:
                raise ValueError(
                    f"Experts: {path} is spread over processes and cannot be pruned there: set its parallel_size to 1, "
                    "or leave prune_after out"
                )
        if all(_all_used(layer) for layer in layers.values()):
            raise ValueError("Experts: nothing can be pruned, every expert is used by design; leave prune_after out")
        missed = not opened if updates < self.end else done != self.end
        if updates > self.start and missed:
            raise ValueError(
                f"Experts: prune_after={self.start} is past, the run is at {updates} updates; raise it, or leave it out"
            )
        last = trainer.estimated_stepping_batches
        if self.end > last:
            raise ValueError(
                f"Experts: the run ends after {last:.0f} updates, before it is pruned at prune_after + prune_window = "
                f"{self.end}; lower them"
            )
        return updates < self.end

    def check_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Refuse a window that is too short, by the `[E]` rows of each mixture in one update.

        Raises:
            ValueError: an expert would get too few rows on average to be called unused.
        """
        for path, counts in rows.items():
            each = float(counts.double().mean())
            if 0 < each * self.window < ROWS_PER_EXPERT:
                raise ValueError(
                    f"Experts: in prune_window={self.window} updates an expert of {path} gets {each * self.window:.0f} "
                    f"rows on average, too few to call it unused; set at least {math.ceil(ROWS_PER_EXPERT / each)}"
                )

    def prune(
        self,
        layers: Mapping[str, SparseMoE],
        copies: Mapping[str, list[SparseMoE]],
        rows: Mapping[str, Tensor],
        optimizers: Iterable[Optimizer],
    ) -> dict[str, list[int]]:
        """Prune every mixture by its `[E]` rows in the window, and its copies alike.

        Returns:
            Indices of the experts that each mixture keeps.
        """
        kept = {}
        for path, layer in layers.items():
            counts = rows[path]
            kept[path] = list(range(layer.num_experts))
            if _all_used(layer):
                continue
            if counts.sum() < ROWS_PER_EXPERT * len(counts):
                rank_zero_warn(f"{path} is not pruned: {int(counts.sum())} rows in the window are too few to judge by")
                continue
            kept[path] = layer.prune(self.min_share, optimizers, counts)
            for copy in copies[path] if len(kept[path]) < len(counts) else ():
                copy.keep(torch.tensor(kept[path], device=copy.router.weight.device), optimizers)
        return kept


def _all_used(layer: SparseMoE) -> bool:
    """Every expert gets rows by design."""
    return isinstance(layer.router, Soft | ExpertChoice)


def learning_layers(network: nn.Module) -> dict[str, SparseMoE]:
    """Mixtures whose router learns, by module path."""
    return {path: layer for path, layer in sparse_layers(network).items() if layer.router.weight.requires_grad}


def copies_of(network: nn.Module, layers: Mapping[str, SparseMoE]) -> dict[str, list[SparseMoE]]:
    """Frozen mixtures by the module path of the one that they follow.

    A copy has the same place in a network whose name holds that of the followed one: `target_critic.trunks.0` follows
    `critic.trunks.0`.

    Raises:
        ValueError: a frozen mixture follows none.
    """
    copies: dict[str, list[SparseMoE]] = {path: [] for path in layers}
    for path, layer in sparse_layers(network).items():
        if path in layers:
            continue
        name, _, place = path.partition(".")
        followed = [p for p in layers if p.partition(".")[2] == place and p.partition(".")[0] in name]
        if not followed:
            raise ValueError(
                f"Experts: {path} is frozen, and no network that learns has a mixture at its place and a name that is "
                f"part of {name!r}, as `critic` is of `target_critic`: rename it, or leave prune_after out"
            )
        copies[max(followed, key=len)].append(layer)
    return copies
