"""New databases of MLflow are copies of the first one that a process makes, whose migrations take two seconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path

from callbacks.mlflow import mlflow_private


def copied(make: Callable[[str], None]) -> Callable[[str], None]:
    """`make_tables` that copies what it made first."""
    first: list[bytes] = []

    @wraps(make)
    def make_or_copy(uri: str) -> None:
        path = Path(uri.removeprefix("sqlite:///"))
        if first:
            path.write_bytes(first[0])
            return
        make(uri)
        first.append(path.read_bytes())

    return make_or_copy


# Imported before anything takes the function from its module.
mlflow_private.make_tables = copied(mlflow_private.make_tables)
