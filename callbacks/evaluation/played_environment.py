"""The environment in which a run's policies are evaluated, and whether they fit it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.envs.from_file import read_plain
from datamodules.envs.make import EnvironmentSpec, offered_spaces
from datamodules.envs.recorded_environment import Changes, label, same_environment
from datamodules.played.sides import warn_of_both_sides
from datamodules.recorded.dataset_info import NO_REFERENCES, DatasetInfo, check_environment, without_references
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.contracts import CountsHeldOut, HasDataset, HasEnvironment
from modules.same_spaces import check_same_spaces


class Played(NamedTuple):
    """An environment, and the references that returns in it are measured between.

    Attributes:
        spec: specification of the environment; None where there is none.
        info: identity of the dataset, with references for this environment or without any; None without a dataset.
    """

    spec: EnvironmentSpec | None
    info: DatasetInfo | None

    @property
    def footer(self) -> dict[str, str]:
        """Lines for people: the references of a dataset, and the environment where its id alone is not enough."""
        lines = {}
        if self.info is not None and self.spec is not None and self.info.yardstick != NO_REFERENCES:
            lines["normalised"] = self.info.yardstick
        if self.spec is not None and self.spec != EnvironmentSpec(self.spec.id):
            lines["played in"] = label(self.spec.to_plain())
        return lines


def choose_environment(data: object, agent: Agent, asked: Changes, checkpoint: str | Path | None = None) -> Played:
    """The environment of the data, or of a checkpoint's training, with what is asked to be changed about it.

    The dataset's references are not kept for another environment than the dataset's. An agent that does not act plays
    nowhere.

    Args:
        data: datamodule, or None.
        agent: agent that will play.
        asked: changes of the environment that the user asks for.
        checkpoint: file whose training is followed, or None.

    Raises:
        ValueError: the environment cannot be made, does not fit the agent, or is another one than the dataset's.
    """
    info = data.info if isinstance(data, HasDataset) else None
    known = data.environment_spec if isinstance(data, HasEnvironment) else None
    assert info is None or isinstance(info, DatasetInfo)
    assert known is None or isinstance(known, EnvironmentSpec)
    if known is None and info is not None and info.environment is not None:
        known = EnvironmentSpec(info.environment)
    if not agent.acts:
        if asked.id is not None:
            raise ValueError(f"evaluation.environment: a {type(agent).__name__} does not act; leave it out")
        return Played(None, info)
    # What is asked for comes first, then what the training of the checkpoint evaluated in, then the data's.
    spec = asked.applied(known if checkpoint is None else _trained_in(checkpoint, known, asked))
    if spec is None:
        if info is not None:  # data that no environment gave, such as a regression's, miss none
            rank_zero_warn(
                "no evaluation: the dataset names no environment. Give one with --data.environment"
                + _without(agent, data)
            )
        return Played(None, info)
    what = "the agent"
    if info is not None:
        check_environment(info, spec.id)
        what = f"an agent for {info.name}"
        if known is not None and not same_environment(spec.to_plain(), known.to_plain()):
            info = without_references(info, label(spec.to_plain()))
    env = spec.make()
    check_same_spaces(what, agent.spaces, spec.id, offered_spaces(env))
    warn_of_both_sides(env, spec.id, "--evaluation.environment_arguments")
    return Played(spec, info)


def _without(agent: Agent, data: object) -> str:
    """How else the best checkpoint may be chosen: by losses on held-out episodes, if there are such."""
    if agent.held_out_loss is None or (isinstance(data, CountsHeldOut) and not data.held_out_episodes):
        return ""
    metric = next(iter(agent.named_metrics("validation", {agent.held_out_loss: torch.zeros(())})))
    return f", or choose the best checkpoint without: --checkpoint.monitor {metric} --checkpoint.mode min"


def _trained_in(path: str | Path, known: EnvironmentSpec | None, asked: Changes) -> EnvironmentSpec | None:
    """The environment that a checkpoint's training evaluated in; what the run's own config says too is trusted."""
    plain = read_checkpoint(path).get("environment")
    if plain is None:
        return known
    plain = read_plain(plain, str(path))
    id, arguments, wrappers = None, dict(asked.arguments), None
    if known is not None:
        mine, given = known.to_plain(), plain["arguments"]
        id = known.id if plain["id"] == mine["id"] else None
        wrappers = known.wrappers if plain["wrappers"] == mine["wrappers"] else None
        arguments = {k: v for k, v in mine["arguments"].items() if k in given and given[k] == v} | arguments
    return Changes(id, arguments, wrappers).on_file(plain, str(path), "--data.wrappers")
