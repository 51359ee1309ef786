"""One run in MLflow for one folder, whenever the process that makes it is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.run_file import START_FILE, created_run


def test_a_run_that_was_made_and_not_written_down_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "run"

    def killed(self: MLflowLogger) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MLflowLogger, "_write_run_file", killed)
        with pytest.raises(KeyboardInterrupt):
            _ = MLflowLogger("toys", uri, run_directory=str(folder)).experiment
    logger = MLflowLogger("toys", uri, run_directory=str(folder))
    client = logger.experiment
    assert [run.info.run_id for run in client.search_runs([logger.experiment_id])] == [logger.run_id]
    assert not (folder / START_FILE).exists()
    # So are the runs of members.
    with monkeypatch.context() as patch:
        patch.setattr(MLflowLogger, "_write_run_file", killed)
        with pytest.raises(KeyboardInterrupt):
            logger.register_members(["seed=0", "seed=1"])
    again = MLflowLogger("toys", uri, run_directory=str(folder))
    again.register_members(["seed=0", "seed=1", "seed=2"])
    assert len(client.search_runs([str(logger.experiment_id)])) == 4
    # Another one is made where none was begun, or nobody can say which.
    assert isinstance(client, MlflowClient)
    ids = {str(logger.run_id)}
    for start in (None, "' or true", "ab" * 16):
        if start is not None:
            (folder / START_FILE).write_text(start)
        ids.add(created_run(client, str(logger.experiment_id), folder, {}, "x"))
        (folder / START_FILE).unlink()
    assert len(ids) == 4
