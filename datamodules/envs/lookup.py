"""What to do about an environment that cannot be found: the nearest id, or the package and how to get it."""

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
    """What an id that is not registered may mean."""
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
    """What to install for an environment whose package is missing, or what to play instead."""
    if isinstance(error.__cause__, ModuleNotFoundError):  # which Gymnasium wraps into advice of its own
        error = error.__cause__
    said, missing = str(error).split("\n")[0], (getattr(error, "name", None) or "").partition(".")[0]
    module, colon, _ = id.rpartition(":")
    if colon and missing == module.partition(".")[0]:
        return (
            f"environment {id!r} names a module {module!r} that is neither installed nor in the current folder "
            f"{os.getcwd()}; if it is elsewhere: PYTHONPATH=FOLDER reverie ..."
        )
    name, _, version = id.rpartition("-v")
    newest = max((spec.version or 0 for spec in gym.registry.values() if spec.name == name), default=0)
    newer = version.isdigit() and int(version) < newest
    if newer and "moved to" in said:
        return f"environment {id!r} is no longer part of Gymnasium; use '{name}-v{newest}'"
    if missing in EXTRAS and "pip install" not in said:
        said = f"{said}; {extra(EXTRAS[missing])}"
    elif missing in PACKAGES:
        said = f"{said}; pip install '{PACKAGES[missing]}'"
    elif newer:
        said = f"{said}; or use '{name}-v{newest}'"
    return f"environment {id!r} needs a package that is not installed: {said}"


def extra(name: str) -> str:
    """How one of our extras is installed."""
    return f"`pip install -e '.[{name}]'`"
