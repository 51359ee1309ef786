"""The state of one environment, through all its wrappers, as plain values.

The state consists of the attributes of every layer and of all objects that they hold, and of MuJoCo's simulation data.
Numbers, strings, arrays, containers and random generators are captured. Spaces, classes, functions, MuJoCo models and
renderers are taken to be the same in every environment of the same specification. Anything else cannot be captured.

A state may come from anyone's file. It changes only data of the other environment that was built as in the original:
never a method, a module or a class, and no text is set that may lead to another file or to code.
"""

from __future__ import annotations

import functools
import inspect
import random
import types
from collections import deque
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import PassiveEnvChecker

from datamodules.envs.file_arguments import IMPORTED, PATHS
from modules.trust.names import short

PLAIN_TYPES = (bool, int, float, str, type(None))
CONTAINERS: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
CONSTANT_TYPES = (
    gym.Space,
    EnvSpec,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    np.dtype,
)
RENDERING_MODULES = ("pygame", "glfw", "OpenGL", "gymnasium.envs.mujoco.mujoco_rendering")
CHECKED = {"checked_step": True, "checked_data_reuse": True, "_previous_data": None}
"""Attributes of Gymnasium's checker of first steps, as if these were over: it is no state of the environment."""

KIND = "kind"
"""Key of the dicts that stand for values that are not plain."""


class SnapshotError(Exception):
    """A state cannot be captured or restored; the text names the part and the reason."""


def capture(env: gym.Env | VectorEnv) -> dict[str, Any]:
    """State of an environment, or of an own vector form, between two steps, in plain values and arrays.

    Raises:
        SnapshotError: some of the state cannot be captured.
    """
    return _Capture().attributes(env, type(env).__name__)


def restore(env: gym.Env | VectorEnv, state: Mapping[str, Any]) -> None:
    """Put a captured state into another environment of the same specification, which must have been reset before.

    Raises:
        SnapshotError: the environment is built in another way, or the state is damaged.
    """
    try:
        _restore_attributes(env, state, type(env).__name__)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise SnapshotError(f"the state is damaged: {type(error).__name__} {short(str(error), 150)}") from error


