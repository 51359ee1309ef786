"""Modules of the user's own beside him, in the current folder, which an installed command does not look into."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

NAMED = re.compile(r"(?<![\w./:-])([A-Za-z_]\w*)(?:(?:\.\w+)*\.[A-Z]\w*|:[A-Za-z][\w/-]*-v\d+)")
"""The module in a class path, whose last word has a capital, or in an environment's id of the form `module:Name-v0`."""


def find_beside(module: str) -> None:
    """Let a module be imported from the current folder, if it is found there and nowhere else.

    The folder comes last on the path, for modules that the user names himself alone: what lies in a folder must not
    stand in for a package that is not installed.
    """
    top, here = module.partition(".")[0], os.getcwd()
    if top in sys.modules or here in sys.path or not (Path(f"{top}.py").is_file() or Path(top).is_dir()):
        return
    if importlib.util.find_spec(top) is None:
        sys.path.append(here)
        importlib.invalidate_caches()


def find_named(text: str, trusted: Sequence[str] = ()) -> None:
    """`find_beside` for every module that a command line or a config names by class path or environment.

    Args:
        text: of the command line or the config.
        trusted: modules and classes that the user says he trusts.
    """
    for module in dict.fromkeys([*NAMED.findall(text), *trusted]):
        find_beside(module)
