"""Networks that are named by class path in a config or a checkpoint, as callables that make them.

`functools.partial(SparseMoE, num_experts=8)` and `{class_path: modules.experts.layer.SparseMoE, init_args:
{num_experts: 8}}` are two forms of one thing: the first works in Python, the second in YAML and in checkpoints. So are
a dataclass that groups arguments and the mapping of its fields, which needs no class path: the argument's hint says it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from modules.trust.hints import dataclass_of, fits, hints_of, made_by, part_of, unread_hints
from modules.trust.names import OWN, class_by_path, class_from_file, short


def describe(value: Any, name: str) -> Any:
    """The plain form of an argument: classes, and `functools.partial` of classes, by their class path, however deep;
    dataclasses by their fields.

    Args:
        value: value that a constructor was given.
        name: name of the argument, for errors.

    Raises:
        ValueError: a callable that has no class path, such as a lambda.
    """
    if isinstance(value, Mapping):
        return {key: describe(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(describe(item, name) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return describe(given, name)
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


def resolve(cls: type, arguments: Mapping[str, Any], where: str, *, own: bool = False) -> dict[str, Any]:
    """Keyword arguments of a class with everything that is given by class path made callable, and groups of arguments
    made the dataclasses that they are, as its hints say.

    Nothing is parsed and no file is opened: a text stays a text.

    Args:
        cls: the class.
        arguments: plain values, as `describe` makes them.
        where: file that they are from, for errors.
        own: they are from this process, which may name any class; else from a file, see `modules.trust.names`.

    Raises:
        ValueError: the class has no such argument, or a value is not of its kind, however deep; or a file names a class
            whose hints do not say of what kind that is.
    """
    if not own and (unread := unread_hints(cls)):
        raise ValueError(
            f"{where} names {cls.__name__}, and what its {short(', '.join(unread))} may be cannot be looked up: import "
            "what its hints name"
        )
    check_known(cls, arguments, where)
    hints = hints_of(cls)
    return {
        name: _made(value, hints.get(name, Any), f"{where}: {name} of {cls.__name__}", own)
        for name, value in arguments.items()
    }


def check_known(cls: type, arguments: Iterable[str], where: str) -> None:
    """Refuse names of arguments that a class does not take.

    Args:
        cls: the class.
        arguments: the names.
        where: file that they are from, for errors.

    Raises:
        ValueError: it names the first one; of a class of reverie's own, such a file is of another version.
    """
    parameters = inspect.signature(cls).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in arguments:
        if name not in parameters:
            ours = cls.__module__.partition(".")[0] in OWN
            why = "; it was written by an earlier version of reverie, or a later one" if ours else ""
            raise ValueError(f"{where}: {cls.__name__} has no argument {short(name)}{why}")


def _made(value: Any, hint: Any, where: str, own: bool) -> Any:
    """One argument; see `resolve`."""
    if isinstance(value, Mapping) and "class_path" in value:
        kind = object if hint is Any else made_by(hint)
        if kind is None:
            raise ValueError(f"{where} takes no class, but names {short(value['class_path'])}")
        arguments = value.get("init_args") or {}
        if not isinstance(arguments, Mapping) or value.keys() - {"class_path", "init_args"}:
            raise ValueError(f"{where} should have class_path and init_args alone, not {short(value)}")
        find = class_by_path if own else class_from_file
        found = find(value["class_path"], kind, where)
        given = resolve(found, arguments, where.partition(": ")[0], own=own)
        return functools.partial(found, **given) if given else found
    if isinstance(value, Mapping) and (group := dataclass_of(hint, value)) is not None:
        fields = resolve(group, value, where.partition(": ")[0], own=own)
        try:
            return group(**fields)
        except (TypeError, ValueError) as error:  # a field is missing, or out of its range
            raise ValueError(f"{where}: {error}") from error
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return [_made(item, part_of(hint, n), where, own) for n, item in enumerate(value)]
    if isinstance(value, Mapping) and made_by(part_of(hint, "")) is not None:
        return {key: _made(item, part_of(hint, key), f"{where}.{key}", own) for key, item in value.items()}
    if not own and not fits(value, hint):
        raise ValueError(f"{where} should be {short(inspect.formatannotation(hint))}, but is {short(value)}")
    return value
