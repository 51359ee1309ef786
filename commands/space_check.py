"""A search space held against the parser of `reverie fit`, before the first trial."""

from __future__ import annotations

import io
import typing
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from typing import Any

from commands.class_names import arguments_of_class
from commands.resolved_config import resolved_config
from commands.search_space import Choices, Range, SearchSpace, argument, bare
from modules.trust.names import short


def checked_space(space: SearchSpace, shared: Sequence[str], agent: type) -> SearchSpace:
    """The space as the arguments have it: with its axis, and integers only where an argument takes no others.

    Args:
        space: the space as it was read.
        shared: arguments of `reverie fit` that all trials share.
        agent: class of the agent.

    Raises:
        ValueError: there is no such key, or it does not take a value; in the words of the parser.
    """
    space = replace(space, axis=_axis(space, agent))
    # One parse for the first value of each key, one for the second, and so on.
    probes = {key: values.probes() for key, values in space.keys.items()}
    for number in range(max(map(len, probes.values()))):
        given = {key: values[min(number, len(values) - 1)] for key, values in probes.items()}
        _parse(space, shared, given)
    if space.axis is not None:
        _parse(space, shared, {space.axis: probes[space.axis]})
    # Ends that are written as integers, of arguments that take all numbers in between.
    unsure = {key: values for key, values in space.keys.items()
              if isinstance(values, Range) and values.whole and values.step is None}  # fmt: skip
    between = {key: values.low + 0.5 for key, values in unsure.items()}
    floats = [key for key, value in between.items() if _takes(space, shared, {key: value})]
    return space.with_floats(floats)


def population_argument(agent: type) -> str | None:
    """The argument of an agent whose values may be members of one process, such as `beta`; None without such."""
    hints = {name: known.hint for name, known in arguments_of_class(agent).items()}
    if "seeds" not in hints:
        return None
    return next((name for name, hint in hints.items() if {float, list[float]} <= set(typing.get_args(hint))), None)


def _axis(space: SearchSpace, agent: type) -> str | None:
    """The key with choices that are members of one process."""
    name = population_argument(agent)
    for key, values in space.keys.items():
        if name is None or bare(key) != f"model.{name}" or not isinstance(values, Choices):
            continue
        if not all(type(value) in (int, float) for value in values.values):
            return None
        if len({f"{value:g}" for value in values.values}) < len(values.values):
            raise ValueError(f"{space.path}: {key}.choices has values that differ too little to be told apart")
        return key if len(values.values) > 1 else None
    return None


def _parse(space: SearchSpace, shared: Sequence[str], given: Mapping[str, Any]) -> None:
    """Let the parser of `fit` read these values.

    Raises:
        ValueError: it refuses one.
    """
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            resolved_config([*shared, *(argument(key, value) for key, value in given.items())])
    except (SystemExit, ValueError) as leaving:
        said = str(leaving) if isinstance(leaving, ValueError) else told.getvalue().strip().splitlines()[-1]
        raise ValueError(f"{short(space.path, 150)}: {said.removeprefix('reverie: error: ')}") from leaving


def _takes(space: SearchSpace, shared: Sequence[str], given: Mapping[str, Any]) -> bool:
    try:
        _parse(space, shared, given)
    except ValueError:
        return False
    return True
