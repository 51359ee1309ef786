"""`reverie publish`: each kept checkpoint is one model in MLflow, whatever breaks off; its card invents nothing."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_files import write_checkpoint
from command_line import mistake
from mlflow import MlflowClient
from published_runs import COMMAND, finish, score

import commands.model_folder
import reverie
from callbacks.mlflow.models import RunModel, put_model
from commands.lightning_cli import ReverieCLI
from commands.model_card import CODE_LICENCE
from commands.publish import publish

NAMES = ["beta=1/seed=0", "beta=4/seed=0"]


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished run of two members, whose second is best, published and registered."""
    run = tmp_path_factory.mktemp("experiment") / "run"
    agent = write_checkpoint(run / "checkpoints/best.ckpt", beta=[1.0, 4.0])
    scores = [
        score("best", -350.0),
        *(score("best", mean, name) for mean, name in zip((-400.0, -300.0), NAMES, strict=True)),
    ]
    uri = finish(run, scores)
    publish(str(run), register="pendulum")
    return SimpleNamespace(run=run, uri=uri, agent=agent, client=MlflowClient(uri))


def models_of(at: SimpleNamespace) -> list:
    return list(at.client.search_logged_models([at.client.get_experiment_by_name("reverie").experiment_id]))


def test_a_checkpoint_is_a_model_with_signature_example_scores_and_version(population: SimpleNamespace) -> None:
    (model,) = models_of(population)
    run_id = json.loads((population.run / "mlflow_run.json").read_text())["run_id"]
    assert (model.name, str(model.status), model.source_run_id) == ("best-beta_4-seed_0", "READY", run_id)
    assert {m.key: m.value for m in model.metrics} == {
        "policy/return": -300.0, "policy/return/low": -320.0, "policy/return/high": -270.0,
        "policy/normalized_return": 50.0, "policy/normalized_return/low": 40.0, "policy/normalized_return/high": 60.0,
    }  # fmt: skip
    assert model.params == {"beta": "4.0"}
    assert model.tags["reverie.member"] == NAMES[1]
    (made,) = population.client.get_run(run_id).outputs.model_outputs
    assert made.model_id == model.model_id
    version = population.client.get_model_version_by_alias("pendulum", "best")
    assert (str(version.version), version.run_id) == ("1", run_id)
    assert version.source == model.artifact_location
    files = {entry.path for entry in population.client.list_logged_model_artifacts(model.model_id)}
    assert files >= {"MLmodel", "model.onnx", "policy.json", "MODEL_CARD.md", "input_example.json"}
    assert files.isdisjoint({"policy.ckpt", "python_model.pkl"})


def test_a_second_time_makes_nothing_twice(population: SimpleNamespace, monkeypatch, capsys) -> None:
    monkeypatch.setattr(commands.model_folder, "write_checked", lambda *_: pytest.fail("was exported again"))
    publish(str(population.run), register="pendulum")
    said = capsys.readouterr().out
    (model,) = models_of(population)
    assert f"models:/{model.model_id}" in said
    assert "models:/pendulum@best, version 1" in said
    assert len(population.client.search_model_versions("name = 'pendulum'")) == 1
    run = population.client.get_run(model.source_run_id)
    assert len(run.outputs.model_outputs) == 1
    assert len(population.client.get_metric_history(model.source_run_id, "policy/return")) == 1


def test_a_model_that_was_broken_off_is_completed(population: SimpleNamespace, monkeypatch) -> None:
    run_id = models_of(population)[0].source_run_id
    folder = population.run / "models/best-beta_4-seed_0"
    model = RunModel("again", folder, "f" * 64, "", 3, {"policy/return": 1.0}, {})
    for broken in ("log_model_artifacts", "log_outputs", "log_batch", "finalize_logged_model"):

        def ends(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, broken, ends)
            with pytest.raises(KeyboardInterrupt):
                put_model(population.client, run_id, model)
        (half,) = [m for m in models_of(population) if m.name == "again"]
        assert str(half.status) == "PENDING"
    assert put_model(population.client, run_id, model) == half.model_id
    whole = population.client.get_logged_model(half.model_id)
    assert str(whole.status) == "READY"
    assert [(m.key, m.value, m.step) for m in whole.metrics] == [("policy/return", 1.0, 3)]
    population.client.delete_logged_model(half.model_id)


