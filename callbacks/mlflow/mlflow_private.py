"""Everything private of MLflow that this project uses, with the reason; no other file names any of it.

tests/callbacks/mlflow/test_mlflow_private.py fails where an upgrade of MLflow changes what it relies on.
"""

from __future__ import annotations


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
