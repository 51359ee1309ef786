"""The policy in a folder of `reverie publish` or `export`, or in a model of MLflow; nothing in it runs code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.mlflow.afterwards import store_address
from callbacks.mlflow.models import fetch
from callbacks.mlflow.store import opened_store
from commands.checked_onnx import check_onnx
from commands.model_folder import ABOUT, ONNX, WEIGHTS
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes
from modules.trust.files import read_json_object
from modules.trust.hints import fits
from modules.trust.names import short

KINDS = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
"""Types of inputs."""

EXPORTED = "policy.onnx"
"""The policy in a folder of `reverie export`, which does not name it."""

DEEPEST = 8
"""Most axes of an input's row."""


class PublishedPolicy:
    """A policy that acts with onnxruntime; it remembers the running episodes where it has a memory.

    Attributes:
        path: folder of the model.
        about: what its `policy.json` says: algorithm, member, updates, data, inputs and outputs.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.about = read_about(path / ABOUT)
        file = self.about["policy"]
        check_onnx(path / file)
        from commands.exported_act import Policy  # onnxruntime, which nothing else needs

        try:
            self._policy = Policy(path, file=file)
            given = {x.name: x.shape[1:] for x in self._policy.session.get_inputs()}
            taken = {name: told["shape"] for name, told in self.about["inputs"].items()}
            self._fresh = self._policy.initial_state(1)
        except Exception as error:  # onnxruntime has no class of its errors that is public
            raise ValueError(f"{path / file} cannot be played: {short(str(error), 200)}") from error
        if given != taken:
            raise ValueError(f"{path / ABOUT} says that the policy takes {short(taken)}, {file} takes {short(given)}")
        self._state: dict[str, np.ndarray] | None = None

    @cached_property
    def environment(self) -> EnvironmentSpec | None:
        """Spec of the environment that training evaluated in, or None; `environment.make()` makes it.

        Raises:
            ValueError: the file names what is not trusted.
        """
        return Changes().on_file(self.about["environment"], self.path, None)

    def reset(self) -> None:
        """Forget the past: the next observation is the first of its episode."""
        self._state = None

    def act(
        self, observation: Any, state: dict[str, np.ndarray] | None = None, reward: Any = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The action for one observation, or one for each of a batch, and the next state; nothing is remembered here.

        Args:
            observation: observation as the environment gives it, or a batch along a new first axis; a dict of such for
                Dict spaces.
            state: the state that the previous call gave; None where episodes begin. It is `{}` without a memory.
            reward: reward that the previous action earned, one number or `[B]`. Agents that look at it (R2D2) need it;
                others ignore it.

        Returns:
            An action in the environment's units, or `[B, ...]` of them, and the state for the next call.

        Raises:
            ValueError: the observation or the state has not the shape that the policy takes.
        """
        return self._policy.act(observation, state, 0.0 if reward is None else reward)

    def predict(self, observation: Any, reward: Any = None, first: Any = None) -> np.ndarray:
        """The action for one observation, or one for each of a batch; the memory goes on from the previous call.

        Args:
            observation: as `act` takes it.
            reward: as `act` takes it.
            first: bool or `[B]`, the observation is the first of its episode. A `reset` says it of all.

        Raises:
            ValueError: the observation has not the shape that the policy takes, or the batch has another size than
                before.
        """
        state = self._state
        if state and first is not None:
            begins = np.asarray(first, bool).reshape(-1)
            state = {
                name: np.where(begins.reshape(-1, *[1] * (x.ndim - 1)), self._fresh[name], x)
                for name, x in state.items()
            }
        action, self._state = self.act(observation, state, reward)
        return action


def read_about(path: Path) -> dict[str, Any]:
    """The content of the `policy.json` of a model, which may come from anyone.

    Raises:
        ValueError: the file is damaged, or says something that cannot be.
    """
    about = {"environment": None, "policy": EXPORTED, **read_json_object(path)}
    texts = all(isinstance(about.get(name), str) for name in ("algorithm", "member", "policy"))
    inputs: Any = about.get("inputs")
    if not texts or not fits(inputs, dict[str, dict[str, Any]]) or not all(map(_is_input, inputs.values())):
        raise ValueError(f"{path} is damaged: it does not say what the policy takes")
    if about["policy"] not in (ONNX, EXPORTED, WEIGHTS):
        raise ValueError(f"{path} names the policy's file {short(about['policy'])}, known are {ONNX} and {WEIGHTS}")
    return about


def _is_input(told: dict[str, Any]) -> bool:
    """Whether this describes an input: its type, shape and, of a state, what it is at first."""
    shape: Any = told.get("shape")
    if not fits(shape, list[int]) or len(shape) > DEEPEST or min(shape, default=0) < 0:
        return False
    if told.get("dtype") not in KINDS:
        return False
    return "initial" not in told or fits(told["initial"], list[Any] | float | bool)


@contextmanager
def fetched(uri: str, tracking_uri: str | None) -> Iterator[Path]:
    """A folder, removed afterwards, that holds the files of a model in MLflow which a policy needs.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/ID`.
        tracking_uri: address of the store; by default `$MLFLOW_TRACKING_URI`, or mlflow.db.

    Raises:
        ValueError: the store cannot be reached, has no such model, or the model was not published by reverie.
    """
    address = store_address(tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        with opened_store(address) as client:
            found = fetch(client, uri, address, (ABOUT, ONNX, WEIGHTS), Path(folder))
        if ABOUT not in found or len(found) < 2:
            raise ValueError(f"{short(uri)} was not made by `reverie publish`: no other kind of model is loaded")
        yield Path(folder)
