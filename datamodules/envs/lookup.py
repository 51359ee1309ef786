"""Advice on an environment that cannot be found: the nearest id, or the package and how to install it."""

from __future__ import annotations

import difflib
import os
import re

import gymnasium as gym

EXTRAS = {"ale_py": "atari", "cv2": "atari", "crafter": "crafter", "dm_control": "control", "ray": "ray"}
"""Our extra that installs a module."""

PACKAGES = {"jax": "gymnasium[jax]", "Box2D": "gymnasium[box2d]", "box2d": "gymnasium[box2d]"}
"""Package that installs a module which Gymnasium's own environments need."""

ATARI = re.compile(r"(?:ALE/)?([A-Z]\w*?)(?:NoFrameskip|Deterministic|-ram)*-v\d+")
CONTROL = re.compile(r"(?:dm_control/)?(\w+)-(\w+)-v\d+")


def unknown_id(id: str) -> str:
    """Advice on an id that is not registered: the id or the package that it probably means."""
    module, colon, name = id.rpartition(":")
    if colon:
        return f"the module {module!r} was imported, but registers no {name!r}"
    if id.startswith("ALE/"):
        return f"Atari games need {extra('atari')}; `Pong` for example is then 'ALE/Pong-v5'"
    if id.startswith("dm_control/"):
        task = CONTROL.fullmatch(id)
        domain, task_name = task.groups() if task else ("walker", "walk")
        arguments = f"'{{domain: {domain}, task: {task_name}}}'"
        return (
            "the Control Suite is here --data.environment reverie/ControlSuite-v1 "
            f"--data.environment_arguments {arguments}, and needs {extra('control')}"
        )
    if id.lower().startswith("crafter"):
        return f"Crafter is here 'reverie/Crafter-v1', and needs {extra('crafter')}"
    game = ATARI.fullmatch(id)
    if game and re.search(r"NoFrameskip|Deterministic|-ram", id):
        return f"the game is 'ALE/{game[1]}-v5' by now, and needs {extra('atari')}"
    close = difflib.get_close_matches(id, gym.registry, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}? An environment of another package has the id package:Name-v0"
    return (
        "an environment of another package has the id package:Name-v0; "
        'list the ids with: python -c "import gymnasium; gymnasium.pprint_registry()"'
    )


def missing_package(id: str, error: Exception) -> str:
    """Advice on an environment whose package is missing: how to install it, or a newer version of the environment."""
    module, colon, _ = id.rpartition(":")
    if colon and _missing(error) == module.partition(".")[0]:
        return (
            f"environment {id!r} names a module {module!r} that is neither installed nor in the current folder "
            f"{os.getcwd()}; if it is elsewhere: PYTHONPATH=FOLDER reverie ..."
        )
    name, _, version = id.rpartition("-v")
    newest = max((spec.version or 0 for spec in gym.registry.values() if spec.name == name), default=0)
    newer = version.isdigit() and int(version) < newest
    if newer and "moved to" in str(error):
        return f"environment {id!r} is no longer part of Gymnasium; use '{name}-v{newest}'"
    other = f"; or use '{name}-v{newest}'" if newer else ""
    return f"environment {id!r} needs a package that is not installed: {missing_module(error)}{other}"


def missing_module(error: Exception) -> str:
    """The first line of the error of an environment or a wrapper that lacks a package, and how to install that."""
    missing, text = _missing(error), str(_cause(error)).split("\n")[0]
    if missing in EXTRAS and "pip install" not in text:
        return f"{text}; {extra(EXTRAS[missing])}"
    if missing in PACKAGES:
        return f"{text}; pip install '{PACKAGES[missing]}'"
    return f"{text}; {extra('atari')} installs it" if "opencv" in text else text


def _cause(error: Exception) -> BaseException:
    """The error of the import itself, which Gymnasium wraps into advice of its own."""
    cause = error.__cause__
    return cause if isinstance(cause, ModuleNotFoundError) and isinstance(error, ImportError) else error


def _missing(error: Exception) -> str:
    return (getattr(_cause(error), "name", None) or "").partition(".")[0]


def extra(name: str) -> str:
    """The command that installs one of our extras."""
    return f"`pip install -e '.[{name}]'`"
