"""`reverie publish`: the kept checkpoints of a run as models in MLflow, which are served, registered, taken away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from callbacks.checkpointing import checkpoints_before
from callbacks.mlflow.afterwards import logged_run
from callbacks.mlflow.models import MODELS, RunModel, check_registered_name, put_model, put_version
from callbacks.mlflow.store import opened_store
from commands.function_command import run_function
from commands.model_folder import ModelFolder, model_folder
from commands.run_directory import NAMES, newest_checkpoint, occupied
from commands.ui import find_store


def publish(
    folder: str | None = None,
    checkpoints: list[str] | None = None,
    member: str | None = None,
    register: str | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Make models of a run's kept checkpoints, in its folder and in MLflow; what is there already is not made twice.

    Args:
        folder: folder of the run; by default that of the newest last.ckpt of all runs below `runs`.
        checkpoints: names of the checkpoints, such as [best, last]; by default all that are kept.
        member: name of the member, for example beta=4/seed=0; by default the best in the run's evaluation.
        register: name in MLflow's registry; each model is a version of it, with its checkpoint's name as alias.
        tracking_uri: address of the MLflow store that has the run; by default the one that its folder names.
    """
    run = newest_checkpoint(Path("runs"), "last", "*/*").parent.parent if folder is None else Path(folder)
    if not (run / "checkpoints").is_dir():
        raise ValueError(f"{run} is no folder of a run with checkpoints")
    with occupied(run, continued=True):
        for line in published(run, checkpoints, member, register, tracking_uri):
            print(line, flush=True)


def main(argv: list[str]) -> None:
    """`reverie publish ...`."""
    run_function(publish, argv)


def published(
    run: Path, names: Sequence[str] | None, member: str | None, registered: str | None, tracking_uri: str | None
) -> Iterator[str]:
    """Publish a run, and say so in a line for each model; arguments as those of `publish`.

    Raises:
        ValueError: the run has no such checkpoint or member, it is to be registered and was not logged to MLflow, or
            the store cannot be reached.
    """
    # What is asked for, before anything is made.
    if registered is not None:
        check_registered_name(registered)
    files = kept_checkpoints(run, names)
    logged = logged_run(run)
    if logged is None and registered is not None:
        raise ValueError(f"{run} was not logged to MLflow: leave register out, and its models are in its folder alone")
    # Folders first, for they need no server.
    models = []
    for file in files:
        made = model_folder(run, file, member)
        models.append((file, made))
        form = f"without an ONNX form: {made.why_not}" if made.why_not else "with ONNX"
        yield f"{file.name}: {made.path}, {form}"
    if logged is None:
        yield f"{run} was not logged to MLflow: its models are in its folder alone"
        return
    # MLflow next: each model whole, then its version.
    uri = find_store(run).uri if tracking_uri is None else tracking_uri
    with opened_store(uri) as client:
        for file, made in models:
            model_id = put_model(client, logged.run_id, _record(run, file, made))
            yield f"{file.name}: {MODELS}{model_id}"
            if registered is not None:
                version = put_version(client, logged.run_id, model_id, registered, file.stem)
                yield f"{file.name}: {MODELS}{registered}@{file.stem}, version {version}"


def kept_checkpoints(run: Path, names: Sequence[str] | None) -> list[Path]:
    """The checkpoints of a run by these names, or all that it keeps.

    Raises:
        ValueError: it has none, or not one of the names.
    """
    folder = run / "checkpoints"
    there = [path for name in ("best", "trusted", "cloned", "last") if (path := folder / NAMES[name]).is_file()]
    there += checkpoints_before(folder / NAMES["last"])
    by_name = {path.stem: path for path in there}
    unknown = [name for name in names or () if name not in by_name]
    if unknown or not by_name:
        told = ", ".join(by_name) or "none"
        raise ValueError(f"{run} has no checkpoint {', '.join(unknown) or 'at all'}; it keeps {told}")
    return [by_name[name] for name in (by_name if names is None else names)]


def _record(run: Path, file: Path, made: ModelFolder) -> RunModel:
    """The model as MLflow is told of it."""
    about, score = made.about, made.score
    environment = about["environment"] or {}
    tags = {
        "agent": about["algorithm"],
        "checkpoint": file.name,
        "environment": environment.get("id"),
        "dataset/content_hash": (about["dataset"] or {}).get("content_hash"),
        "run_folder": run.name,
    }
    # By the same names for every checkpoint, so that models can be compared.
    metrics = {} if score is None else replace(score, member="").metrics("policy")
    return RunModel(
        name=made.path.name,
        folder=made.path,
        checkpoint=about["checkpoint_sha256"],
        member=about["member"],
        updates=about["updates"],
        metrics=metrics,
        tags={name: text for name, text in tags.items() if text is not None},
    )
