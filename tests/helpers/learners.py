"""Learners that act at random, remember what they are given, and store states; how they are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from acting import Memoryless
from pytorch_lightning import Trainer
from torch import Tensor

from datamodules.online import OnlineDataModule
from modules.batch import PrioritizedSequences, SequenceBatch
from modules.contracts import Feedback

SMALL = {
    "environment": "tape:Tape-v0",
    "environments": 2,
    "prefill": 20,
    "sequence_length": 5,
    "batch_size": 3,
    "steps_per_epoch": 40,
    "updates_per_step": 0.25,
}


def make(**changes: Any) -> OnlineDataModule:
    return OnlineDataModule(**SMALL | changes)


class Learner(Memoryless):
    """Acts at random, with a memory that counts; remembers what it is given."""

    def __init__(self, actions: int = 7) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.actions = actions
        self.batches: list[SequenceBatch] = []
        self.stored: list[Tensor] = []
        self.steps: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def initial_state(self, batch: int) -> Any:
        return (torch.zeros(batch, dtype=torch.int64),)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        (count,) = state
        draw = torch.randint(self.actions, count.shape)
        return (draw + count) % self.actions, (count + 1,)

    def training_step(self, batch: Any, batch_index: int) -> None:
        self.optimizers().step()  # type: ignore[union-attr]
        if "stored" in batch.keys():  # noqa: SIM118 - a TensorDict
            self.stored.append(batch["stored"].clone())
        self.batches.append(SequenceBatch.from_tensordict(batch.clone()))
        self.steps.append(self.trainer.datamodule.environment_steps)  # type: ignore[attr-defined]


class Storing(Learner):
    """Its stored state is [actions in the episode, sum of their rewards before the last one]."""

    stored_width = 2

    def initial_state(self, batch: int) -> Any:
        return torch.zeros(batch, dtype=torch.int64), torch.zeros(batch)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        action, (count,) = super().act(observation, state[:1], explore=explore)
        return action, (count, state[1])

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        return state[0], state[1] + reward

    def stored_state(self, state: Any) -> Tensor:
        return torch.stack([state[0].float(), state[1]], -1)


class Prioritizing(Storing):
    """Hands back a priority for each sequence that grows with its name."""

    def __init__(self, actions: int = 7) -> None:
        super().__init__(actions)
        self.found: list[PrioritizedSequences] = []

    def training_step(self, batch: Any, batch_index: int) -> None:
        self.optimizers().step()  # type: ignore[union-attr]
        found = PrioritizedSequences.from_tensordict(batch.clone())
        self.found.append(found)
        self.batches.append(found.sequence)
        self.stored.append(found.start_state)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, OnlineDataModule):
            self.steps.append(data.environment_steps)
        data.write_back(self.feedback(found))

    def feedback(self, found: PrioritizedSequences) -> Feedback:
        return Feedback(found.index, 0.1 + found.index % 5)


class Searching(Prioritizing):
    """Hands back what it would store now, too: 100 more with every row, and -1 as the next state."""

    def feedback(self, found: PrioritizedSequences) -> Feedback:
        assert found.stored is not None
        state = torch.full_like(found.start_state, -1.0)
        return super().feedback(found)._replace(state=state, stored=found.stored + 100)


def trainer_in(folder: Path, epochs: int = 1, callbacks: Any = ()) -> Trainer:
    return Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), enable_checkpointing=bool(callbacks), devices=1,
    )  # fmt: skip


def attach(data: OnlineDataModule, learner: Learner, folder: Path) -> OnlineDataModule:
    """The datamodule as it is inside of `fit`."""
    data.trainer = trainer_in(folder)
    data.trainer.strategy.connect(learner)
    return data


def fit(
    data: OnlineDataModule, folder: Path, *, epochs: int = 1, callbacks: Any = (), kind: type[Learner] = Learner,
    **arguments: Any,
) -> Any:  # fmt: skip
    trainer = trainer_in(folder, epochs, callbacks)
    learner = kind(7 if "Tape" in data.environment_spec.id else 2)
    torch.manual_seed(0)
    trainer.fit(learner, datamodule=data, **arguments)
    return learner
