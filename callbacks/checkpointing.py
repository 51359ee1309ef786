"""Checkpoints that are whole or absent, under fixed names, from which a run continues exactly."""

from __future__ import annotations

import math
import os
import shutil
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from callbacks.files.keepers import keepers
from callbacks.files.written_aside import written_aside
from callbacks.resumable import check_resumable, go_on_with_others
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import bytes_of, read_checkpoint
from modules.agent.random_state import random_state, set_random_state
from modules.agent.trust_region import JudgesTrust, Trust
from modules.arguments.changed import refuse_changed_run
from modules.arguments.checks import check_counts
from modules.contracts import HasRankState
from modules.disk import room_for
from modules.experts.layer import sparse_layers
from modules.run import run_of
from modules.torch_private import map_nested
from modules.trust.names import short
from modules.wall_time import timed


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name and renames it, so that a crash leaves the old file or the new one.

    Lightning's own writes to the system's temporary folder; where that is another file system, a crash leaves a
    truncated file under the final name and the old one is gone.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write and flush to disk under a hidden name in the same folder, then replace the file."""
        assert storage_options is None
        # Those of `state_dict`, which has an attribute of its own, are detached already.
        rest = {name: entry for name, entry in checkpoint.items() if name != "state_dict"}
        content = {**checkpoint, **map_nested(_without_marks, rest)}
        room = room_for(Path(path), lambda: bytes_of(content))
        with room, written_aside(Path(path)) as aside, aside.open("wb") as file:
            torch.save(content, file)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint without running any code that it may contain.

        Raises:
            ValueError: the file is missing or truncated, holds more than tensors and plain values, or holds no model;
                or `weights_only=False` asks to run what it holds.
        """
        if weights_only is False:
            raise ValueError(f"{path} is read with weights_only=True alone: checkpoints are tensors and plain values")
        return read_checkpoint(path, map_location)


def _without_marks(value: Any) -> Any:
    """The value; a tensor without what torch's compiler wrote onto it, which no reader of plain values takes."""
    return value.detach() if isinstance(value, Tensor) and vars(value) else value


