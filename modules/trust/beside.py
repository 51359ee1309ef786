"""Modules of the user's own beside him, in the current folder, which an installed command does not look into."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from modules.trust.names import trusted_names, trusting

NAMED = re.compile(r"(?<![\w./:-])([A-Za-z_]\w*)(?:(?:\.\w+)*\.[A-Z]\w*|:[A-Za-z][\w/-]*-v\d+)")
"""The module in a class path, whose last word has a capital, or in an environment's id of the form `module:Name-v0`."""


class Beside(MetaPathFinder):
    """Finds the modules that the user has named, each in the folder that was the current one then, and no others.

    Python asks it last, so that no file beside stands in for what is installed.
    """

    def __init__(self) -> None:
        self.folders: dict[str, str] = {}

    def add(self, folders: Mapping[str, str]) -> None:
        """Find these modules from now on, each in its folder."""
        self.folders.update(folders)
        if self.folders and self not in sys.meta_path:
            sys.meta_path.append(self)
        importlib.invalidate_caches()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (dict(self.folders),)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module of this name is; None for one that was not named."""
        folder = self.folders.get(name)
        return None if folder is None else PathFinder.find_spec(name, [folder], target)


_finder = Beside()
"""The finder of this process."""


def _arrived(folders: Mapping[str, str]) -> Beside:
    """The finder of the process that another one's was sent to, which finds the same modules."""
    _finder.add(folders)
    return _finder


def with_finder(made: Callable[..., Any]) -> Callable[..., Any]:
    """A callable as it is, for a process of its own: what is found and trusted here is found and trusted there, too.

    The finder comes first, so that it is there before anything else of the callable, or after it, is unpickled.
    """
    return functools.partial(_called, _finder, made, trusted_names())


def _called(_: Beside, made: Callable[..., Any], trusted: Sequence[str], *args: Any, **kwargs: Any) -> Any:
    with trusting(trusted):
        return made(*args, **kwargs)


def find_beside(module: str) -> None:
    """Let a module be imported from the current folder, if it is found there and nowhere else.

    This holds for modules that the user names himself alone: what lies in a folder must not stand in for a package that
    is not installed, whoever imports that later.
    """
    top = module.partition(".")[0]
    if top in sys.modules or not (Path(f"{top}.py").is_file() or Path(top).is_dir()):
        return
    if importlib.util.find_spec(top) is None:
        _finder.add({top: os.getcwd()})


def find_named(text: str, trusted: Sequence[str] = ()) -> None:
    """`find_beside` for every module that a command line or a config names by class path or environment.

    Args:
        text: text of the command line or the config.
        trusted: modules and classes that the user says he trusts.
    """
    for module in dict.fromkeys([*NAMED.findall(text), *trusted]):
        find_beside(module)
