"""Everything of Lightning that it does not promise and that this project uses, with the reason; no other file does.

tests/modules/agent/test_lightning_private.py fails where an upgrade of Lightning changes what these rely on.
"""

from __future__ import annotations

import traceback

from pytorch_lightning import Trainer

CONNECTOR = "pytorch_lightning.trainer.connectors.checkpoint_connector"
"""Module of all that Lightning restores from a checkpoint."""


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
