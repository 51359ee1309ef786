"""Models of a run in MLflow: its checkpoints as `LoggedModel`s, versions of them in the registry, and their files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.mlflow.store import PARAMETER_LENGTH, metric_name
from modules.trust.names import short

CARD = "MODEL_CARD.md"
"""File of a model's folder that tells people about it; the only one that may change when a model is published again."""

CHECKPOINT_TAG, MEMBER_TAG = "reverie.checkpoint_sha256", "reverie.member"
"""Tags of a model that say of which policy it is: a run has one model for each pair of them."""

MODELS = "models:/"


class RunModel(NamedTuple):
    """A model that MLflow is given.

    Attributes:
        name: name of the checkpoint.
        folder: the whole model, with an `MLmodel` file and a card.
        checkpoint: SHA-256 of the checkpoint.
        member: name of the member whose policy it is; empty for a population of one.
        updates: updates that the agent had learned from.
        metrics: scores by name.
        tags: more tags.
    """

    name: str
    folder: Path
    checkpoint: str
    member: str
    updates: int
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def put_model(client: Any, run_id: str, model: RunModel) -> str:
    """The id of a run's model in MLflow, which is made unless it is there; one that was half made is completed.

    Args:
        client: `MlflowClient` of the store.
        run_id: id of the run.
        model: the model.

    Raises:
        ValueError: the store has no such run.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ValueError(f"MLflow has no run {short(run_id)} any more: its models cannot be logged there") from error
    # The model that is there, or a new one, which has its tags from the first moment on.
    found = _model_of(client, run, model)
    if found is None:
        identity = {CHECKPOINT_TAG: model.checkpoint, MEMBER_TAG: model.member}
        found = client.create_logged_model(
            run.info.experiment_id,
            name=metric_name(model.name).replace("/", "_"),
            source_run_id=run_id,
            tags={**model.tags, **identity},
            params={name: text[: PARAMETER_LENGTH - 1000] for name, text in run.data.params.items()},
            model_type="policy",
        )
    # Its files and scores. The card of a whole one may tell more than before.
    whole = str(found.status) == "READY"
    if whole:
        client.log_model_artifact(found.model_id, str(model.folder / CARD))
    else:
        client.log_model_artifacts(found.model_id, str(model.folder))
    made = run.outputs.model_outputs if run.outputs is not None else []
    if found.model_id not in {output.model_id for output in made}:
        client.log_outputs(run_id, [LoggedModelOutput(found.model_id, step=model.updates)])
    _put_scores(client, run_id, found, model)
    if not whole:
        client.finalize_logged_model(found.model_id, "READY")
    return str(found.model_id)


def _model_of(client: Any, run: Any, model: RunModel) -> Any | None:
    """The run's model of this checkpoint and member; None where there is none."""
    made_of = f"tags.`{CHECKPOINT_TAG}` = '{model.checkpoint}'"
    found = client.search_logged_models([run.info.experiment_id], made_of)
    mine = [m for m in found if m.source_run_id == run.info.run_id and m.tags.get(MEMBER_TAG, "") == model.member]
    return mine[0] if mine else None


def _put_scores(client: Any, run_id: str, found: Any, model: RunModel) -> None:
    """Log those scores that the model has not got yet."""
    from mlflow.entities import Metric

    known = {(metric.key, metric.step, metric.value) for metric in found.metrics or []}
    values = {metric_name(name): value for name, value in model.metrics.items()}
    now = int(time.time() * 1000)
    new = [
        Metric(name, value, now, model.updates, model_id=found.model_id, run_id=run_id)
        for name, value in values.items()
        if (name, model.updates, value) not in known
    ]
    if new:
        client.log_batch(run_id, metrics=new)


def check_registered_name(name: str) -> None:
    """Refuse a name that the registry, or an address `models:/NAME@ALIAS`, cannot have.

    Raises:
        ValueError: it names it.
    """
    if re.fullmatch(r"[A-Za-z0-9][\w .-]{0,199}", name, re.ASCII) is None:
        raise ValueError(f"{short(name)} is no name for the registry: take letters, digits, - and _")


def put_version(client: Any, run_id: str, model_id: str, name: str, alias: str) -> str:
    """The version of a model under a name in MLflow's registry, which is made unless it is there; it gets the alias.

    Args:
        client: `MlflowClient` of the store.
        run_id: id of the run that the model is of.
        model_id: id of the model.
        name: name in the registry, made if there is none.
        alias: the name's alias for this version, taken from the version that had it.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not `models:/ID`, which MLflow looks up in the store of the whole process.
    source = client.get_logged_model(model_id).artifact_location
    mine = [found for found in client.search_model_versions(f"name = '{name}'") if found.source == source]
    version = mine[0] if mine else client.create_model_version(name, source, run_id=run_id, model_id=model_id)
    client.set_registered_model_alias(name, alias, version.version)
    return str(version.version)


def fetch(client: Any, uri: str, tracking_uri: str, names: Sequence[str], folder: Path) -> list[str]:
    """Copy files of a model, and none but these, into a folder.

    Args:
        client: `MlflowClient` of the store.
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/ID`.
        tracking_uri: address of the store.
        names: names of the files that are wanted.
        folder: folder for them.

    Returns:
        The names of those that the model has.

    Raises:
        ValueError: it is no such address, or the store has no such model.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.artifacts import download_artifacts, list_artifacts
    from mlflow.exceptions import MlflowException

    try:
        place = _place(client, uri)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            raise
        raise ValueError(
            f"{short(tracking_uri, 150)} has no model {short(uri)}: {short(error.message, 150)}"
        ) from error
    there = {entry.path.rpartition("/")[2] for entry in list_artifacts(place, tracking_uri=tracking_uri)}
    found = [name for name in names if name in there]
    for name in found:
        download_artifacts(f"{place}/{name}", dst_path=str(folder), tracking_uri=tracking_uri)
    return found


def _place(client: Any, uri: str) -> str:
    """Where a model's files are."""
    word = uri.removeprefix(MODELS)
    if re.fullmatch(r"m-[0-9a-f]{32}", word):
        return str(client.get_logged_model(word).artifact_location)
    parts = re.fullmatch(r"([^/@]+)(?:@([^/@]+)|/([0-9]+))", word, re.ASCII)
    if parts is None:
        raise ValueError(f"{short(uri)} is no address of a model: models:/NAME@ALIAS, models:/NAME/VERSION, models:/ID")
    name, alias, version = parts.groups()
    found = client.get_model_version(name, version) if alias is None else client.get_model_version_by_alias(name, alias)
    if found.model_id:
        return str(client.get_logged_model(found.model_id).artifact_location)
    return str(client.get_model_version_download_uri(name, found.version))
