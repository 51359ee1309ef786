"""A checkpoint's policy as a folder that MLflow serves and people can take away."""

from __future__ import annotations

import copy
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from callbacks.evaluation.report import Score, final_scores
from callbacks.mlflow.models import CARD
from callbacks.mlflow.store import metric_name
from commands.checkpoints import file_hash, load_agent, member_index
from commands.compared_runs import TABLE, read_scores
from commands.export import Planned, plan, write_checked
from commands.model_card import card_text
from modules.agent.agent import Agent
from modules.trust.files import read_json_object

ONNX, WEIGHTS, ABOUT = "model.onnx", "policy.ckpt", "policy.json"
"""Files of the folder: the policy, its checkpoint where it cannot be exported, and what it takes and gives."""

FOLDER = "models"
"""Folder of a run's folder that holds its models."""


class ModelFolder(NamedTuple):
    """A folder with a model in it.

    Attributes:
        path: path of the folder.
        about: what its `policy.json` says.
        score: how the checkpoint did when the run evaluated it; None where it did not.
        why_not: why it holds the checkpoint in place of an ONNX file; empty where it has one.
    """

    path: Path
    about: dict[str, Any]
    score: Score | None
    why_not: str


def model_folder(run: Path, checkpoint: Path, member: str | None) -> ModelFolder:
    """Make, or make anew where it is of another checkpoint, the model of one checkpoint of a run.

    Args:
        run: folder of the run.
        checkpoint: the checkpoint.
        member: name of the member whose policy it is; None for the one that the run's evaluation says is best.

    Raises:
        ValueError: the checkpoint holds no policy, or several and nothing says which is best, or a file is damaged.
    """
    agent, trained_on = load_agent(checkpoint)
    scores = scores_of_checkpoint(run, checkpoint.stem, agent.updates)
    index = chosen_member(agent, member, scores)
    name = agent.member_names[index]
    mine = next((score for score in scores if score.member == name), None)
    planned = plan(agent, trained_on, index, str(checkpoint))
    folder = run / FOLDER / (checkpoint.stem + (f"-{metric_name(name).replace('/', '-')}" if name else ""))
    about = _kept(folder, planned)
    if about is None:
        about = _make(folder, planned, checkpoint)
    card = card_text(run, checkpoint.name, about, mine, [score for score in scores if score.member])
    (folder / CARD).write_text(card)
    return ModelFolder(folder, about, mine, about["not_exported"])


def scores_of_checkpoint(run: Path, name: str, updates: int) -> list[Score]:
    """The scores of a checkpoint's policies: those of the run's end, else those of its regular evaluations.

    Args:
        run: folder of the run.
        name: name of the checkpoint.
        updates: updates that its agent had learned from.
    """
    final = [s for s in final_scores(run)[1] if s.kind == name and s.updates == updates]
    if final or not (run / TABLE).is_file():
        return final
    return [s for s in read_scores(run / TABLE) if s.kind in ("curve", "phase") and s.updates == updates]


def chosen_member(agent: Agent, member: str | None, scores: list[Score]) -> int:
    """Index of the member that was asked for, else of the one with the best mean return.

    Raises:
        ValueError: there is no such member, or none was asked for and nothing says which is best.
    """
    living = [score for score in scores if score.member in agent.member_names]
    if member is None and len(agent.member_names) > 1 and living:
        member = max(living, key=lambda score: score.mean).member
    return member_index(agent.member_names, member)


def _kept(folder: Path, planned: Planned) -> dict[str, Any] | None:
    """The content of the folder's `policy.json`, if the folder is whole and of this checkpoint and member."""
    try:
        about = read_json_object(folder / ABOUT)
        same = all(about.get(key) == planned.description[key] for key in ("checkpoint_sha256", "member"))
        whole = same and file_hash(folder / about["policy"]) == about["policy_sha256"]
    except (ValueError, LookupError, TypeError):
        return None
    return about if whole and "not_exported" in about else None


def _make(folder: Path, planned: Planned, checkpoint: Path) -> dict[str, Any]:
    """Write the folder, aside and then renamed; returns what its `policy.json` says."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    made = aside / "model"
    # The policy: as an ONNX file if it can be one, else as the checkpoint that it is.
    difference, why_not = None, ""
    try:
        difference = write_checked(planned, aside / "policy.onnx")
    except ValueError as error:
        why_not = str(error)
    file = made / (WEIGHTS if why_not else ONNX)
    if why_not:
        made.mkdir()
        shutil.copyfile(checkpoint, file)
        _write_own_flavor(made, planned)
    else:
        _write_onnx_flavor(aside / "policy.onnx", made, planned)
    # What it is, for programs; and the whole under its name.
    about = {
        **planned.description,
        "checkpoint": checkpoint.name,
        "policy": file.name,
        "policy_sha256": file_hash(file),
        "max_difference": difference,
        "not_exported": why_not,
    }
    (made / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    shutil.rmtree(aside)
    return about


def _write_onnx_flavor(file: Path, folder: Path, planned: Planned) -> None:
    """MLflow's folder of an ONNX file, which needs nothing of this project and runs no code but MLflow's."""
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(
        onnx.load(str(file)),
        str(folder),
        signature=signature(planned),
        input_example=example(planned.inputs),
        # Named, for MLflow would find them out by loading the model in another process.
        pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "onnx", "onnxruntime", "numpy")],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )


def _write_own_flavor(folder: Path, planned: Planned) -> None:
    """An `MLmodel` file with a signature, which MLflow shows; `reverie.load` alone can play what lies beside it."""
    from mlflow.models import Model

    model = Model(signature=signature(planned))
    model.add_flavor("reverie", checkpoint=WEIGHTS)
    model.save(str(folder / "MLmodel"))


def signature(planned: Planned) -> Any:
    """MLflow's signature of the policy: name, type and shape `[-1, ...]` of every input and output."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: dict[str, Tensor]) -> Any:
        return Schema([TensorSpec(x.numpy().dtype, (-1, *x.shape[1:]), name) for name, x in tensors.items()])

    outputs = copy.deepcopy(planned.step).step(planned.inputs)
    return ModelSignature(schema(planned.inputs), schema(outputs))


def example(inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """One row of every input."""
    return {name: x[:1].numpy() for name, x in inputs.items()}
