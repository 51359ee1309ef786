"""An agent that can be copied into another process, and whose actions tell its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from modules.batch import PrioritizedSequences, SequenceBatch
from modules.contracts import Feedback

FIRST = 4
"""Lowest action of the agent's."""


class Memoryless(LightningModule):
    """Defaults of an agent about rewards and stored states."""

    stored_width = 0
    stored_optional = False

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        return state

    def stored_state(self, state: Any) -> Tensor:
        raise NotImplementedError


class Counting(Memoryless):
    """Its action is 4 in the first step of an episode, then 5; 6 once it has learned, whatever the step.

    It remembers what it is given, and how many environment steps there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.learned = torch.nn.Parameter(torch.zeros(()))
        self.updates = 0
        self.batches: list[SequenceBatch] = []
        self.steps: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.int64)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        action = torch.where(state == 0, FIRST, FIRST + 1)
        return action if self.learned == 0 else torch.full_like(action, FIRST + 2), state + 1

    def copy_for_acting(self, weights: Mapping[str, Tensor]) -> Callable[[], Counting]:
        return functools.partial(copy, type(self), dict(weights))

    def training_step(self, batch: Any, batch_index: int) -> None:
        self.optimizers().step()  # type: ignore[union-attr]
        self.updates += 1
        self.batches.append(SequenceBatch.from_tensordict(batch.clone()))
        self.steps.append(self.trainer.datamodule.environment_steps)  # type: ignore[attr-defined]
        self.learn()

    def learn(self) -> None:
        """Change the weights; once, after 20 updates."""
        if self.updates == 20:
            with torch.no_grad():
                self.learned.fill_(1.0)


class Storing(Counting):
    """Its stored state is the number of its actions in the episode."""

    stored_width = 1

    def stored_state(self, state: Any) -> Tensor:
        return state.float().unsqueeze(-1)


class Prioritizing(Storing):
    """It learns from prioritised sequences, and gives each the priority 1."""

    def training_step(self, batch: Any, batch_index: int) -> None:
        self.optimizers().step()  # type: ignore[union-attr]
        self.updates += 1
        sequences = PrioritizedSequences.from_tensordict(batch.clone())
        self.batches.append(sequences)  # type: ignore[arg-type]
        self.trainer.datamodule.write_back(Feedback(sequences.index, torch.ones(len(sequences.index))))  # type: ignore[attr-defined]


def copy(kind: type[Counting], weights: dict[str, Tensor]) -> Counting:
    agent = kind()
    agent.load_state_dict(weights)
    return agent


def assert_sound(batches: list[SequenceBatch], length: int = 4) -> None:
    """Rows of `tape:Tape-v0` follow one another, and hold what belongs together."""
    for batch in batches:
        time, _, action = batch.observation["observation"].unbind(-1)
        ended = batch.terminated | batch.truncated
        assert torch.equal(batch.reward, 10 * time)
        assert torch.equal(batch.is_first, time == 0)
        assert torch.equal(ended, time == length)
        assert torch.equal(batch.previous_action.float(), action)
        assert torch.equal(batch.is_first[1:], ended[:-1])
        assert (time.diff(dim=0)[~batch.is_first[1:]] == 1).all()
