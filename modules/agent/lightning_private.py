"""Everything of Lightning that it does not promise and that this project uses, with the reason; no other file does.

tests/modules/agent/test_lightning_private.py fails where an upgrade of Lightning changes what these rely on.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from subprocess import Popen
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

CONNECTOR = "pytorch_lightning.trainer.connectors.checkpoint_connector"
"""Module of all that Lightning restores from a checkpoint."""


LAUNCHER = "REVERIE_LAUNCHER"
"""Variable that tells processes the number of the one that has started them."""


def count_update(trainer: Trainer) -> None:
    """Count one update in `trainer.global_step`.

    Lightning counts calls of `step` of the optimisers that it has wrapped. An update may hold several, or run inside
    one compiled graph that no wrapper sees. `global_step` itself can only be read.
    """
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()


def end_after_update(trainer: Trainer) -> None:
    """Let Lightning end the run behind the update in progress, as it does after SIGTERM.

    Its own handler calls collectives in the middle of whatever the process does, and only SIGTERM reaches it;
    `trainer.received_sigterm` can only be read, and `trainer.should_stop` ends the run as if it were done.
    """
    trainer._signal_connector.received_sigterm = True


def lacks_metric(error: RuntimeError) -> bool:
    """Whether EarlyStopping has nothing to go by, as nobody logs what it monitors: Lightning says it in words alone."""
    return "Early stopping conditioned on metric" in str(error)


def was_restoring(error: BaseException) -> bool:
    """Whether an error comes from where Lightning restores the content of a checkpoint.

    Nothing public stands around the whole of it: loops, callbacks and optimisers are restored between two hooks.
    """
    return any(
        frame.f_globals.get("__name__") == CONNECTOR and frame.f_code.co_name.lstrip("_").startswith("restore")
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


class WatchedLauncher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine as Lightning does, and lets the run watch them itself.

    Lightning's own watch answers the end of one by killing all others, the first one among them, without a word, and
    cannot be left out. `started` is called with the processes in its place.
    """

    started: Callable[[list[Popen[bytes]]], None]

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Start them, if nobody else has, and call the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[LAUNCHER] = str(os.getpid())
            self._call_children_scripts()
            del os.environ[LAUNCHER]
            self.started(self.procs)
        return function(*args, **kwargs)


class LaunchedDDP(DDPStrategy):
    """A DDPStrategy whose processes are started by a `WatchedLauncher`; no argument of Lightning's names a launcher."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = WatchedLauncher(self.cluster_environment, self.num_processes, self.num_nodes)
        self._launcher.started = self.processes_started

    def processes_started(self, processes: list[Popen[bytes]]) -> None:
        """Hear of the processes that the first one has started."""
