"""Who wins where a setting is given twice: flags over configs wherever they stand, later configs over earlier ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jsonargparse import Namespace

from commands.config_files import ConfigFile

CONFIG = ("-c", "--config")
NEGATIVE = re.compile(r"-\.?(\d|inf\b)")
"""The beginning of a negative number as YAML may have it; the parser itself takes `-1e3` for an option."""
CLASS = ("--model", "--data", "--model.class_path", "--data.class_path")


def in_order(arguments: Sequence[str]) -> list[str]:
    """The arguments with configs first and then the classes of model and data; the others in the order given.

    A negative number after the name of its argument is joined to it: `--model.value -1e3` is `--model.value=-1e3`.

    A parser goes through them from left to right: a config would override the flags before it, and an argument of a
    model would be looked for in the class that stands so far.
    """
    ranked: list[tuple[int, list[str]]] = []
    left: list[str] = []
    for argument in arguments:
        if left and left[-1].startswith("--") and "=" not in left[-1] and NEGATIVE.match(argument):
            left[-1] = f"{left[-1]}={argument}"
        else:
            left.append(argument)
    while left:
        name, separator, _ = left[0].partition("=")
        rank = 0 if name in CONFIG else 1 if name in CLASS else 2
        width = 2 if rank < 2 and not separator and len(left) > 1 else 1
        ranked.append((rank, left[:width]))
        del left[:width]
    return [part for _, parts in sorted(ranked, key=lambda pair: pair[0]) for part in parts]


class Written(NamedTuple):
    """An argument of a class in a config.

    Attributes:
        value: value as it was written.
        cls: short name of the class, as far as the configs say it.
        file: file that says so.
    """

    value: Any
    cls: str | None
    file: ConfigFile


def dropped_arguments(files: Sequence[ConfigFile], arguments: Sequence[str], result: Namespace) -> Iterator[str]:
    """Say which arguments in configs went when another class was chosen, which does not take them or not their values.

    Args:
        files: files in the order in which they were merged.
        arguments: arguments of the command line.
        result: result of parsing all of them.
    """
    written: dict[tuple[str, ...], Written] = {}
    classes: dict[tuple[str, ...], str] = {}
    for file in files:
        for place, value, named in _written(file.content, (), classes):
            written[place] = Written(value, named, file)
    flags = {re.sub(r"\.init_args\b", "", flag.split("=")[0].removeprefix("--")) for flag in arguments}
    gone: dict[tuple[str, ...], list[str]] = {}
    for place, argument in written.items():
        chosen = _find(result, place[:-1])
        cls, taken = _class_of(chosen), getattr(chosen, "init_args", None) or Namespace()
        if cls is None or cls == argument.cls or ".".join(place) in flags:
            continue
        if place[-1] not in taken or _differ(argument.value, taken[place[-1]]):
            gone.setdefault((*place[:-1], cls, str(argument.file.path)), []).append(place[-1])
    for (*key, cls, path), names in gone.items():
        verb = "is" if len(names) < 2 else "are"
        yield f"{'.'.join(key)} is {cls}, so that {', '.join(names)} of {path} {verb} dropped"


def _written(
    content: Mapping[str, Any], place: tuple[str, ...], classes: dict[tuple[str, ...], str]
) -> Iterator[tuple[tuple[str, ...], Any, str | None]]:
    """Place, value and class of every argument of a class, however deep; keeps track of the classes."""
    path, arguments = content.get("class_path"), content.get("init_args")
    if isinstance(path, str):
        classes[place] = path.rpartition(".")[2]
    for name, value in arguments.items() if isinstance(arguments, Mapping) else ():
        yield (*place, str(name)), value, classes.get(place)
    inner = arguments if isinstance(arguments, Mapping) else content
    for name, value in inner.items():
        if isinstance(value, Mapping):
            yield from _written(value, (*place, str(name)), classes)


def _find(result: Any, place: Sequence[str]) -> Any:
    """The value that stands there; None where none does."""
    for name in place:
        inner = getattr(result, "init_args", None) or result
        result = inner.get(name) if isinstance(inner, Namespace | dict) else None
    return result


def _class_of(chosen: Any) -> str | None:
    path = chosen.get("class_path") if isinstance(chosen, Namespace) else None
    return path.rpartition(".")[2] if isinstance(path, str) else None


def _differ(written: Any, taken: Any) -> bool:
    """Whether a plain value is another one."""
    plain = isinstance(written, int | float | str | list | None) and not isinstance(taken, Namespace)
    return plain and written != (list(taken) if isinstance(taken, tuple) else taken)