# ------------------------------------------------------------------------------------------------------------- capture
class _Capture:
    """One walk through an environment; objects that are met again are captured once, as they are restored in place."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}  # keeps what was met alive, so that no other object gets its id

    def attributes(self, owner: Any, path: str) -> dict[str, Any]:
        self.seen[id(owner)] = owner
        values = vars(owner)
        if isinstance(owner, PassiveEnvChecker):  # it holds the environment's own arrays until it has seen two steps
            values = values | {name: seen for name, seen in CHECKED.items() if name in values}
        return {name: self.value(value, f"{path}.{name}") for name, value in values.items() if not is_constant(value)}

    def value(self, value: Any, path: str) -> Any:
        if type(value) in PLAIN_TYPES:  # a number of NumPy's may be a float as well
            return value
        if id(value) in self.seen:
            if isinstance(value, np.ndarray | dict | list | set | deque):
                raise SnapshotError(f"{path} is one object with another attribute")
            return {KIND: "seen"}
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, path)
        if type(value) in CONTAINERS.values():
            self._remember(value)
            items = [self.value(item, f"{path}[{i}]") for i, item in enumerate(value)]
            return {KIND: type(value).__name__, "items": items, "limit": getattr(value, "maxlen", None)}
        if type(value) is dict:
            self._remember(value)
            items = [[self.value(k, path), self.value(v, f"{path}[{k!r}]")] for k, v in value.items()]
            return {KIND: "dict", "items": items}
        return self._object(value, path)

    def _remember(self, value: Any) -> None:
        if not isinstance(value, tuple | frozenset):
            self.seen[id(value)] = value

    def _array(self, value: np.ndarray | np.generic, path: str) -> dict[str, Any]:
        if value.dtype.hasobject or value.dtype.names:
            raise SnapshotError(f"{path} is an array of {value.dtype}")
        base = value
        while isinstance(base, np.ndarray) and isinstance(base.base, np.ndarray):
            base = base.base
        if isinstance(value, np.ndarray):
            if id(base) in self.seen:
                raise SnapshotError(f"{path} shares its memory with another attribute")
            self.seen[id(base)] = base
        raw = np.frombuffer(value.tobytes(), np.uint8).copy()  # a checkpoint knows fewer types of numbers than NumPy
        shape = list(value.shape)
        return {KIND: "array", "dtype": value.dtype.str, "shape": shape, "bytes": raw, "scalar": np.isscalar(value)}

    def _object(self, value: Any, path: str) -> dict[str, Any]:
        self.seen[id(value)] = value
        if isinstance(value, np.random.Generator):
            return {KIND: "generator", "state": self.value(dict(value.bit_generator.state), path)}
        if isinstance(value, random.Random):
            return {KIND: "random", "state": self.value(value.getstate(), path)}
        if type(value).__module__.startswith("mujoco") and type(value).__name__ == "MjData":
            return {KIND: "mujoco", **_capture_mujoco(value)}
        if _is_in_python(value):
            return {KIND: "object", "type": type(value).__qualname__, "attributes": self.attributes(value, path)}
        raise SnapshotError(f"{path} is a {type(value).__module__}.{type(value).__qualname__}")


def is_constant(value: Any) -> bool:
    """Whether a value is taken to be the same in every environment of the same specification."""
    module = type(value).__module__
    if isinstance(value, CONSTANT_TYPES) or module.startswith(RENDERING_MODULES):
        return True
    return module.startswith("mujoco") and type(value).__name__ == "MjModel"


def _is_in_python(value: Any) -> bool:
    """Whether all that an object holds are its attributes; else some of it is hidden in C."""
    return getattr(type(value), "__new__", None) is object.__new__ and hasattr(value, "__dict__")


def _capture_mujoco(data: Any) -> dict[str, Any]:
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(data.model, kind))
    mujoco.mj_getState(data.model, data, state, kind)
    # Observations read quantities that a step leaves behind, which do not follow from the state after it.
    return {"state": state, "derived": {name: array.copy() for name, array in _mujoco_arrays(data).items()}}


def _mujoco_arrays(data: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for name in dir(data):
        value = None if name.startswith(("_", "efc_", "iefc_")) else getattr(data, name)
        if isinstance(value, np.ndarray) and value.dtype in (np.float64, np.int32, np.int64) and value.flags.writeable:
            arrays[name] = value
    return arrays


# ------------------------------------------------------------------------------------------------------------- restore
def _restore_attributes(owner: Any, state: Mapping[str, Any], path: str) -> None:
    for name, saved in state.items():
        current = vars(owner).get(name)
        _check_attribute(owner, name, current, path)
        if PATHS.fullmatch(name) and isinstance(saved, str) and isinstance(current, str):
            continue  # files and folders belong to the environment that has them
        made = _restored(current, saved, f"{path}.{name}")
        if made is not current:
            setattr(owner, name, made)
    for name in [n for n, value in vars(owner).items() if n not in state and not is_constant(value)]:
        delattr(owner, name)


def _check_attribute(owner: Any, name: str, current: Any, path: str) -> None:
    """Refuse to set an attribute that is no data: a method, a property, or a constant.

    Raises:
        SnapshotError: it is none; the text names it.
    """
    inherited = getattr(type(owner), name, None)
    is_code = callable(inherited) or inspect.isdatadescriptor(inherited)
    if not name.isidentifier() or name.startswith("__") or is_code or is_constant(current):
        raise SnapshotError(f"{path}.{short(name)} is no data in the copy")


def _restored(current: Any, saved: Any, path: str) -> Any:
    """The saved value; generators, simulations and other objects are changed in place instead."""
    if not isinstance(saved, Mapping):
        if isinstance(saved, str) and saved != current and _leads_elsewhere(saved):
            raise SnapshotError(f"{path} may name a file or code, and is not so in the copy: {short(saved)}")
        return saved
    kind = saved[KIND]
    if kind == "array":
        return _restored_array(saved)
    if kind == "dict":
        old = current if isinstance(current, dict) else {}
        pairs = [(_restored(None, key, path), value) for key, value in saved["items"]]
        return {key: _restored(old.get(key), value, f"{path}[{key!r}]") for key, value in pairs}
    if kind in CONTAINERS:
        olds: list[Any] = list(current) if isinstance(current, list | tuple | deque) else []
        olds += [None] * (len(saved["items"]) - len(olds))
        items = [_restored(o, v, f"{path}[{i}]") for i, (o, v) in enumerate(zip(olds, saved["items"], strict=False))]
        return deque(items, saved["limit"]) if kind == "deque" else CONTAINERS[kind](items)
    return _restored_object(current, saved, path)


def _leads_elsewhere(text: str) -> bool:
    """Whether a text may be a path or a name to import; sentences with a slash in them are none."""
    one_word = len(text.split()) == 1
    return text.startswith(("/", "~", "./", "../")) or (
        one_word and (bool(set(text) & {"/", "\\"}) or IMPORTED.fullmatch(text) is not None)
    )


def _restored_array(saved: Mapping[str, Any]) -> Any:
    array = saved["bytes"].view(np.dtype(saved["dtype"])).reshape(saved["shape"]).copy()
    return array[()] if saved["scalar"] else array


def _restored_object(current: Any, saved: Mapping[str, Any], path: str) -> Any:
    kind = saved[KIND]
    if kind == "seen":
        return current
    if kind == "generator" and isinstance(current, np.random.Generator):
        current.bit_generator.state = _restored(None, saved["state"], path)
    elif kind == "random" and isinstance(current, random.Random):
        current.setstate(_restored(None, saved["state"], path))
    elif kind == "mujoco" and type(current).__name__ == "MjData":
        _restore_mujoco(current, saved)
    elif kind == "object" and type(current).__qualname__ == saved["type"] and _is_in_python(current):
        _restore_attributes(current, saved["attributes"], path)
    else:
        raise SnapshotError(f"{path} is a {type(current).__qualname__} in the copy")
    return current


def _restore_mujoco(data: Any, saved: Mapping[str, Any]) -> None:
    import mujoco

    state = saved["state"]
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    if mujoco.mj_stateSize(data.model, kind) != len(state):
        raise SnapshotError("the MuJoCo model is another one")
    mujoco.mj_setState(data.model, data, state, kind)
    mujoco.mj_forward(data.model, data)  # contacts and the like; it may touch the state, so that is set again
    mujoco.mj_setState(data.model, data, state, kind)
    for name, array in _mujoco_arrays(data).items():
        values = saved["derived"].get(name)
        if values is not None and values.shape == array.shape:
            array[...] = values
