"""`reverie sync`: sends to MLflow what runs could not send while its store was away."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from callbacks.mlflow.run_file import saved_run
from callbacks.mlflow.store import RUN_FILE, check_reachable, opened_store, settle, store_fault
from callbacks.mlflow.writer import FILES, VALUES, BackgroundWriter
from commands.function_command import run_function
from commands.run_directory import occupied
from commands.ui import find_store
from modules.trust.names import short

PATIENCE = 600.0
"""Seconds for what waits in one folder, while the store answers."""


def sync(folder: str = ".") -> None:
    """Send to MLflow what runs could not send while its store was away; each point is there once.

    A run that goes on does so by itself, as soon as the store is back, and at the latest when it is continued.

    Args:
        folder: a run's folder, or one with runs below it.
    """
    here = Path(folder)
    if not here.is_dir():
        raise ValueError(f"--folder: there is no folder {folder}")
    waiting = [run for run in sorted(runs_below(here)) if any((run / name).is_file() for name in (FILES, VALUES))]
    if not waiting:
        print(f"nothing waits for MLflow in {here.resolve()} or below it")
    failed = []
    for run in waiting:
        try:
            send_rest(run)
            print(f"{run}: all is in MLflow", flush=True)
        except ValueError as error:
            failed.append(f"{run}: {error}")
    if failed:
        more = f"; and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise ValueError(f"{failed[0]}{more}")


def main(argv: list[str]) -> None:
    """`reverie sync ...`."""
    run_function(sync, argv)


def runs_below(folder: Path) -> set[Path]:
    """Folders of runs of MLflow: a folder itself, and up to three levels below it."""
    return {path.parent for depth in ("", "*/", "*/*/", "*/*/*/") for path in folder.glob(f"{depth}{RUN_FILE}")}


def send_rest(folder: Path) -> None:
    """Send all that waits in a run's folder.

    Raises:
        ValueError: somebody trains there, the store does not answer or take all, or no longer has the run.
    """
    with occupied(folder, continued=True):
        uri, saved = find_store(folder).uri, saved_run(folder / RUN_FILE)
        assert saved is not None
        with opened_store(uri) as client:
            from mlflow.exceptions import MlflowException

            try:
                client.get_run(saved["run_id"])
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise ValueError(
                    f"{short(uri, 150)} no longer has the run: `reverie fit ... --ckpt_path last` makes a new one, "
                    "which gets what waits"
                ) from error
        writer = BackgroundWriter(
            client,
            folder,
            renamed=saved.get("renamed", {}),
            settle=partial(settle, uri),
            probe=partial(check_reachable, uri),
            fault=partial(store_fault, uri),
        )
        if not (writer.flush(PATIENCE) and writer.empty()):
            raise ValueError(f"{short(uri, 150)} does not take all now; the rest waits on")
