"""Experts: how evenly mixtures of experts are used while they train, and the removal of what nobody uses."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.experts.pruning import Pruning, copies_of, learning_layers
from callbacks.experts.report import LoadHistory, draw_heat_maps, write_csv
from callbacks.files.keepers import keepers
from modules.agent.any_module import send_metrics, updates_of
from modules.arguments.checks import check_counts, check_shares, check_sizes
from modules.experts.layer import SparseMoE
from modules.experts.routing import routing_entropy
from modules.functional.statistics import squared_variation
from modules.run import run_of

PRUNE_WINDOW = 500
_FIGURE_SECONDS = 60.0


class Experts(Callback):
    """Logs the load of every mixture of experts that learns, keeps its history, and prunes unused experts if asked to.

    Every `interval` updates, over the training updates since the last time and all processes, as
    `experts/<module path>/...`: `load_variation`, the coefficient of variation of the experts' loads, 0 when even;
    `load_max_over_mean`; `unused_experts`; `dropped_share` of the rows where there is a `capacity_factor`; and of the
    last update `router_entropy` in nats and `router_entropy_share`, the same over `log E`.

    The run directory and MLflow receive `expert_load.csv` at the end of each epoch and the heat map `expert_load.png`
    at the end of training, before that once a minute at most. All other updates cost a few comparisons of numbers.

    Any LightningModule will do; of one that is no agent of reverie's, updates are the optimiser steps that Lightning
    counts.

    Pruning: after `prune_after` updates no mixture draws routing noise for `prune_window` updates, as with noise every
    expert is reachable. Experts that got no more than `min_share` of the rows in them are removed from the mixtures,
    from the state of the optimisers, and from the frozen copies that follow a mixture, such as that in `target_critic`
    which follows the one in `critic`. Mixtures that use every expert by design (`soft`, `expert_choice`) stay.

    Args:
        interval: updates between two loggings; `trainer.log_every_n_steps` if not given.
        prune_after: updates before the window; null prunes nothing.
        prune_window: updates of the window.
        min_share: share of all rows of a mixture up to which an expert is removed; 0 removes only those that were never
            used. Rarely used experts can matter more than their share suggests: raise it with care.

    Raises:
        ValueError: an argument outside its range, or one that would be ignored.
    """

    def __init__(
        self,
        interval: int | None = None,
        prune_after: int | None = None,
        prune_window: int = PRUNE_WINDOW,
        min_share: float = 0.0,
    ) -> None:
        check_sizes(interval=interval, prune_window=prune_window)
        check_counts(0, prune_after=prune_after)
        check_shares(min_share=min_share)
        if prune_after is None and (prune_window != PRUNE_WINDOW or min_share):
            raise ValueError("Experts: prune_window and min_share would be ignored; set prune_after, or leave them out")
        self.interval = interval
        self.pruning = None if prune_after is None else Pruning(prune_after, prune_window, min_share)
        self.history: LoadHistory | None = None
        self._every = 0
        self._logged_at = 0
        self._layers: dict[str, SparseMoE] = {}
        self._copies: dict[str, list[SparseMoE]] = {}
        self._pending = torch.empty(0)  # of each mixture, rows per expert and dropped rows since the last logging
        self._window: Tensor | None = None  # the same since the window without noise was opened
        self._pruned_at: int | None = None
        self._to_check = False
        self._to_prune = False
        self._drawn_at = 0.0

    # --------------------------------------------------------------------------------------------------------- set-up
    def check_run(self, trainer: Trainer, agent: LightningModule, data: object) -> None:
        """Refuse a module without a mixture that learns."""
        if not learning_layers(agent):
            raise ValueError(
                f"callbacks.experts.experts.Experts finds no mixture of experts that learns in {type(agent).__name__}: "
                "put a modules.experts.layer.SparseMoE into its networks, or remove the callback"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the mixtures, after the check.

        Raises:
            ValueError: there is none that learns, or the pruning cannot happen as it was asked for.
        """
        updates = updates_of(trainer, pl_module)
        self.check_run(trainer, pl_module, run_of(trainer).datamodule)
        self._layers = learning_layers(pl_module)
        self._drawn_at = time.monotonic()
        self._every = self.interval or run_of(trainer).log_every_n_steps
        if self.history is None:
            self.history = LoadHistory({path: x.num_experts for path, x in self._layers.items()}, updates)
            self._pending = self._zeros()
        self._logged_at = updates
        if self.pruning is None or updates <= self.pruning.start:
            self._window = None  # of a checkpoint whose run was to be pruned at another time
        if self.pruning is not None:
            self._copies = copies_of(pl_module, self._layers)
            self._to_prune = self._to_check = self.pruning.is_due(
                trainer, self._layers, updates, opened=self._window is not None, done=self._pruned_at
            )

    # ------------------------------------------------------------------------------------------------------- training
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the window that a checkpoint was written in, or open one that begins with the run."""
        if self._window is not None:
            self._set_quiet(True)
        elif self.pruning is not None and updates_of(trainer, pl_module) == self.pruning.start:
            self._open_window()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the counter."""
        updates = updates_of(trainer, pl_module)
        if self._to_prune and self.pruning is not None:
            if self._to_check:
                self._check_rows(self.pruning)
            # A module of its own may count several steps for a batch, or none.
            if self._window is None and updates >= self.pruning.start:
                self._read()
                self._open_window()
            elif self._window is not None and updates >= self.pruning.end:
                self._read()
                self._prune(self.pruning, trainer, pl_module)
        if updates // self._every > self._logged_at // self._every:
            self._log(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._layers:  # none when there is no training
            self._read()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh what the run directory holds; what an evaluation does from here on is forgotten."""
        self._read()
        self._report(trainer, figure=time.monotonic() - self._drawn_at >= _FIGURE_SECONDS)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the whole history."""
        if self._pending.any():
            self._record(updates_of(trainer, pl_module))
        self._report(trainer, figure=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._set_quiet(False)

    # ------------------------------------------------------------------------------------------------------- counting
    @torch.no_grad()
    def _read(self) -> Tensor:
        """Take all counts, added over ranks, in one copy; returns the `[L]` router entropies of the last pass."""
        layers = self._layers.values()
        parts = [part for layer in layers for part in (layer.expert_counts, layer.dropped_rows.view(1))]
        flat = torch.cat([part.double() for part in (*parts, *map(_entropy, layers))])
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        if ranks > 1:
            dist.all_reduce(flat)
        counts, entropies = flat.cpu().split([len(self._pending), len(layers)])
        self._pending += counts.long()
        if self._window is not None:
            self._window += counts.long()
        self._forget()
        return entropies / ranks

    def _forget(self) -> None:
        for layer in self._layers.values():
            layer.reset_counts()

    def _log(self, trainer: Trainer, module: LightningModule) -> None:
        self._logged_at = updates_of(trainer, module)
        entropies = self._read().tolist()
        metrics: dict[str, float] = {}
        for entropy, (path, counts) in zip(entropies, self._by_layer(self._pending).items(), strict=True):
            values = {"router_entropy": entropy, "router_entropy_share": entropy / math.log(max(len(counts) - 1, 2))}
            values |= load_metrics(counts[:-1])
            if self._layers[path].capacity_factor is not None:
                values["dropped_share"] = float(counts[-1] / counts.sum())
            metrics |= {f"experts/{path}/{name}": x for name, x in values.items() if math.isfinite(x)}
        send_metrics(trainer, module, metrics)
        self._record(self._logged_at)

    def _record(self, updates: int) -> None:
        assert self.history is not None
        by_layer = self._by_layer(self._pending)
        self.history.add(updates, {path: counts[:-1] for path, counts in by_layer.items()})
        self._pending.zero_()

    def _by_layer(self, flat: Tensor) -> dict[str, Tensor]:
        """`[E + 1]` rows per expert and dropped rows of each mixture."""
        sizes = [layer.num_experts + 1 for layer in self._layers.values()]
        return dict(zip(self._layers, flat.split(sizes), strict=True))

    def _zeros(self) -> Tensor:
        return torch.zeros(sum(x.num_experts + 1 for x in self._layers.values()), dtype=torch.int64)

    def _report(self, trainer: Trainer, figure: bool) -> None:
        assert self.history is not None
        if not trainer.is_global_zero or not self.history.ends:
            return
        folder = Path(trainer.default_root_dir)
        files = [folder / "expert_load.csv"]
        write_csv(self.history, files[0])
        if figure:
            files += draw_heat_maps(self.history, folder)
            self._drawn_at = time.monotonic()
        for logger in keepers(trainer):
            for file in files:
                logger.put_file(file)

    # -------------------------------------------------------------------------------------------------------- pruning
    def _check_rows(self, pruning: Pruning) -> None:
        """After the first update, not only when the window is over."""
        before = self._pending.clone()
        self._read()
        rows = self._by_layer(self._pending - before)
        pruning.check_rows({path: counts[:-1] for path, counts in rows.items()})
        self._to_check = False

    def _open_window(self) -> None:
        self._window = self._zeros()
        self._set_quiet(True)

    def _set_quiet(self, quiet: bool) -> None:
        for layer in self._layers.values():
            layer.quiet = quiet

    def _prune(self, pruning: Pruning, trainer: Trainer, module: LightningModule) -> None:
        """Every rank judges by the rows of all ranks, so that all of them stay equal."""
        assert self._window is not None
        assert self.history is not None
        window, pending = self._by_layer(self._window), self._by_layer(self._pending)
        before = _parameters(module)
        rows = {path: counts[:-1] for path, counts in window.items()}
        kept = pruning.prune(self._layers, self._copies, rows, trainer.optimizers)
        self._pending = torch.cat([pending[path][[*kept[path], -1]] for path in self._layers])
        self._window = None
        self._to_prune = False
        self._pruned_at = updates_of(trainer, module)
        self._set_quiet(False)
        numbers = {f"experts/{path}/num_experts": float(x.num_experts) for path, x in self._layers.items()}
        send_metrics(trainer, module, numbers)
        lines = [f"pruned after {self._pruned_at:,} updates, {before:,} -> {_parameters(module):,} parameters"]
        for path, left in kept.items():
            gone = self.history.remove(path, left, self._pruned_at)
            what = f"without {', '.join(map(str, gone))}" if gone else "nothing to remove"
            lines.append(f"  {path}: {len(rows[path])} -> {len(left)} experts, {what}")
        if trainer.is_global_zero:
            bar = trainer.progress_bar_callback
            (print if bar is None else bar.print)("\n".join(lines))

    # --------------------------------------------------------------------------------------------------------- resume
    def state_dict(self) -> dict[str, Any]:
        """History and counts that were read; what the mixtures have counted since is saved with them."""
        history = None if self.history is None else self.history.state_dict()
        return {"history": history, "pending": self._pending, "window": self._window, "pruned_at": self._pruned_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        if state_dict["history"] is not None:
            self.history = LoadHistory.from_state_dict(state_dict["history"])
        self._pending = state_dict["pending"]
        self._window = state_dict["window"]
        self._pruned_at = state_dict["pruned_at"]


def load_metrics(load: Tensor) -> dict[str, float]:
    """Measures of how even the `[E]` rows of a mixture's experts are; empty where there are no rows."""
    if not load.sum():
        return {}
    return {
        "load_variation": float(squared_variation(load.double()).sqrt()),
        "load_max_over_mean": float(load.max() / load.double().mean()),
        "unused_experts": float((load == 0).sum()),
    }


def _entropy(layer: SparseMoE) -> Tensor:
    """`[1]` entropy of the router in the last pass, NaN before the first."""
    if layer.last_logits is None:
        return torch.full((1,), math.nan, device=layer.router.weight.device)
    return routing_entropy(layer.last_logits).view(1)


def _parameters(module: LightningModule) -> int:
    return sum(p.numel() for p in module.parameters())
