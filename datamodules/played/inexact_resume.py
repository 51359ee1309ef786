"""Warnings of a run that cannot continue exactly from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn


def warn_of_other_rows(folder: Path, rows: int) -> None:
    """Say that a replay is not that of the checkpoint.

    Args:
        folder: folder of the replay.
        rows: number of rows of each environment that it holds.
    """
    rank_zero_warn(
        f"the replay in {folder} is not that of the checkpoint: the run continues with its newest {rows} rows for each "
        "environment, and not exactly"
    )


def warn_of_new_episodes(environment: str, same_environment: bool, why: str | None) -> None:
    """Say that episodes start anew, if there is a reason for it.

    Args:
        environment: id of the environment.
        same_environment: whether arguments and wrappers are those of the checkpoint.
        why: reason why the state of the environment cannot be restored, or None.
    """
    if not same_environment:
        rank_zero_warn(
            f"the environment {environment}, its arguments or its wrappers are not those of the checkpoint: its "
            "episodes start anew, and the replay still holds what the old one gave"
        )
    elif why is not None:
        rank_zero_warn(
            f"the state of {environment} cannot be restored ({why}): its episodes start anew, and the run does not "
            "continue exactly"
        )
