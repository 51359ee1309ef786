"""An update that was not finite, executed again from its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensordict import TensorDict

from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.descent import optimizers_of
from modules.agent.random_state import set_random_state
from modules.contracts import Update
from modules.networks.updates import noise_set, noisy_layers
from modules.trust.names import short, trusting

HOW_TO_KEEP = "go on with --ckpt_path last --nonfinite skip, which comes to the same update and keeps the one before it"
"""For a file of a run that copied nothing before its updates."""


def nonfinite_ranks(checkpoint: Mapping[str, Any], path: str | Path, rank: int) -> list[dict[str, Any]]:
    """The reports of all processes about an update that was not finite, from the content of its file.

    Args:
        checkpoint: the content.
        path: the file.
        rank: process whose report must be among them.

    Raises:
        ValueError: the file is of no such update or of fewer processes, or is damaged.
    """
    kept = checkpoint.get("nonfinite")
    if kept is None:
        raise ValueError(f"{path} is a checkpoint of no update that was not finite: those are in a run's nonfinite/")
    ranks = kept.get("ranks") if isinstance(kept, Mapping) else None
    whole = isinstance(ranks, list) and all(
        isinstance(report, dict)
        and isinstance(report.get("before"), bool)
        and isinstance(report.get("update"), int)
        and isinstance(report.get("batch"), dict)
        and isinstance(report.get("metrics"), dict)
        and all(isinstance(name, str) for name in report.get("callbacks", [0]))
        and all(
            isinstance(entry, list) and len(entry) == 3 and all(isinstance(x, str) for x in entry)
            for entry in report.get("found", [0])
        )
        for report in ranks
    )
    if not whole or not ranks:
        raise ValueError(f"{path} is damaged: what it says of its update cannot be read ({short(kept, 80)})")
    if not 0 <= rank < len(ranks):
        raise ValueError(f"{path} is of {len(ranks)} processes, there is no rank {rank}")
    return list(ranks)


def replay(path: str | Path, rank: int = 0, *, trust: Sequence[str] = ()) -> tuple[Agent, Update]:
    """The agent of the file of an update that was not finite, behind that update, and the update's outcome.

    Weights, buffers, moments, random generators and the batch are those of the process of that rank, on the CPU;
    callbacks that took part in the update are not there, and of several processes the gradients are this one's alone.
    The agent that is returned went through the update: `Agent.from_checkpoint(path)` is the one before it.

    Args:
        path: file in the folder `nonfinite` of a run.
        rank: process whose batch it is.
        trust: modules or classes of others that the file may name; its own code may run then.

    Raises:
        ValueError: the file is missing or damaged, of no such update, or of fewer processes, or it has the state after
            the update.
    """
    checkpoint = read_checkpoint(path, "cpu")
    ranks = nonfinite_ranks(checkpoint, path, rank)
    if not ranks[rank]["before"]:
        raise ValueError(f"{path} has the state after its update: {HOW_TO_KEEP}")
    with trusting(trust):
        agent = Agent.from_checkpoint(path, trust=trust).train()
    # Everything that an update reads beside the weights.
    try:
        for optimizer, state in zip(optimizers_of(agent), checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
        own = checkpoint["ranks"][rank]
        agent.load_rank_state(own["agent"])
        set_random_state(own["random"], agent.device)
        batch = _batch(agent, ranks[rank]["batch"])
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = short(f"{type(error).__name__}: {error}", 120)
        raise ValueError(f"{path} is damaged: the state of its update cannot be read ({reason})") from error
    with noise_set(noisy_layers(agent).values(), True):
        return agent, agent.update(batch)


def _batch(agent: Agent, kept: Mapping[str, Any]) -> Any:
    """A batch of `callbacks.nonfinite_updates.plain_batch`, as the agent was given it."""
    if "entries" in kept:
        return TensorDict(kept["entries"], batch_size=kept["batch_size"])
    if "fields" in kept:
        assert agent.batch_type is not None
        return agent.batch_type(**kept["fields"])
    return kept["value"]
