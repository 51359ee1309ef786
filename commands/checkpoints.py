"""What `collect`, `evaluate` and `export` read from a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.parsing import condense
from modules.algorithms.agent import Agent
from modules.algorithms.checkpoint_file import read_checkpoint


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        ValueError: there is no such file.
    """
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint file at {path}")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_agent(path: str | Path) -> tuple[Agent, dict[str, Any]]:
    """The agent that a checkpoint holds, on the CPU, and the dataset that it was trained on.

    Returns:
        The agent in evaluation mode, and name, content_hash, environment and references of the dataset; {} if unknown.

    Raises:
        ValueError: the file is missing, truncated or not written by reverie, or a class that it names is gone.
    """
    checkpoint = read_checkpoint(path, "cpu")
    try:
        agent = Agent.restored(checkpoint, path)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the agent in {path} cannot be rebuilt: {error}") from error
    except ValueError as error:  # a class path within the agent, told by its parser in many lines
        raise ValueError(f"{path}: {condense(str(error))}" if "Errors:" in str(error) else str(error)) from error
    return agent, dict(checkpoint.get("dataset") or {})


def member_index(names: Sequence[str], member: str | None) -> int:
    """Position of a member by its name; the name may be left out where there is only one.

    Raises:
        ValueError: no such member, or several and none was named.
    """
    if member is None and len(names) == 1:
        return 0
    if member is not None and member in names:
        return list(names).index(member)
    listing = ", ".join(name or "(the only one, leave --member out)" for name in names)
    if member is None:
        raise ValueError(f"the checkpoint holds {len(names)} members; choose one with --member: {listing}")
    raise ValueError(f"the checkpoint holds no member {member!r}; it holds: {listing}")
