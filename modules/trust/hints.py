"""Type hints of arguments: the kind that one asks for, and whether a value that a file holds is of it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import types
import typing
from collections import abc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from weakref import WeakKeyDictionary

PLAIN = ("builtins", "typing", "collections.abc")
"""Modules of the kinds that plain values are of, or that say nothing about them: `int`, `Any`, `Sequence`."""


_looked_up: WeakKeyDictionary[Any, tuple[dict[str, Any], dict[str, Any]]] = WeakKeyDictionary()
"""Constructors, what is written at their arguments, and their hints; those alone whose hints were all looked up."""


def hints_of(cls: type) -> dict[str, Any]:
    """Hints of a constructor's arguments by name; without those that are not given or cannot be looked up."""
    made_by_it = cls.__init__  # type: ignore[misc]  # of the class itself, not of an instance
    given = getattr(made_by_it, "__annotations__", {})
    if not given:
        return {}
    # Looking up is slow, and a file may name a class hundreds of times. What is not found may be there later.
    before, hints = _looked_up.get(made_by_it, ({}, {}))
    if before == given:
        return {**hints}
    names = getattr(inspect.unwrap(made_by_it), "__globals__", {})
    hints = {}
    for argument, written in given.items():
        alone = types.SimpleNamespace(__annotations__={argument: written})  # one that fails takes no other with it
        with contextlib.suppress(NameError, TypeError, AttributeError, SyntaxError):
            hints.update(typing.get_type_hints(alone, names))
    if hints.keys() == given.keys():
        _looked_up[made_by_it] = ({**given}, hints)
    return {**hints}


def unread_hints(cls: type) -> list[str]:
    """Names of a constructor's arguments whose hints are given and cannot be looked up."""
    given = getattr(cls.__init__, "__annotations__", {})  # type: ignore[misc]  # as above
    return sorted(given.keys() - hints_of(cls).keys())


def is_protocol(hint: Any) -> bool:
    """Whether this is a protocol itself, and no class that follows one."""
    return inspect.isclass(hint) and typing.Protocol in hint.__bases__


def made_by(hint: Any) -> type | None:
    """The class of what a callable with this hint makes, `X` of `Callable[..., X]`; None where no such is asked for."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return next((kind for kind in map(made_by, get_args(hint)) if kind is not None), None)
    made = None
    if origin is abc.Callable:
        made = get_args(hint)[-1] if get_args(hint) else None
    elif is_protocol(hint) and "__call__" in vars(hint):
        made = typing.get_type_hints(hint.__call__).get("return")
    made = get_origin(made) or made
    return made if inspect.isclass(made) and made not in (Any, types.NoneType) else None


def given_by_call(hint: Any) -> int:
    """Number of arguments that whoever calls a callable with this hint gives: 2 of `Callable[[int, int], X] | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return max(map(given_by_call, get_args(hint)))
    if made_by(hint) is None:
        return 0
    if get_origin(hint) is abc.Callable:
        taken = get_args(hint)[0]
        return len(taken) if isinstance(taken, list) else 1  # of `...`, which jsonargparse counts as one
    return len(inspect.signature(hint.__call__).parameters) - 1


def kinds_of(hint: Any) -> list[type]:
    """The classes that a value with this hint is made by, `[X, Y]` of `X | Callable[..., Y] | list[Z] | str | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for part in get_args(hint) for kind in kinds_of(part)]
    if get_origin(hint) is Annotated:
        return kinds_of(get_args(hint)[0])
    kind = made_by(hint) or get_origin(hint) or hint
    return [kind] if inspect.isclass(kind) and kind.__module__ not in PLAIN else []


def dataclass_of(hint: Any, names: Iterable[str] = ()) -> type | None:
    """The dataclass among what a value with this hint may be: its fields are given by name, without its class path.

    Args:
        hint: the hint.
        names: fields that are given; of several dataclasses, the first that has them all is meant.
    """
    found = _dataclasses(hint)
    meant = (kind for kind in found if {*names} <= {field.name for field in dataclasses.fields(kind)})
    return next(meant, found[0] if found else None)


def _dataclasses(hint: Any) -> list[type]:
    if get_origin(hint) in (Union, types.UnionType, Annotated):
        return [kind for part in get_args(hint) for kind in _dataclasses(part)]
    return [hint] if inspect.isclass(hint) and dataclasses.is_dataclass(hint) else []


def part_of(hint: Any, key: int | str) -> Any:
    """The hint of an item of a list, or of a value of a dict, with this hint; `Any` where it has none."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((part_of(part, key) for part in inner if _holds(part, str if isinstance(key, str) else int)), Any)
    if isinstance(key, str):
        return inner[1] if len(inner) == 2 else Any
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return inner[key] if key < len(inner) else Any
    return inner[0] if inner else Any


def _holds(hint: Any, key: type) -> bool:
    """Whether values with this hint hold others: by names, for `str`, or one after the other, for `int`."""
    kind = get_origin(hint) or hint
    if not inspect.isclass(kind) or is_protocol(kind):
        return False
    if key is str:
        return issubclass(kind, Mapping)
    return issubclass(kind, list | tuple | set) or (kind is not object and issubclass(list, kind))


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is what the hint says; hints that say nothing about plain values take all of them."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, h) for h in inner)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if made_by(hint) is not None or origin is abc.Callable:
        return False  # a callable is no plain value
    kind = origin or hint
    if not inspect.isclass(kind) or kind is Any or is_protocol(kind):
        return value is None if kind is None else True
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if issubclass(kind, Path):
        return isinstance(value, str)
    if (kind is not str and issubclass(kind, list | tuple)) or kind in (abc.Sequence, abc.Iterable, abc.Collection):
        right = isinstance(value, list | tuple)
        if right and kind is tuple and inner and inner[-1] is not Ellipsis:
            right = len(value) == len(inner)
        return right and all(fits(item, part_of(hint, n)) for n, item in enumerate(value))
    if kind is dict or kind in (abc.Mapping, abc.MutableMapping):
        return isinstance(value, Mapping) and all(fits(item, part_of(hint, str(k))) for k, item in value.items())
    return isinstance(value, kind)


def parts_of(hint: Any) -> tuple[Any, ...]:
    """The hints of which a union is made; the hint itself of any other."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def words(hint: Any) -> str:
    """A hint for people: `float or list`, `one of 'sum', 'mean'`."""
    named = []
    for part in parts_of(hint):
        if get_origin(part) is Literal:
            named.append(f"one of {', '.join(map(repr, get_args(part)))}")
        elif part is not types.NoneType:
            named.append((get_origin(part) or part).__name__)
    return " or ".join(dict.fromkeys(named))