def test_the_card_has_what_the_run_wrote_down(population: SimpleNamespace) -> None:
    card = (population.run / "models/best-beta_4-seed_0/MODEL_CARD.md").read_text()
    headings = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert headings == ["Model details", "Intended use", "How to use", "Training data", "Training procedure",
                        "Evaluation", "Limits", "Licence"]  # fmt: skip
    about = json.loads((population.run / "models/best-beta_4-seed_0/policy.json").read_text())
    for told in (COMMAND, "0" * 64, about["checkpoint_sha256"], "Seed: 7", f"`{NAMES[1]}`", "of 10 episodes"):
        assert told in card
    assert "| return | -300 | -320 .. -270 |" in card
    assert "| normalised return, % | 50.0 | 40.0 .. 60.0 |" in card
    assert "Returns of all 2 members of the population: -350 in the mean, -400 .. -300." in card
    assert "It is one of 2 members: where it was taken because its return was the best" in card
    assert f"Code (reverie): {CODE_LICENCE}" in card
    about_us = tomllib.loads((Path(reverie.__file__).parent / "pyproject.toml").read_text())["project"]
    assert about_us["license"] == CODE_LICENCE
    assert "Data: not recorded" in card


def test_what_a_run_has_not_written_down_is_not_recorded_and_its_models_stay_in_its_folder(tmp_path, capsys) -> None:
    run = tmp_path / "x/run"
    write_checkpoint(run / "checkpoints/last.ckpt", dataset=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands.model_folder, "write_checked", refuse)
        publish(str(run))
    said = capsys.readouterr().out
    assert "models are in its folder alone" in said
    assert "without an ONNX form: has no dense form" in said
    card = (run / "models/last/MODEL_CARD.md").read_text()
    assert "Seed: not recorded\n- Command: not recorded\n- Commit: not recorded" in card
    assert "did not evaluate this checkpoint: no returns are known" in card
    assert "mlflow models serve" not in card
    assert {path.name for path in (run / "models/last").iterdir()} == {
        "MLmodel", "policy.ckpt", "policy.json", "MODEL_CARD.md"
    }  # fmt: skip
    assert reverie.load(run / "models/last").act([0.0, 0.0, 0.0])[0].shape == (1,)
    with pytest.raises(ValueError, match="was not logged to MLflow: leave register out"):
        publish(str(run), register="pendulum")


def refuse(*_: object) -> float:
    raise ValueError("has no dense form")


def test_mistakes_are_named_before_anything_is_made(tmp_path: Path, population: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="is no folder of a run with checkpoints"):
        publish(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="has no checkpoint at all; it keeps none"):
        publish(str(tmp_path))
    with pytest.raises(ValueError, match="has no checkpoint last; it keeps best"):
        publish(str(population.run), checkpoints=["last"])
    with pytest.raises(ValueError, match="a/b is no name for the registry"):
        publish(str(population.run), register="a/b")
    with pytest.raises(ValueError, match="no member 'beta=9'"):
        publish(str(population.run), member="beta=9")
    write_checkpoint(tmp_path / "checkpoints/last.ckpt", beta=[1.0, 4.0])
    with pytest.raises(ValueError, match="holds 2 members; choose one with --member"):
        publish(str(tmp_path))  # no evaluation says which is best
    assert not (tmp_path / "models").exists()


def ended(run: Path, register: str | None) -> None:
    """The end of a fit that is to publish."""
    settings = SimpleNamespace(publish=True, register=register)
    trainer = SimpleNamespace(is_global_zero=True, fast_dev_run=False)
    command = SimpleNamespace(chosen="fit", config={"fit": settings}, trainer=trainer, directory=run)
    ReverieCLI.after_fit(command)  # type: ignore[arg-type]


def test_a_fit_publishes_and_never_fails_for_it(population: SimpleNamespace, tmp_path: Path, capsys) -> None:
    ended(population.run, "pendulum")
    assert "models:/pendulum@best, version 1" in capsys.readouterr().out
    run = tmp_path / "a run"
    shutil.copytree(population.run, run)
    saved = json.loads((run / "mlflow_run.json").read_text())
    (run / "mlflow_run.json").write_text(json.dumps({**saved, "tracking_uri": "http://127.0.0.1:9"}))
    ended(run, "pendulum")
    printed = capsys.readouterr()
    assert "best.ckpt: " in printed.out
    assert "warning: not all models were published: no MLflow tracking server answers" in printed.err
    assert f"later: reverie publish --folder '{run}' --register pendulum" in printed.err


def test_a_name_without_models_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = mistake(["fit", "--config", "a2c/cartpole", "--register", "x"], capsys)
    assert said.startswith("register would be ignored without publish")


def test_a_store_that_is_away_leaves_the_folders(population: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"no MLflow tracking server answers at http://127\.0\.0\.1:9"):
        publish(str(population.run), tracking_uri="http://127.0.0.1:9")
    assert (population.run / "models/best-beta_4-seed_0/model.onnx").is_file()
