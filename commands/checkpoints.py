"""Reading of checkpoints for `collect`, `evaluate` and `export`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes, plain_environment, same_environment
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.batch import Spaces, brief
from modules.trust.names import short
from modules.trust.options import option


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
    """The data that a checkpoint's agent was trained on.

    Attributes:
        dataset: name, content_hash, environment, references and parts of the dataset; {} where there was none.
        environment: makes the environment that training evaluated in, else that of the data, with what was asked to be
            changed; None if unknown.
        changed: whether it is another environment than the one that the references are for.
    """

    dataset: dict[str, Any]
    environment: EnvironmentSpec | None
    changed: bool

    @property
    def parts(self) -> dict[str, gym.Space] | None:
        """Spaces of the parts that observations of the data were joined from, in order; None where they are one array.

        Raises:
            ValueError: what the file says of them cannot be read.
        """
        text, keys = (self.dataset.get(name) for name in ("observation_parts", "observation_keys"))
        if text is None or keys is None:
            return None
        space = Spaces.from_json(text).observation
        if not isinstance(space, gym.spaces.Dict) or space.keys() != set(keys):
            raise ValueError(
                f"the checkpoint is damaged: its dataset has the parts {brief(space)}, joined {short(keys)}"
            )
        return {key: space[key] for key in keys}

    def known_environment(self, path: str) -> EnvironmentSpec:
        """The environment to act in.

        Args:
            path: path of the checkpoint, for the error.

        Raises:
            ValueError: it is not known.
        """
        if self.environment is None:
            raise ValueError(f"{path} names no environment; give one with --environment, for example Pendulum-v1")
        return self.environment


def load_agent(path: str | Path, asked: Changes | None = None) -> tuple[Agent, Origin]:
    """The agent that a checkpoint holds, on the CPU in evaluation mode, and what it was trained on.

    Args:
        path: path of the checkpoint.
        asked: changes that the user asks of its environment; None where the caller has no arguments for them.

    Raises:
        ValueError: the file is missing, truncated or not written by reverie, names what is not trusted, or holds an
            agent that does not act.
    """
    checkpoint = read_checkpoint(path, "cpu")
    agent = Agent.restored(checkpoint, path)
    if not agent.acts:
        raise ValueError(f"{path} holds a {type(agent).__name__}, which chooses no actions; give a policy's")
    dataset = dict(checkpoint.get("dataset") or {})
    plain = checkpoint.get("environment")
    if plain is None and dataset.get("environment") is not None:
        plain = plain_environment(dataset["environment"])
    spec = (asked or Changes()).on_file(plain, str(path), None if asked is None else "--wrappers")
    same = spec is not None and plain is not None and same_environment(spec.to_plain(), plain)
    return agent, Origin(dataset, spec, changed=not same)


def member_index(names: Sequence[str], member: str | None) -> int:
    """Position of a member by its name; the name may be left out where there is only one.

    Args:
        names: names of all members.
        member: name of the one, or None.

    Raises:
        ValueError: no such member, or several and none was named.
    """
    if member is None and len(names) == 1:
        return 0
    if member is not None and member in names:
        return list(names).index(member)
    listing = short(", ".join(name or f"(the only one, leave {option('member')} out)" for name in names), 300)
    if member is None:
        raise ValueError(f"the checkpoint holds {len(names)} members; choose one with {option('member')}: {listing}")
    raise ValueError(f"the checkpoint holds no member {member!r}; it holds: {listing}")
