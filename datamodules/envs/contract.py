"""The contract of an environment: one check of every value that `step` and `reset` return, whoever calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from modules.trust.names import cut

Step = tuple[Any, Any, Any, Any, dict[str, Any]]

NUMBERS = frozenset({float, int, bool, np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_})
FLAGS = frozenset({bool, np.bool_})


class ContractError(ValueError):
    """An environment breaks Gymnasium's interface or its own spaces, which no second try would mend."""


class Contract:
    """Checks what `step` and `reset` of an environment return against its interface and its observation space.

    Some deviations are harmless and accepted: arrays of another number type that NumPy casts within its kind (float64
    for float32), integers for an integer Box that fit into its type, sequences in place of arrays, rewards and flags as
    arrays of one element. Values outside the bounds of a Box pass: Gymnasium's own checker warns of them. NaN and
    infinity are found more cheaply in the values of all environments at once, see `check_finite`.

    Args:
        name: name of the environment, for errors.
        space: observation space.
    """

    def __init__(self, name: str, space: gym.Space) -> None:
        self.name = name
        self.space = space
        self._fits = quick_test(space)

    def of_step(self, result: Any) -> Step:
        """The checked result of `step`: observation, reward, terminated, truncated, info.

        Raises:
            ContractError: the result breaks the contract; the message names the environment, the field, the declared
                and the returned value.
        """
        if type(result) is tuple and len(result) == 5:
            observation, reward, terminated, truncated, info = result
            kinds = type(reward) in NUMBERS and type(terminated) in FLAGS and type(truncated) in FLAGS
            if kinds and type(info) is dict and self._fits(observation):
                return result
        return self._examined(result)

    def of_reset(self, result: Any) -> tuple[Any, dict[str, Any]]:
        """The checked result of `reset`: observation and info.

        Raises:
            ContractError: see `of_step`.
        """
        if not isinstance(result, tuple | list) or len(result) != 2 or not isinstance(result[1], Mapping):
            what = f"{len(result)} values" if isinstance(result, tuple) else f"{said(result)} alone"
            self._refuse(f"reset() must return an observation and a dict of infos, it returned {what}")
        observation, info = result
        return self._observation(observation, "reset"), dict(info)

    def _examined(self, result: Any) -> Step:
        if not isinstance(result, tuple | list) or len(result) != 5:
            what = said(result)
            if isinstance(result, tuple | list):
                old = " (gym's old interface, with one flag `done`)" if len(result) == 4 else ""
                what = f"{len(result)} values{old}"
            self._refuse(f"step() must return observation, reward, terminated, truncated, info; it returned {what}")
        observation, reward, terminated, truncated, info = result
        if not isinstance(info, Mapping):
            self._refuse(f"step() must return a dict of infos, it returned {said(info)}")
        checked = self._observation(observation, "step")
        flags = [self._flag("terminated", terminated), self._flag("truncated", truncated)]
        return checked, self._reward(reward), flags[0], flags[1], dict(info)

    def _observation(self, value: Any, call: str) -> Any:
        if self._fits(value):
            return value
        try:
            return as_declared(self.space, value)
        except ContractError as error:
            self._refuse(f"{call}() returned an observation{error}")

    def _reward(self, value: Any) -> float:
        array = _array(value)
        if array is None or array.dtype.kind not in "fiub" or array.size != 1:
            self._refuse(f"step() must return a reward that is one number, it returned {said(value)}")
        return float(array.reshape(())[()])

    def _flag(self, name: str, value: Any) -> bool:
        array = _array(value)
        if array is None or array.dtype.kind not in "fiub" or array.size != 1 or array.reshape(())[()] not in (0, 1):
            self._refuse(f"step() must return {name} as True or False, it returned {said(value)}")
        return bool(array.reshape(())[()])

    def _refuse(self, problem: str) -> NoReturn:
        raise ContractError(f"environment {self.name!r}: {problem}")


def plain_array(space: gym.Space) -> tuple[np.dtype | None, tuple[int, ...] | None]:
    """Type and shape of the observations of a Box; None for spaces of other kinds."""
    return (np.dtype(space.dtype), space.shape) if isinstance(space, gym.spaces.Box) else (None, None)


def quick_test(space: gym.Space) -> Callable[[Any], bool]:
    """A test that costs less than a microsecond for arrays and numbers; values that fail it may still be harmless."""
    if isinstance(space, gym.spaces.Box) and space.shape:
        return functools.partial(_is_array, space.shape, _castable(space.dtype))
    if isinstance(space, gym.spaces.Discrete):
        return functools.partial(_is_choice, int(space.start), int(space.start + space.n))
    if isinstance(space, gym.spaces.Dict):
        return functools.partial(_is_dict, [(key, quick_test(part)) for key, part in space.items()])
    return functools.partial(_is_inside, space)


