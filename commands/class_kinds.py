"""Arguments that take classes: each is given a class of the kind that its hint asks for, and no function."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from commands.class_names import arguments_of_class
from commands.jsonargparse_private import Argument, arguments_of
from modules.trust.hints import is_protocol, kinds_of, made_by, part_of
from modules.trust.names import short


def check_kinds(parser: ArgumentParser, parsed: Namespace) -> None:
    """Refuse functions, and classes where none is asked for, before anything that a config names is called.

    A config names classes as it likes; jsonargparse takes functions for them too, such as `os.system`, and calls them;
    where an argument takes anything, as each value of `dict[str, Any]` does, it makes whatever has a `class_path`.

    Args:
        parser: parser whose type hints are those that jsonargparse itself goes by.
        parsed: values that it has parsed. Keys that the parser does not know are left out, since it refuses them
            itself.

    Raises:
        ValueError: a function, or a class that is not of the kind that the argument's hint asks for.
    """
    _check_all(parsed, arguments_of(parser), "")


def _check_all(given: Namespace, known: Mapping[str, Argument], where: str, group: str = "") -> None:
    for name, value in vars(given).items():
        key, place = f"{group}{name}", f"{where}.{name}".lstrip(".")
        if key in known:
            if value is not known[key].default:
                _check(value, known[key].hint, place)
        elif isinstance(value, Namespace):
            _check_all(value, known, place, f"{key}.")
        elif any(other.startswith(f"{key}.") for other in known):
            said = "null" if value is None else short(value)
            raise ValueError(f"{place} is given by its fields, not by {said!r}")


def _check(value: Any, hint: Any, where: str) -> None:
    """One value of an argument, however deep; the arguments are the value, its hint and its name for errors."""
    if isinstance(value, list | tuple | set):
        for n, item in enumerate(value):
            _check(item, part_of(hint, n), f"{where}[{n}]")
    elif isinstance(value, Namespace | Mapping):
        if "class_path" in value:
            _check_class(value, hint, where)
            return
        fields = next(iter(kinds_of(hint)), None)
        if isinstance(value, Namespace) and fields is not None:  # a dataclass, whose fields are given without its name
            _check_all(value, arguments_of_class(fields), where)
            return
        for key, item in value.items():
            _check(item, part_of(hint, str(key)), f"{where}.{key}")
    elif callable(value):
        kind = made_by(hint)
        if not inspect.isclass(value) or (kind is not None and not issubclass(value, kind)):
            asked = f" of the kind {kind.__name__}" if kind is not None else ""
            raise ValueError(f"{where}: {short(value)} is no class{asked}")


def _check_class(value: Namespace | Mapping[str, Any], hint: Any, where: str) -> None:
    """A class by its path, and its arguments."""
    named, kinds = value["class_path"], kinds_of(hint)
    if not kinds:
        raise ValueError(f"{where} takes plain values and no class, but names {short(named)}")
    found: Any
    try:
        found = pkgutil.resolve_name(named)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: there is no class {short(named)}") from error
    fits = inspect.isclass(found) and any(is_protocol(kind) or issubclass(found, kind) for kind in kinds)
    if not fits:
        asked = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{where}: {short(named)} is no class of the kind {asked}")
    given = value.get("init_args") or Namespace()
    if any(
        isinstance(item, list | tuple | set | Namespace | Mapping) or callable(item) for item in vars(given).values()
    ):
        _check_all(given, arguments_of_class(found), where)
    _check(value.get("dict_kwargs") or {}, Any, where)
