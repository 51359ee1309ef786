"""The private parts of MLflow that this project uses do what it relies on; upgrades that change them fail here."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from callbacks.mlflow.mlflow_private import make_tables, remove_half_copies


def test_a_database_of_tables_can_be_renamed_and_used_at_once(tmp_path: Path) -> None:
    inspect.unwrap(make_tables)(f"sqlite:///{tmp_path / 'new.db'}")  # as it is, where tests copy what was made before
    (tmp_path / "new.db").rename(tmp_path / "mlflow.db")
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]  # no journal of an open connection
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("x", str(tmp_path)))
    client.log_metric(run.info.run_id, "loss", 2.0, step=3)
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 2.0}


def test_what_a_kill_left_of_a_copy_is_removed_and_whole_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MLflow leaves it: the copy is there, and the name that it takes is not."""
    place, source = tmp_path / "artifacts", tmp_path / "a.txt"
    source.write_text("a")
    repository = LocalArtifactRepository(place.as_uri())
    repository.log_artifact(str(source), "whole")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for call in ("unlink", "remove", "rename", "replace"):
            patch.setattr(os, call, killed)
        with pytest.raises(KeyboardInterrupt):
            repository.log_artifact(str(source))
    left = [path.name for path in place.iterdir() if path.is_file()]
    assert len(left) == 1
    remove_half_copies(place.as_uri())
    remove_half_copies("s3://elsewhere/artifacts")
    assert [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()] == ["whole/a.txt"]
