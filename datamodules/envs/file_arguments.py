"""Arguments of environments and wrappers that a file gives: plain values of modest size that lead to no other file.

An environment opens the files that its arguments name, and allocates the sizes that they give. So a user may give
paths, names of things to import and numbers of any size, and a file may not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym

from modules.trust.names import check_plain, short

LARGEST_NUMBER = 10_000
"""Greatest integer, apart from seeds and limits of time."""
LARGEST_TOTAL = 10_000
"""Most values and letters of all arguments together."""
DEEPEST = 20
"""Most lists and dicts within each other."""
LARGEST_OBSERVATION = 1 << 26
"""Most numbers of one observation."""

PATHS = re.compile(r"(.*_)?(file|filename|path|dir|folder|directory|url|uri)s?", re.IGNORECASE)
"""Arguments that name something to be opened, as `xml_file` of the MuJoCo environments does."""
COUNTED = re.compile(r".*(seed|random|steps|frames|limit|horizon).*", re.IGNORECASE)
"""Integers that nothing is as large as: seeds, and the steps of an episode."""
LARGE = re.compile(r"[1-9]\d{5}")
"""A size in a text, as in the type `S500000`."""
IMPORTED = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)+")
"""`package.module`, `module:Class`, `file.xml`: something to be looked for elsewhere."""


def arguments_from_file(
    arguments: Mapping[str, Any], where: str, way_out: str, names_keys: bool = False
) -> dict[str, Any]:
    """The arguments that a file gives, without a `render_mode` that would open a window.

    Args:
        arguments: arguments by name.
        where: file, and owner of the arguments; for errors.
        way_out: advice for the user, at the end of an error.
        names_keys: whether `keys` are those of observations, as of reverie's own wrappers, which open no files; a slash
            stands between the keys of nested parts.

    Raises:
        ValueError: they are no plain values, are large, or one may lead to a file or to code.
    """
    check_plain(arguments, where)
    total = 0
    for name, value, depth in _parts(arguments):
        total += 1 + len(name) + (len(value) if isinstance(value, str) else 0)
        if depth > DEEPEST or total > LARGEST_TOTAL:
            raise ValueError(
                f"{where} are lists of more than {DEEPEST} levels, or more than {LARGEST_TOTAL:,} values and letters; "
                f"{way_out}"
            )
        key = name == "render_mode" or (names_keys and name == "keys")
        if isinstance(value, str) and not key and (PATHS.fullmatch(name) or _leads_elsewhere(value)):
            raise ValueError(f"{where}: {short(name)} may name a file or code, {short(value)}; {way_out}")
        large = type(value) is int and abs(value) > LARGEST_NUMBER and not COUNTED.fullmatch(name)
        if large or (isinstance(value, str) and LARGE.search(value)):
            raise ValueError(
                f"{where}: {short(name)} is {short(value)}, and a file may say up to {LARGEST_NUMBER:,}; {way_out}"
            )
    shown = arguments.get("render_mode") in (None, "rgb_array")
    return {name: value for name, value in arguments.items() if shown or name != "render_mode"}


def check_observation(space: gym.Space, name: str) -> None:
    """Refuse an environment with observations that no agent could hold.

    Args:
        space: observation space.
        name: name of the environment, for errors.

    Raises:
        ValueError: one observation has more than 2^26 numbers.
    """
    parts, numbers = [space], 0
    while parts:
        part = parts.pop()
        if isinstance(part, gym.spaces.Dict | gym.spaces.Tuple):
            parts.extend(part.spaces.values() if isinstance(part, gym.spaces.Dict) else part.spaces)
        elif part.shape is not None:
            size = 1
            for side in part.shape:
                size *= side
            numbers += size
    if numbers > LARGEST_OBSERVATION:
        raise ValueError(
            f"environment {name!r} has observations of {numbers:,} numbers, up to {LARGEST_OBSERVATION:,} are taken; "
            "give smaller sizes in environment_arguments or wrappers"
        )


def _parts(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Every value, however deep, with the name that it has or is listed under, and its depth."""
    rest: list[tuple[str, Any, int]] = [("", arguments, 0)]
    while rest:
        name, value, depth = rest.pop()
        yield name, value, depth
        if isinstance(value, Mapping):
            rest.extend((key, item, depth + 1) for key, item in value.items())
        elif isinstance(value, list | tuple):
            rest.extend((name, item, depth + 1) for item in value)


def _leads_elsewhere(text: str) -> bool:
    """Whether a text may be taken for a path, for a file that is there, or for a name to import."""
    if not text.isprintable() or set(text) & {"/", "\\"} or text.startswith(("~", ".")) or IMPORTED.fullmatch(text):
        return True
    return os.path.lexists(text) and not os.path.isdir(text)
