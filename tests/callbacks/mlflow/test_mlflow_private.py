"""The private parts of MLflow that this project uses do what it relies on; upgrades that change them fail here."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from callbacks.mlflow.mlflow_private import make_tables


def test_a_database_of_tables_can_be_renamed_and_used_at_once(tmp_path: Path) -> None:
    make_tables(f"sqlite:///{tmp_path / 'new.db'}")
    (tmp_path / "new.db").rename(tmp_path / "mlflow.db")
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]  # no journal of an open connection
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("x", str(tmp_path)))
    client.log_metric(run.info.run_id, "loss", 2.0, step=3)
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 2.0}
