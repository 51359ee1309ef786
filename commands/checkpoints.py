"""What `collect`, `evaluate` and `export` read from a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.envs.from_file import environment_from_file
from datamodules.envs.make import EnvironmentSpec
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


class Origin(NamedTuple):
    """What a checkpoint's agent was trained on.

    Attributes:
        dataset: name, content_hash, environment and references of the dataset; {} where there was none.
        environment: makes the environment that the data were collected in; None if unknown.
    """

    dataset: dict[str, Any]
    environment: EnvironmentSpec | None

    def environment_for(self, id: str | None, path: str) -> EnvironmentSpec:
        """The environment to act in: the known one, or another id with the wrappers of the known one.

        Args:
            id: registered gymnasium id that was asked for, or None.
            path: of the checkpoint, for the error.

        Raises:
            ValueError: neither is known.
        """
        if self.environment is None and id is None:
            raise ValueError(f"{path} names no environment; give one with --environment, for example Pendulum-v1")
        if self.environment is None:
            return EnvironmentSpec(str(id))
        if id in (None, self.environment.id):
            return self.environment
        return replace(self.environment, id=id, arguments={})


def load_agent(path: str | Path, environment: str | None = None) -> tuple[Agent, Origin]:
    """The agent that a checkpoint holds, on the CPU in evaluation mode, and what it was trained on.

    Args:
        path: of the checkpoint.
        environment: id that the user gave himself, which may name a package; None where he gave none.

    Raises:
        ValueError: the file is missing, truncated or not written by reverie, or names what is not trusted.
    """
    checkpoint = read_checkpoint(path, "cpu")
    agent = Agent.restored(checkpoint, path)
    dataset = dict(checkpoint.get("dataset") or {})
    if checkpoint.get("environment") is not None:
        return agent, Origin(dataset, EnvironmentSpec.from_plain(checkpoint["environment"], str(path), environment))
    recorded = dataset.get("environment")
    if recorded is None:
        return agent, Origin(dataset, None)
    return agent, Origin(dataset, EnvironmentSpec(environment_from_file(recorded, str(path), environment)))


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
