"""Everything private of MLflow that this project uses, with the reason; no other file names any of it.

tests/callbacks/mlflow/test_mlflow_private.py fails where an upgrade of MLflow changes what it relies on.
"""

from __future__ import annotations

from pathlib import Path


def make_tables(uri: str) -> None:
    """Make all tables of a new database, and leave no connection to it open.

    A client makes them as well, and keeps the file open under the name that it was made by, which is renamed later.

    Args:
        uri: address of the database, such as `sqlite:////path/to/file`.
    """
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(uri)
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()


def remove_half_copies(artifacts: str) -> None:
    """Remove what a killed process was copying into a run's folder of artifacts, where that is on this machine.

    MLflow copies to a name beside the file's, shows that among the artifacts, and never looks for what was left.

    Args:
        artifacts: address of the run's artifacts.
    """
    from mlflow.store.artifact.local_artifact_repo import _TEMP_ARTIFACT_PREFIX
    from mlflow.utils.file_utils import local_file_uri_to_path

    if artifacts.startswith("file:"):
        for path in Path(local_file_uri_to_path(artifacts)).rglob(f"{_TEMP_ARTIFACT_PREFIX}*"):
            path.unlink(missing_ok=True)
