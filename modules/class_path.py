"""Networks that are named by class path in a config or a checkpoint, as callables that make them.

`functools.partial(SparseMoE, num_experts=8)` and `{class_path: modules.networks.experts.SparseMoE, init_args:
{num_experts: 8}}` are two forms of one thing: the first works in Python, the second in YAML and in checkpoints.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser


def describe(value: Any, name: str) -> Any:
    """The plain form of an argument: classes, and `functools.partial` of classes, by their class path, however deep.

    Args:
        value: what a constructor was given.
        name: of the argument, for errors.

    Raises:
        ValueError: a callable that has no class path, such as a lambda.
    """
    if isinstance(value, Mapping):
        return {key: describe(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(describe(item, name) for item in value)
    if not callable(value):
        return value
    made, arguments = value, {}
    if isinstance(value, functools.partial) and not value.args:
        made, arguments = value.func, value.keywords
    if not inspect.isclass(made) or "<locals>" in made.__qualname__:
        raise ValueError(
            f"{name} must be a class that can be imported, or functools.partial of one with keywords, for a checkpoint "
            f"to name it; got {value}"
        )
    path = f"{made.__module__}.{made.__qualname__}"
    return {"class_path": path, "init_args": describe(arguments, name)} if arguments else {"class_path": path}


def resolve(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a class with everything that is given by class path made callable, as its hints say.

    Raises:
        ValueError: a class path leads nowhere, or its arguments do not fit.
    """
    named = {key: value for key, value in arguments.items() if isinstance(value, Mapping) and "class_path" in value}
    if not named:
        return dict(arguments)
    parser = ArgumentParser(exit_on_error=False)
    others = inspect.signature(cls).parameters.keys() - named.keys()
    parser.add_class_arguments(cls, "it", instantiate=False, skip=set(others), fail_untyped=False)
    try:
        made = parser.instantiate_classes(parser.parse_object({"it": named})).it
    except ArgumentError as error:
        raise ValueError(str(error)) from error
    return {**arguments, **vars(made)}
