"""Names of classes and of their arguments, and the one nearest to a name that does not exist."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from jsonargparse import ArgumentParser

from commands.jsonargparse_private import Argument, arguments_of, option_names, required_keys
from modules.trust.hints import kinds_of

OFFERED = ("modules", "datamodules", "callbacks", "pytorch_lightning")
"""Packages whose classes are offered in the place of one that does not exist."""


def nearest_name(wrong: str, names: Iterable[str]) -> str | None:
    """The name most like `wrong`, if any is alike."""
    close = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.5)
    return close[0] if close else None


def walk_subclasses(base: type, packages: tuple[str, ...] = OFFERED[:3]) -> Iterable[type]:
    """All subclasses of a class, however deep, that live in these packages; our own by default."""
    children: list[type] = type.__subclasses__(base)
    for cls in children:
        if cls.__module__.split(".")[0] in packages:
            yield cls
        yield from walk_subclasses(cls, packages)


def arguments_of_class(cls: Any, by_call: int = 0) -> dict[str, Argument]:
    """All arguments of a class, as the parser sees them: those that it hands on to its bases, too.

    Args:
        cls: the class.
        by_call: number of its first arguments that are left out, as whoever makes it gives them, see `given_by_call`.
    """
    return arguments_of(_parser_of(cls, by_call))


def required_of_class(cls: Any, by_call: int = 0) -> list[str]:
    """Names of those of a class's arguments that have no default; the arguments are those of `arguments_of_class`."""
    return [key.removeprefix("--") for key in required_keys(_parser_of(cls, by_call))]


@functools.cache
def _parser_of(cls: Any, by_call: int) -> ArgumentParser:
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_class_arguments(cls, fail_untyped=False, skip={by_call} if by_call else set())
    return parser


def argument_names(cls: type) -> list[str]:
    """Names of a class's arguments, and of the fields of those that are groups, such as `critic.target_rate`."""
    return sorted(with_groups(arguments_of_class(cls)))


def with_groups(names: Iterable[str]) -> set[str]:
    """Keys and the groups that they are in: `trainer` of `trainer.max_epochs`."""
    parts = [name.split(".") for name in names]
    return {".".join(some[: n + 1]) for some in parts for n in range(len(some))}


def known_keys(parser: ArgumentParser) -> set[str]:
    """All keys of a parser with their groups, and arguments of the classes that may be chosen as model and data."""
    keys = with_groups(option_names(parser))
    arguments: Mapping[str, Argument] = arguments_of(parser)
    for group in {"model", "data"} & arguments.keys():
        keys |= {f"{group}.class_path", f"{group}.init_args"}
        for kind in kinds_of(arguments[group].hint):
            for cls in walk_subclasses(kind):
                for name in with_groups(arguments_of_class(cls)):
                    keys |= {f"{group}.{name}", f"{group}.init_args.{name}"}
    return keys
