"""An MLflow database of a file is there when it is whole, whatever ended the process that made it."""

from __future__ import annotations

import inspect
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.mlflow_private import make_tables


def logger(folder: Path) -> MLflowLogger:
    return MLflowLogger("toys", f"sqlite:///{folder / 'mlflow.db'}", run_directory=str(folder / "run"))


def test_what_a_killed_process_began_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = tmp_path / ".mlflow.db.new"
    with closing(sqlite3.connect(begun)) as half:
        half.execute("create table experiments (name text)")
    for left in (tmp_path / ".mlflow.db.new-journal", tmp_path / "mlflow.db-journal", tmp_path / "mlflow.db"):
        left.touch()

    def interrupted(engine: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("callbacks.mlflow.store.make_tables", inspect.unwrap(make_tables))  # as it is, never a copy
        patched.setattr("mlflow.store.db.utils._upgrade_db", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _ = logger(tmp_path).experiment
    assert not (tmp_path / "mlflow.db").stat().st_size
    assert logger(tmp_path).run_id
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock", "run"}
    assert (tmp_path / "run/mlflow_run.json").is_file()


@pytest.mark.parametrize("damage", ["half-made", "overwritten"])
def test_a_database_that_cannot_be_used_is_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as half:
        half.execute("create table experiment_tags (key text)")
    if damage == "overwritten":
        path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000)
    with pytest.raises(ValueError, match=r"MLflow cannot use \S+/mlflow\.db .*move it away") as caught:
        _ = logger(tmp_path).experiment
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run/mlflow_run.json").exists()