class Checkpoint(ModelCheckpoint):
    """`checkpoints/last.ckpt` for continuing and `checkpoints/best.ckpt` for using, in the run directory.

    `last.ckpt` is written at the end of every epoch, every `every_n_updates` updates in between, and after SIGTERM
    and SIGHUP.
    `best.ckpt` is written when the monitored metric improves; without that metric it never is, and the run says so.
    `trusted.ckpt` is written at the end of every epoch after which the agent trusts the values of its policy, where it
    judges that (`modules.agent.trust_region.JudgesTrust`): it is the last policy that had not left the data too far.
    `cloned.ckpt` is the policy that an agent whose training begins with cloning had cloned.

    Args:
        monitor: metric that chooses the best checkpoint.
        mode: whether a larger (`max`) or a smaller (`min`) value is better.
        every_n_updates: updates between two writes of `last.ckpt` within an epoch; 0 for epoch ends only.
        keep_last: number of last checkpoints that are kept: `last.ckpt`, and before it `last-N.ckpt` of update `N`, to
            which a run whose `last.ckpt` is damaged goes back.

    Attributes:
        last_written: update behind which the run's `last.ckpt` was written; 0 where it is not of this run's past.
    """

    def __init__(
        self,
        monitor: str = "evaluation/return",
        mode: str = "max",
        every_n_updates: int = 5000,
        keep_last: int = 1,
    ) -> None:
        check_counts(0, every_n_updates=every_n_updates)
        check_counts(1, keep_last=keep_last)
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self.every_n_updates = every_n_updates
        self.keep_last = keep_last
        self.verdict: Trust | None = None
        self.last_written = 0

    @property
    def trusted_model_path(self) -> str:
        """Where the last trusted policy is kept, if there has been one."""
        return os.path.join(str(self.dirpath), "trusted.ckpt")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = os.path.abspath(os.path.join(trainer.default_root_dir, "checkpoints"))
        with warnings.catch_warnings():
            # A folder that is not empty is that of the run that is continued.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know of what update `last.ckpt` is, and that there is one: a run that never broke off does."""
        given = None if trainer.ckpt_path is None else Path(os.path.abspath(trainer.ckpt_path))
        self.last_written = trainer.global_step if given == Path(self._last) else 0
        if given is not None and given.parent == Path(self._last).parent and is_last(given):
            self.last_model_path = self._last

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write `last.ckpt` when it is due; the last batch of an epoch leaves it to the epoch's end.

        What the agent wants to be kept as it is now, such as a cloned policy, has a file of its own.
        """
        kept = pl_module.kept_as if isinstance(pl_module, Agent) else None
        if kept is not None and not self._idle(trainer):
            self._write(trainer, os.path.join(str(self.dirpath), f"{kept}.ckpt"))
        due = self.every_n_updates and trainer.global_step % self.every_n_updates == 0
        if due and not trainer.is_last_batch and not self._idle(trainer):
            self._write_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `best.ckpt` when the metric improved, `trusted.ckpt` when the agent says so, then `last.ckpt`.

        A run that is killed in between goes on before them, and writes them again.
        """
        if self._idle(trainer):
            return
        score = trainer.callback_metrics.get(str(self.monitor))
        if score is not None and self.check_monitor_top_k(trainer, score):
            self._write_best(trainer, score.detach().clone())
        self.verdict = pl_module.judge(trainer.callback_metrics) if isinstance(pl_module, JudgesTrust) else None
        if self.verdict is not None and self.verdict.trusted:
            self._write(trainer, self.trusted_model_path)
        self._write_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so when there is no best checkpoint."""
        if not self.best_model_path and not self._idle(trainer):
            rank_zero_warn(f"no best.ckpt: nothing was logged under {self.monitor!r}; last.ckpt holds the last weights")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After a signal, for which Lightning stops between two updates, keep exactly what has been reached."""
        if isinstance(exception, SIGTERMException) and trainer.received_sigterm and not self._idle(trainer):
            self._write_last(trainer)

    @property
    def _last(self) -> str:
        return os.path.join(str(self.dirpath), "last.ckpt")

    def _write_last(self, trainer: Trainer) -> None:
        """Write `last.ckpt`; the one that it was is kept before, and the oldest ones are removed before, too.

        In this order a crash leaves no more files than a run without one, and always a `last.ckpt`.
        """
        self.last_model_path = self._last
        if trainer.is_global_zero:
            if self.keep_last > 1 and self.last_written not in (0, trainer.global_step):
                _name_again(Path(self._last), f"last-{self.last_written}.ckpt")
            before = checkpoints_before(Path(self._last))
            # Those of later updates are of a past that was given up.
            given_up = [path for path in before if _update_of(path) >= trainer.global_step]
            past = [path for path in before if path not in given_up]
            for path in (*given_up, *past[: max(0, len(past) - self.keep_last + 1)]):
                path.unlink()
        self._write(trainer, self._last)
        self.last_written = trainer.global_step

    def _write_best(self, trainer: Trainer, score: Tensor) -> None:
        """Take note of the score first, so that the checkpoint holds it."""
        if score.isnan():  # no later one is better than it; any is better than the worst one
            score = torch.full_like(score, math.inf if self.mode == "min" else -math.inf)
        path = os.path.join(str(self.dirpath), "best.ckpt")
        self.best_model_path = self.kth_best_model_path = path
        self.best_k_models = {path: score}
        self.current_score = score
        self.best_model_score = score
        self.kth_value = score
        self._write(trainer, path)

    @timed("keeping")
    def _write(self, trainer: Trainer, path: str) -> None:
        """Write a checkpoint when the disk has what was logged before it: a resume never logs that again."""
        for logger in keepers(trainer):
            logger.secure()
        trainer.save_checkpoint(path, weights_only=False)  # said, as Lightning tells of its default
        if trainer.is_global_zero:
            for listener in trainer.loggers:
                listener.after_save_checkpoint(weakref.proxy(self))

    def state_dict(self) -> dict[str, Any]:
        """Lightning's own entries, and the agent's verdict on its policy at the end of the last epoch."""
        return super().state_dict() | ({} if self.verdict is None else {"verdict": tuple(self.verdict)})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the best score so far, also after the run directory was moved, and with the last verdict.

        Without that best checkpoint in this run directory, as after starting a new run from a checkpoint of another
        one, the search for the best one starts anew.
        """
        self.verdict = Trust(*state_dict["verdict"]) if "verdict" in state_dict else None
        folder = str(self.dirpath)
        best = os.path.join(folder, "best.ckpt")
        if state_dict["best_model_path"] and os.path.isfile(best):
            moved: dict[str, Any] = {"dirpath": self.dirpath, "best_model_path": best, "kth_best_model_path": best}
            moved |= {"best_k_models": {best: state_dict["best_model_score"]}}
            moved |= {"last_model_path": os.path.join(folder, "last.ckpt")}
            super().load_state_dict(state_dict | moved)
            self.current_score = state_dict["current_score"]  # which Lightning forgets

    @staticmethod
    def _idle(trainer: Trainer) -> bool:
        dry_run = bool(run_of(trainer).fast_dev_run)
        return dry_run or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking


def checkpoints_before(last: Path) -> list[Path]:
    """The files `last-N.ckpt` beside a `last.ckpt`, the newest last."""
    return sorted((path for path in last.parent.glob("last-*.ckpt") if _update_of(path) >= 0), key=_update_of)


def is_last(path: Path) -> bool:
    """Whether a file is the `last.ckpt` of a run, or one that was kept before it."""
    return path.parent.name == "checkpoints" and (path.name == "last.ckpt" or _update_of(path) >= 0)


def _update_of(path: Path) -> int:
    """The update of a file `last-N.ckpt`; -1 of any other."""
    number = path.stem.removeprefix("last-")
    return int(number) if path.stem != number and number.isdecimal() and number.isascii() else -1


def _name_again(path: Path, name: str) -> None:
    """Give a file, if it is there, a second name in its folder, in place of what had that name."""
    if not path.is_file():
        return
    aside = path.with_name(f".{name}.tmp")
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:  # a file system without such names
        shutil.copyfile(path, aside)
    try:
        os.replace(aside, path.with_name(name))
    finally:
        aside.unlink(missing_ok=True)  # rename leaves it there where both are one file already


class ExactResume(Callback):
    """Puts into every checkpoint what Lightning leaves out: what differs between processes.

    `checkpoint["ranks"]` is a list by rank of the global generators (python, numpy, torch, CUDA), of the agent's and
    the datamodule's own, and of the rows that each mixture counted. They are restored when training starts, after
    everything that draws during set-up.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gather the state of every process; Lightning calls this on all of them."""
        data = run_of(trainer).datamodule
        mine = {
            "random": random_state(pl_module.device),
            "agent": pl_module.rank_state() if isinstance(pl_module, HasRankState) else {},
            "data": data.rank_state() if isinstance(data, HasRankState) else {},
            "counts": {path: layer.get_extra_state().cpu() for path, layer in sparse_layers(pl_module).items()},
        }
        ranks: list[Any] = [mine]
        if dist.is_initialized() and dist.get_world_size() > 1:
            ranks = [None] * dist.get_world_size()
            dist.all_gather_object(ranks, mine)
        checkpoint["ranks"] = ranks

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            refuse_changed_run(checkpoint, pl_module, run_of(trainer).datamodule)
            check_resumable(checkpoint, pl_module, trainer.ckpt_path)
        self._loaded = checkpoint.get("ranks")
        # True of a loader that starts over, which ours does not: its generator continues.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state of this process, or what another number of processes can have of it."""
        if self._loaded is None:
            return
        ranks, self._loaded = self._loaded, None
        rank = trainer.global_rank if len(ranks) == trainer.world_size else 0
        try:
            if len(ranks) == trainer.world_size:
                self._restore(trainer, pl_module, ranks[rank])
            else:
                go_on_with_others(ranks, trainer.world_size, run_of(trainer).datamodule)
        except (LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, ValueError) as error:
            reason = short(f"{type(error).__name__}: {error}".split("\n", 1)[0], 200)
            raise ValueError(
                f"checkpoint {trainer.ckpt_path} is damaged: the state of process {rank} cannot be read ({reason})"
            ) from error

    @staticmethod
    def _restore(trainer: Trainer, pl_module: LightningModule, mine: Mapping[str, Any]) -> None:
        if isinstance(pl_module, HasRankState):
            pl_module.load_rank_state(mine["agent"])
        data = run_of(trainer).datamodule
        if isinstance(data, HasRankState):
            data.load_rank_state(mine["data"])
        for path, layer in sparse_layers(pl_module).items():
            layer.set_extra_state(mine["counts"][path])
        set_random_state(mine["random"], pl_module.device)
