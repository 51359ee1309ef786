"""Results that a finished run is given afterwards, and stores and runs that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbacks.mlflow.afterwards import LoggedRun, add_results, logged_run, named_run
from callbacks.mlflow.logger import MLflowLogger


def test_metrics_tags_and_files_go_to_the_run_and_its_members(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = MLflowLogger(tracking_uri=uri, run_directory=str(tmp_path / "run"))
    logger.register_members(["beta=1", "beta=4"])
    logger.finalize("failed")
    run = logged_run(tmp_path / "run")
    assert run is not None
    file = tmp_path / "table.csv"
    file.write_text("a,b\n")
    add_results(run, "select", [file], {"beta=1": {"value": 2.0}, "clone": {"value": 3.0}}, {"select/choice": "clone"})
    client = logger.experiment
    whole, member = client.get_run(run.run_id), client.get_run(run.children["beta=1"])
    assert whole.data.metrics == {"select/beta_1/value": 2.0, "select/clone/value": 3.0}
    assert member.data.metrics == {"select/value": 2.0}
    assert whole.data.tags["select/choice"] == "clone"
    assert whole.info.status == "FAILED"  # as it was
    assert [entry.path for entry in client.list_artifacts(run.run_id, "select")] == ["select/table.csv"]
    with pytest.raises(ValueError, match=r"has no run nobody; name another with --mlflow_run and --tracking_uri"):
        add_results(named_run("nobody", uri), "select", [], {}, {})


def test_what_names_no_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert logged_run(tmp_path) is None
    (tmp_path / "mlflow_run.json").write_text('{"run_id": 3}')
    with pytest.raises(ValueError, match="names no run of MLflow; name one with --mlflow_run, or set it to none"):
        logged_run(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert named_run("abc", None) == LoggedRun("http://127.0.0.1:9", "abc", {})
    with pytest.raises(ValueError, match=r"no MLflow tracking server answers at http://127\.0\.0\.1:9"):
        add_results(named_run("abc", None), "select", [], {}, {})
