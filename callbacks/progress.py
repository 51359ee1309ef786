"""One progress bar over the whole run, and plain lines where there is no terminal."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar
from tqdm import tqdm

from datamodules.envs.episode_infos import return_text
from modules.agent.agent import Agent, agent_of
from modules.contracts import CountsSteps
from modules.run import run_of, total_updates

_TERMINAL_SECONDS = 0.2
_LINE_SECONDS = 10.0
_SMOOTHING_SECONDS = 5.0
_BAR_COLUMNS = 4


class ProgressBar(LightningProgressBar):
    """Updates done of all updates, updates per second, the phase and the latest evaluation return.

    A run that collects its own data also shows its environment steps and the return of its latest training episodes.

    On a terminal it is one bar that is redrawn in place; in a file or a pipe it is one line every ten seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._started = False
        self._bar: tqdm | None = None
        self._total: int | None = None
        self._drawn_at = 0.0
        self._interval = _LINE_SECONDS
        self._rate = 0.0
        self._last = (0.0, 0)
        self._compiled = 0.0

    def disable(self) -> None:
        """Show nothing; Lightning calls this on every process but the first."""
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what begins and where, as the first evaluation may take a while."""
        if self._enabled:
            print(f"training {type(pl_module).__name__} in {trainer.default_root_dir}", file=sys.stderr, flush=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the first update, start at those that a resumed run has already done."""
        if self._started:
            return
        self._started = True
        if not self._enabled:
            return
        self._total = total_updates(trainer, batch_idx)
        now = time.monotonic()
        self._last = (now, trainer.global_step)
        self._drawn_at = now
        self._rate = 0.0
        if sys.stderr.isatty():
            self._interval = _TERMINAL_SECONDS
            self._bar = tqdm(
                total=self._total,
                initial=trainer.global_step,
                file=sys.stderr,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} updates, {elapsed}<{remaining}{postfix}",
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock; everything else happens a few times per second at most."""
        if (seconds := agent_of(pl_module).compile_seconds) > self._compiled:
            self.print(f"compiled the update, {seconds - self._compiled:.0f} s", file=sys.stderr)
            self._compiled = seconds
        if self._enabled and time.monotonic() - self._drawn_at >= self._interval:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the final state and leave it on the screen."""
        if self._enabled and self._started:
            self._draw(trainer, pl_module)
            self._close()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so when there was nothing left to train, as after a resume of a finished run."""
        if self._enabled and not self._started:
            done, rule = f"{trainer.global_step:,} updates", agent_of(pl_module).ended_by
            limits = "to go on, raise trainer.max_epochs, max_steps or limit_train_batches"
            ended = f"model.{rule} ended it" if rule else limits
            print(f"nothing to train: the run has its {done}; {ended}", file=sys.stderr)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar where it stopped, so that the error is printed below it."""
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), **kwargs)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now, updates = time.monotonic(), trainer.global_step
        before, done = self._last
        self._last = (now, updates)
        self._drawn_at = now
        if now > before and updates > done:
            # Exponential average over seconds, not over updates: steady whatever the speed.
            keep = math.exp(-(now - before) / _SMOOTHING_SECONDS) if self._rate else 0.0
            self._rate = keep * self._rate + (1.0 - keep) * (updates - done) / (now - before)
        facts = self._facts(trainer, pl_module)
        if self._bar is not None:
            bar = f"100%|{' ' * _BAR_COLUMNS}| {updates}/{self._total or '?'} updates, 00:00:00<00:00:00"
            self._bar.set_postfix_str(", ".join(fitting(facts, _columns() - len(bar))), refresh=False)
            self._bar.update(updates - self._bar.n)
            self._bar.refresh()
            return
        share = f"{100 * updates / self._total:3.0f}% " if self._total else ""
        of = f" of {self._total:,}" if self._total else ""
        print(f"{share}{updates:,}{of} updates, {', '.join(facts)}", file=sys.stderr, flush=True)

    def _facts(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, int]:
        """Facts in the order in which they are shown, with ranks: those of a low rank stay where there is no room."""
        assert isinstance(pl_module, Agent)
        unit = " updates/s" if self._bar is None else "/s"  # the bar says before what is counted
        facts = {f"{self._rate:,.{0 if self._rate >= 10 else 1}f}{unit}": 1, pl_module.phase: 4}
        data = run_of(trainer).datamodule
        if isinstance(data, CountsSteps):
            facts[f"{data.environment_steps:,} environment steps"] = 3
        for name, metric, rank in (("training return", "collection/return", 2), ("return", "evaluation/return", 0)):
            latest = pl_module.latest_metrics.get(metric)
            if latest is not None:
                facts[f"{name} {return_text(latest, thousands=',')}"] = rank
        return facts

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def fitting(facts: Mapping[str, int], columns: int) -> list[str]:
    """The facts that fit into so many columns with a comma and a space before each, those of the lowest rank first."""
    chosen: set[str] = set()
    for fact in sorted(facts, key=lambda fact: facts[fact]):
        if len(fact) + 2 > columns:
            break
        chosen.add(fact)
        columns -= len(fact) + 2
    return [fact for fact in facts if fact in chosen]


def _columns() -> int:
    """Width of the terminal; 80 where it cannot be told."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal, or no file at all
        return 80
