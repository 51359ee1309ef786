"""Updates with NaN or infinity in a loss or gradient: they never count, and what made them is kept for inspection."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from tensordict import TensorDictBase

from callbacks.checkpointing import Checkpoint
from modules.agent.agent import Agent
from modules.agent.nonfinite import (
    NotFinite,
    executed_plainly,
    in_gradients,
    in_tensors,
    in_weights,
    infinite_updates,
    traced_outputs,
)
from modules.agent.update_state import UpdateState
from modules.arguments.checks import check_choice
from modules.contracts import Update
from modules.functional.recurrent_state import map_leaves
from modules.networks.replicas import add_over_ranks
from modules.run import run_of
from modules.wall_time import timed

Answer = Literal["stop", "skip", "rollback"]

MOST_FILES = 5
"""Updates of a run that are kept for inspection: each file is as large as a checkpoint and a batch."""

PATIENCE = {"skip": 10, "rollback": 3}
"""Updates in a row that are skipped, or returns to one checkpoint, before the run ends: it would never go on."""


class UpdateNotFinite(FloatingPointError):
    """An update had NaN or infinity in a loss or gradient, and the run does not go on."""


class NonfiniteUpdates(Callback):
    """Lets no update with NaN or infinity in a loss or gradient count, keeps it in a file, and ends the run or goes on.

    What is learned is the same with and without, as long as all is finite. `reverie inspect` shows the files.

    Args:
        answer: `stop` ends the run, which goes on from its last checkpoint; `skip` undoes the update, from a copy of
            weights, buffers, moments and generators that is made before each, and goes on with the next batch;
            `rollback` goes back to the weights and moments of `last.ckpt`, or of the start, and on with other batches.
            Updates that are undone count, as the batches do. A run of which too many in a row are not finite ends, see
            `PATIENCE`.

    Raises:
        ValueError: there is no such answer.
    """

    def __init__(self, answer: Answer = "stop") -> None:
        check_choice("nonfinite", answer, ("stop", "skip", "rollback"))
        self.answer = answer
        self.undone = 0
        self.in_a_row = 0
        self._batch: Any = None
        self._before: UpdateState | None = None
        self._return: UpdateState | None = None
        self._return_to = -1
        self._report: dict[str, Any] | None = None

    # ----------------------------------------------------------------------------------------------------- each update
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batch = None  # its memory is the next one's

    def perform_update(self, agent: Agent, update: Callable[[], Update]) -> Update:
        """The update's result; one without metrics where it was undone.

        Raises:
            UpdateNotFinite: it is not finite on any rank, and the run ends.
        """
        with timed("guarding"):
            self._keep(agent)
        try:
            result = update()
        except FloatingPointError as error:  # of a part that looks at numbers itself, as the router of a mixture
            if dist.is_initialized() and dist.get_world_size() > 1:  # others wait for its gradients, and end with it
                raise
            return self._undo(agent, update, Update({}), [NotFinite("outputs", type(error).__name__, str(error))])
        with timed("guarding"), torch.no_grad():
            # Every rank answers where one of them has to: they would go on with other weights.
            (ranks,) = add_over_ranks(infinite_updates(agent, result, len(agent.member_names)))
            wrong = bool(ranks)
        if not wrong:
            self.in_a_row = 0 if self.answer == "skip" else self.in_a_row
            return result
        return self._undo(agent, update, result, [])

    def _keep(self, agent: Agent) -> None:
        """Copy the state before an update that may be undone; for a return, that of `last.ckpt` alone."""
        if self.answer == "skip" and self._before is not None:
            self._before.take(agent)
        elif self.answer == "skip":
            self._before = UpdateState(agent)
        if self.answer != "rollback":
            return
        kept = None if agent.own_trainer is None else agent.own_trainer.checkpoint_callback
        written = kept.last_written if isinstance(kept, Checkpoint) else 0
        if self._return is None or written > self._return_to:
            self._return, self._return_to, self.in_a_row = UpdateState(agent), agent.updates, 0

    def _undo(self, agent: Agent, update: Callable[[], Update], result: Update, refusal: list[NotFinite]) -> Update:
        """Keep what was found, put the state back, and answer."""
        found = self._search(agent, update, result, refusal)
        self.undone += 1
        self.in_a_row += 1
        trainer = agent.own_trainer
        path = None if trainer is None or self.undone > MOST_FILES else self._save(agent, trainer, result, found)
        first = found[0] if found else NotFinite("another", "rank", "see there")
        line = f"update {agent.updates + 1:,} is not finite: first {first.place} {first.name}, {first.about}. "
        kept = "" if path is None else f"; for more: reverie inspect {path}"
        if self.answer == "stop":
            raise UpdateNotFinite(f"{line}It does not count; --ckpt_path last --nonfinite skip goes on{kept}")
        if self.in_a_row > PATIENCE[self.answer]:
            raise UpdateNotFinite(f"{line}So were {self.in_a_row - 1} before it, without progress: the run ends{kept}")
        how = "it is skipped"
        if self.answer == "rollback" and self._return is not None:
            self._return.restore(agent, draws=False)
            how = f"back to the weights of update {self._return_to:,}"
        if agent.rank == 0:
            print(f"reverie: warning: {line}{how.capitalize()}{kept}", file=sys.stderr, flush=True)
        agent.log_metrics({"nonfinite/updates": float(self.undone)})
        return Update({})

    def _search(
        self, agent: Agent, update: Callable[[], Update], result: Update, refusal: list[NotFinite]
    ) -> list[NotFinite]:
        """All that is not finite, in the order of an update; `refusal` is what has ended it before its end.

        With a copy of the state before it, weights and outputs of networks, too: it is executed again and undone.
        """
        gradients = in_gradients(agent)
        found = in_tensors("batch", self._batch)
        if self._before is None:
            return [*found, *refusal, *in_tensors("losses", result.metrics), *gradients]
        self._before.restore(agent)
        found += in_weights(agent)
        again = executed_plainly(agent, self._batch, update)
        if again is not None:
            # A distribution may refuse NaN: up to there is enough.
            with traced_outputs(agent) as outputs, contextlib.suppress(RuntimeError, ValueError):
                again()
            found += outputs
            self._before.restore(agent)
        return [*found, *refusal, *in_tensors("losses", result.metrics), *gradients]

    # -------------------------------------------------------------------------------------------------------- the file
    def _save(self, agent: Agent, trainer: Trainer, result: Update, found: list[NotFinite]) -> Path:
        """A checkpoint of the state before the update, if known, with its batch and what was found, of every rank."""
        path = Path(trainer.default_root_dir) / "nonfinite" / f"update-{agent.updates + 1}.ckpt"
        batch = map_leaves(lambda x: x.detach().cpu() if isinstance(x, torch.Tensor) else x, plain_batch(self._batch))
        mine = {
            "update": agent.updates + 1,
            "before": self._before is not None,
            "batch": batch,
            "metrics": {name: value.detach().cpu() for name, value in result.metrics.items()},
            "found": [list(entry) for entry in found],
            "callbacks": [type(c).__name__ for c in run_of(trainer).callbacks if _takes_part(agent, c)],
        }
        ranks: list[Any] = [mine]
        if dist.is_initialized() and dist.get_world_size() > 1:
            ranks = [None] * dist.get_world_size()
            dist.all_gather_object(ranks, mine)
        self._report = {"ranks": ranks}
        try:
            trainer.save_checkpoint(path, weights_only=False)
        finally:
            self._report = None
        return path

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Into the file of an update that was not finite goes what is known of it; into others, nothing."""
        if self._report is not None:
            checkpoint["nonfinite"] = self._report

    # --------------------------------------------------------------------------------------------------------- resume
    def state_dict(self) -> dict[str, Any]:
        """Numbers of undone updates, of the run and in a row."""
        return {"undone": self.undone, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.undone, self.in_a_row = state_dict["undone"], state_dict["in_a_row"]


def plain_batch(batch: Any) -> Any:
    """A batch as plain values: a TensorDict as its entries and its size, a named tuple as its fields."""
    if isinstance(batch, TensorDictBase):
        return {"entries": batch.to_dict(), "batch_size": list(batch.batch_size)}
    if isinstance(batch, tuple) and hasattr(batch, "_asdict"):
        return {"fields": batch._asdict()}
    return {"value": batch}


def _takes_part(agent: Agent, callback: object) -> bool:
    return any(callable(getattr(callback, event, None)) for event in agent.events)
