from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from modules.agent.descent import descend, make_adam
from modules.agent.update_state import Difference, UpdateState, differences


class Counting(nn.Module):
    """A part with a state that is no tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.zeros(2)

    def get_extra_state(self) -> torch.Tensor:
        return self.count

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.count = state


class Small(nn.Module):
    """Weights, a buffer that checkpoints leave out, an optimiser, a count, and a generator of its own."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.part = Counting()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.optimizer = optimizer(self.layer.parameters())
        self.generator = torch.Generator().manual_seed(0)

    def rank_state(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_rank_state(self, state: Any) -> None:
        self.generator.set_state(state["generator"])

    def step(self) -> None:
        x = torch.randn(4, 2) + torch.randn(4, 2, generator=self.generator)
        loss = self.layer(x).square().mean()
        if isinstance(self.optimizer, torch.optim.Adam):
            descend(self.optimizer, loss)
        else:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.seen += 1
        self.part.count = self.part.count + 1


OPTIMIZERS = {
    "adam": lambda parameters: make_adam(parameters, 0.1),
    "rmsprop, made at the first step": lambda parameters: torch.optim.RMSprop(parameters, 0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("earlier", [0, 2])
def test_an_update_that_is_put_back_repeats_to_the_bit(optimizer: Any, earlier: int) -> None:
    agent = Small(optimizer)
    for _ in range(earlier):
        agent.step()
    addresses = [p.data_ptr() for p in agent.parameters()]
    before = UpdateState(agent)
    agent.step()
    after = UpdateState(agent)
    changed = {difference.name for difference in before.differences(after, agent)}
    assert {"layer.weight", "layer.bias", "seen", "counts part", "the agent's own state generator"} < changed
    assert "random generators torch" in changed
    before.restore(agent)
    assert before.differences(UpdateState(agent), agent) == []
    agent.step()
    assert after.differences(UpdateState(agent), agent) == []
    assert [p.data_ptr() for p in agent.parameters()] == addresses


def test_a_copy_is_not_changed_by_updates_behind_it() -> None:
    agent = Small(OPTIMIZERS["adam"])
    before = UpdateState(agent)
    for _ in range(3):
        agent.step()
    before.restore(agent)
    agent.step()
    before.restore(agent)
    assert before.differences(UpdateState(agent), agent) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "found"),
    [
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.nan]), None),
        (torch.tensor(0.0), torch.tensor(-0.0), "[]: 0.0 and -0.0, 1 of its 1 numbers"),
        (torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 2], [5, 6]]), "[1, 0]: 3 and 5, 2 of its 4 numbers"),
        (torch.zeros(2), torch.zeros(3), "is [2] torch.float32, then [3] torch.float32"),
        (torch.zeros(0), torch.zeros(0), None),
        (torch.tensor([True, False]), torch.tensor([True, True]), "[1]: False and True, 1 of its 2 numbers"),
        (1, 2, "1, 2"),
        (1, True, "1, True"),
        ([1], [1, 2], "is not the same"),
        ({"a": 1}, {"b": 1}, "is not the same"),
    ],
)
def test_differences_are_told_to_the_bit(mine: Any, theirs: Any, found: str | None) -> None:
    expected = [] if found is None else [Difference("x", found)]
    assert list(differences(mine, theirs, "x")) == expected


def test_places_within_are_named() -> None:
    mine, theirs = {"a": [0, {"b": torch.tensor([1.0])}]}, {"a": [0, {"b": torch.tensor([2.0])}]}
    assert list(differences(mine, theirs)) == [Difference("a[1] b", "[0]: 1.0 and 2.0, 1 of its 1 numbers")]