def _is_array(shape: tuple[int, ...], kinds: frozenset[np.dtype], value: Any) -> bool:
    return type(value) is np.ndarray and value.shape == shape and value.dtype in kinds


def _is_choice(low: int, high: int, value: Any) -> bool:
    return (type(value) is int or type(value) is np.int64) and bool(low <= value < high)


def _is_dict(parts: list[tuple[str, Callable[[Any], bool]]], value: Any) -> bool:
    if type(value) is not dict or len(value) != len(parts):
        return False
    return all(key in value and fits(value[key]) for key, fits in parts)


def _is_inside(space: gym.Space, value: Any) -> bool:
    return bool(space.contains(value))


def _castable(dtype: np.dtype) -> frozenset[np.dtype]:
    """Types of numbers that NumPy casts to this one when environments are stacked."""
    every = (np.dtype(code) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?")
    return frozenset(kind for kind in every if kind.kind != "c" and np.can_cast(kind, dtype, "same_kind"))


def as_declared(space: gym.Space, value: Any) -> Any:
    """An observation, in the types of its space where they differ harmlessly.

    Raises:
        ContractError: it is of another kind; the message continues a sentence that begins with the name of the value.
    """
    if isinstance(space, gym.spaces.Dict):
        return _dict_as_declared(space, value)
    if isinstance(space, gym.spaces.Box):
        return _box_as_declared(space, value)
    if isinstance(space, gym.spaces.Discrete):
        array = _array(value)
        last = int(space.start + space.n) - 1
        if array is None or array.dtype.kind not in "iu" or array.shape or not space.start <= array[()] <= last:
            raise ContractError(f" {said(value)}, its space declares an integer from {int(space.start)} to {last}")
        return int(array[()])
    if not space.contains(value):
        raise ContractError(f" {said(value)}, which is not in its space {cut(repr(space))}")
    return value


def _dict_as_declared(space: gym.spaces.Dict, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ContractError(f" {said(value)}, its space declares a dict of the keys {cut(repr(list(space)))}")
    if set(value) != set(space):
        raise ContractError(
            f" with the keys {cut(repr(sorted(map(str, value))))}, its space declares {cut(repr(list(space)))}"
        )
    parts = {}
    for key, part in space.items():
        try:
            parts[key] = as_declared(part, value[key])
        except ContractError as error:
            raise ContractError(f", key {key!r},{error}") from None
    return parts


def _box_as_declared(space: gym.spaces.Box, value: Any) -> np.ndarray:
    array = _array(value)
    if array is None or array.dtype.kind not in "fiub":
        raise ContractError(f" {said(value)}, its space declares an array of {space.dtype} {list(space.shape)}")
    if array.shape != space.shape:
        raise ContractError(f" of shape {list(array.shape)}, its space declares {list(space.shape)}")
    if array.dtype in _castable(space.dtype):
        return array.astype(space.dtype)
    if space.dtype.kind in "iu" and array.dtype.kind in "iu":
        limits: Any = np.iinfo(np.dtype(space.dtype).name)
        if array.size == 0 or (array.min() >= limits.min and array.max() <= limits.max):
            return array.astype(space.dtype)
    raise ContractError(f" of {array.dtype} that does not fit into the {space.dtype} that its space declares")


def check_finite(
    environment: str,
    what: str,
    values: np.ndarray,
    counted: np.ndarray | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """Refuse `[t, N, ...]` values of `N` environments that are NaN or infinite.

    Args:
        environment: name of the environment, for the error.
        what: name of the values, for the error.
        values: values of any type; only floats can fail.
        counted: `[N]` bool, the environments whose values count; None for all.
        seeds: `N` seeds of the running episodes, which the error then names instead of the environment.

    Raises:
        ContractError: one is NaN or infinite.
    """
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    wrong = ~np.isfinite(values.reshape(*values.shape[:2], -1)).all(axis=2)
    found = np.argwhere(wrong if counted is None else wrong & counted)
    if len(found):
        index = int(found[0][1])
        of, where = (
            (f" of environment {index}", "") if seeds is None else ("", f" in the episode of seed {seeds[index]}")
        )
        raise ContractError(f"environment {environment!r}: the {what}{of} is not finite (NaN or infinite){where}")


def said(value: Any) -> str:
    """Text of a value for a message: its type, its shape if it has one, and the value if it is short."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"an array of {value.dtype} {list(value.shape)}"
    if value is None:
        return "None"
    return f"{type(value).__name__} {cut(repr(value))}"


def _array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except Exception:  # whatever an object's `__array__` raises: it is no array
        return None
