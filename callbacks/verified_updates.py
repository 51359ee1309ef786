"""Updates that are executed twice from the same state, and count when both times every bit is the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from modules.agent.agent import Agent
from modules.agent.update_state import Difference, UpdateState, differences
from modules.arguments.checks import check_counts
from modules.contracts import Update
from modules.networks.replicas import add_over_ranks
from modules.wall_time import timed


class UpdateDiffers(FloatingPointError):
    """An update gave other numbers when it was repeated from the same state on the same batch."""


class VerifiedUpdates(Callback):
    """Executes every so many updates twice and compares weights, moments, generators and metrics bit for bit.

    A difference means memory or a processor that fails without a word, or an operation that is not deterministic, under
    which no run repeats and none resumes exactly. It ends the run before the update counts. A verified update takes
    twice its time and two copies of weights and moments; what is learned is the same with and without.

    Args:
        every: number of updates from one that is verified to the next.

    Raises:
        ValueError: it is not at least 1.
    """

    def __init__(self, every: int) -> None:
        check_counts(1, every=every)
        self.every = every
        self.verified = 0

    def perform_update(self, agent: Agent, update: Callable[[], Update]) -> Update:
        """The update's result, of its second execution where it is verified.

        Raises:
            UpdateDiffers: on any rank both differ.
        """
        if (agent.updates + 1) % self.every:
            return update()
        with timed("verifying"):
            before = UpdateState(agent)
            first, after = update(), UpdateState(agent)
            before.restore(agent)
        second = update()
        with timed("verifying"):
            found = after.differences(UpdateState(agent), agent)
            found += [*differences(first.metrics, second.metrics, "metric")]
            found += [*differences(first.feedback, second.feedback, "what the replay is told")]
            # Every rank stops where one of them has to: the others would wait for it in their next update.
            (ranks,) = add_over_ranks(torch.tensor([float(bool(found))], device=agent.device))
        if ranks:
            raise UpdateDiffers(_report(agent.updates + 1, found))
        self.verified += 1
        return second

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print(f"{self.verified:,} updates were executed twice: every bit was the same", file=sys.stderr, flush=True)

    def state_dict(self) -> dict[str, Any]:
        """The number of verified updates."""
        return {"verified": self.verified}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.verified = state_dict["verified"]


def _report(update: int, found: Sequence[Difference]) -> str:
    """One line: which tensor is the first, how many others, and how to go on."""
    if not found:
        return f"update {update:,} differs on another rank when it is repeated, see there"
    name, about = found[0]
    others = f", and {len(found) - 1} other tensors" if len(found) > 1 else ""
    return (
        f"update {update:,} differs when it is repeated: {name} {about}{others}. It does not count. Go on with "
        "--ckpt_path last: if it differs there again, an operation is not deterministic, and --trainer.deterministic "
        "true names it; else memory or a processor fails"
    )
