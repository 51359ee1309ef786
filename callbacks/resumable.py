"""Whether a checkpoint holds all that a run needs to go on, looked at before the run begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from modules.contracts import ReportsCollection, SameOnAllRanks

PARTS = ("random", "agent", "data", "counts")
"""The state that `callbacks.checkpointing.ExactResume` keeps of every process."""


def check_resumable(checkpoint: Mapping[str, Any], agent: LightningModule, path: str | Path | None) -> None:
    """Refuse a checkpoint from which a run would go on with something lost.

    Args:
        checkpoint: its content.
        agent: agent that is to go on, of the checkpoint's sizes.
        path: path of the file, for errors.

    Raises:
        ValueError: counters, the state of an optimiser or that of a process is missing or is no such state.
    """
    for name in ("epoch", "global_step"):
        if not isinstance(checkpoint.get(name), int):
            raise ValueError(_damaged(path, f"it has no {name}"))
    if not isinstance(checkpoint.get("loops"), Mapping) or not checkpoint["loops"].get("fit_loop"):
        raise ValueError(_damaged(path, "it does not say how far training was"))
    ranks = checkpoint.get("ranks")
    if not isinstance(ranks, list) or not ranks:
        raise ValueError(_damaged(path, "it has no ranks, the state of every process"))
    for rank, state in enumerate(ranks):
        lost = [part for part in PARTS if not isinstance(state, Mapping) or not isinstance(state.get(part), Mapping)]
        if lost:
            raise ValueError(_damaged(path, f"the state of process {rank} lacks {', '.join(lost)}"))
    _check_optimizers(checkpoint, agent, path)


def go_on_with_others(ranks: Sequence[Mapping[str, Any]], world: int, data: object) -> None:
    """Give another number of processes what they can have of the state of each, and say what starts anew.

    Args:
        ranks: state of each process that wrote the checkpoint.
        world: number of processes now.
        data: datamodule of the run.
    """
    anew = "the replay and random numbers" if isinstance(data, ReportsCollection) else "random numbers"
    if isinstance(data, SameOnAllRanks) and data.same_on_all_ranks:
        data.load_rank_state(ranks[0]["data"])
        anew = "rows come on in their order, other random numbers"
    rank_zero_warn(
        f"the checkpoint was written by {len(ranks)} processes and is continued by {world}: {anew} start anew, so the "
        "run does not continue exactly"
    )


def _check_optimizers(checkpoint: Mapping[str, Any], agent: LightningModule, path: str | Path | None) -> None:
    made: Any = agent.configure_optimizers()
    optimizers = [o for o in (made if isinstance(made, list | tuple) else [made]) if isinstance(o, Optimizer)]
    states = checkpoint.get("optimizer_states")
    if not isinstance(states, list) or len(states) != len(optimizers):
        count = len(states) if isinstance(states, list) else "no"
        raise ValueError(_damaged(path, f"it has {count} states of optimisers, and the agent {len(optimizers)}"))
    for number, (state, optimizer) in enumerate(zip(states, optimizers, strict=True)):
        try:
            sizes = [len(group["params"]) for group in state["param_groups"]]
            parameters = {key: p for mine, theirs in zip(optimizer.param_groups, state["param_groups"], strict=False)
                          for p, key in zip(mine["params"], theirs["params"], strict=False)}  # fmt: skip
            wrong = [
                name
                for key, entry in state["state"].items()
                for name, value in entry.items()
                if isinstance(value, Tensor) and value.ndim and value.shape != parameters[key].shape
            ]
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(_damaged(path, f"its optimiser {number} has no readable state")) from error
        if wrong or sizes != [len(group["params"]) for group in optimizer.param_groups]:
            raise ValueError(_damaged(path, f"its optimiser {number} is of other tensors than the agent's"))
    # Plain gradient descent keeps no state; what `make_adam` gives has some before the first update.
    kept = any(optimizer.state for optimizer in optimizers)
    if checkpoint["global_step"] and kept and not any(state["state"] for state in states):
        raise ValueError(_damaged(path, f"its optimisers know nothing of {checkpoint['global_step']} updates"))


def _damaged(path: str | Path | None, what: str) -> str:
    return f"checkpoint {path} is damaged: {what}; the run cannot go on from it, use another one"
