"""An update that is undone takes back what callbacks have learned in it: each that takes part at an event."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from test_kl_balancing import Compromise
from test_popart_callback import Regression
from toy_run import ToyData, make_trainer

import callbacks
from callbacks.checkpointing import Checkpoint
from callbacks.kl_balancing import KLBalancing
from callbacks.nonfinite_updates import Answer, NonfiniteUpdates
from callbacks.popart import PopArt
from modules.agent.agent import Agent
from modules.agent.events import EVENTS
from modules.agent.update_state import UpdateState, differences
from modules.contracts import Update

AT = 5
"""The update that is undone, the first behind a checkpoint."""

CASES: dict[type[Callback], Callable[[], tuple[Agent, Callback]]] = {
    KLBalancing: lambda: (Compromise(), KLBalancing(target=0.5, dual_lr=0.1)),
    PopArt: lambda: (Regression(), PopArt(decay=0.25, adam="scaled")),
}


class Sick(Callback):
    """Has an update done, and then says that it was not finite; keeps what was there before it, and behind it."""

    def __init__(self, participant: Callback) -> None:
        self.participant = participant
        self.kept: dict[int, Any] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """All that the update before has left, the ends of its callbacks among it."""
        assert isinstance(pl_module, Agent)
        tensors = {name: x for name, x in vars(self.participant).items() if isinstance(x, torch.Tensor)}
        saved = {name: entry for name, entry in self.participant.state_dict().items() if name != "history"}
        self.kept[pl_module.updates] = (UpdateState(pl_module), *copy.deepcopy((tensors, saved)))

    def perform_update(self, agent: Agent, update: Callable[[], Update]) -> Update:
        result = update()
        if agent.updates + 1 == AT:
            return result._replace(metrics={**result.metrics, "loss": torch.tensor(torch.nan)})
        return result


def changed(agent: Agent, mine: Any, theirs: Any) -> list[str]:
    """Names of all that is not the same to the bit."""
    found = [*mine[0].differences(theirs[0], agent), *differences(mine[1:], theirs[1:], "callback")]
    return [difference.name for difference in found]


def answering() -> set[type]:
    """Every callback of ours that takes part at an event."""
    found = set()
    for module in pkgutil.walk_packages(callbacks.__path__, "callbacks."):
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and issubclass(kind, Callback) and any(hasattr(kind, event) for event in EVENTS):
                found.add(kind)
    return found


def test_every_callback_that_takes_part_is_looked_at() -> None:
    assert answering() == set(CASES)


@pytest.mark.parametrize("answer", ["skip", "rollback"])
@pytest.mark.parametrize("kind", CASES)
def test_nothing_is_left_of_an_update_that_was_undone(kind: type[Callback], answer: Answer, tmp_path: Path) -> None:
    agent, participant = CASES[kind]()
    sick = Sick(participant)
    checkpoint = Checkpoint(monitor="loss", every_n_updates=AT - 1)
    make_trainer(tmp_path, 1, [NonfiniteUpdates(answer), sick, participant, checkpoint]).fit(
        agent, datamodule=ToyData(AT + 2)
    )
    before, behind, later = (sick.kept[updates] for updates in (AT - 1, AT, AT + 1))
    # A return leaves generators as they are; neither leaves anything of the update, nor of its end.
    assert [name for name in changed(agent, before, behind) if not name.startswith("random generators")] == []
    learned = changed(agent, behind, later)
    assert any("popart" in name or "codec" in name or "scale" in name for name in learned), learned
