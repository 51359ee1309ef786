"""The base of every algorithm: networks, optimisers, batches, noise, feedback, attached callbacks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from pytorch_lightning import Callback
from tensordict import TensorDict
from torch import Tensor, nn
from toy_run import ToyData, make_trainer

from callbacks.kl_balancing import KLBalancing
from callbacks.popart import PopArt
from modules.agent.agent import Agent
from modules.agent.descent import make_adam
from modules.batch import Example, PrioritizedSequences, SequenceBatch, Spaces, StoredWindows, Transition
from modules.contracts import Feedback, ReplayOffer, Update

SPACES = Spaces(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,)))


class Part(nn.Module):
    """A network with an optimiser of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.optimizer = make_adam(self.layer.parameters(), 0.1)


class Giving(Agent):
    """Gives priorities back, and the states that rows were stored with."""

    batch_type = Example
    batch_source = "ToyData"
    events = frozenset({"on_targets"})

    def __init__(self, spaces: Spaces | None = None) -> None:
        super().__init__()
        self.met: list[ReplayOffer | None] = []
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.part = Part()
        self.layer = nn.Linear(3, 2)
        self.optimizer = make_adam(self.layer.parameters(), 0.2)

    def meet(self, replay: ReplayOffer | None) -> None:
        self.met.append(replay)

    def check_batch(self, batch: Example) -> None:
        if not len(batch.input):
            raise ValueError("an empty batch")

    def noise_for(self, batch: Example) -> Tensor:
        return torch.full((len(batch.input),), 2.0)

    def learn(self, batch: Example, noise: Tensor) -> Update:
        feedback = Feedback(torch.arange(len(noise)), noise, batch.input)
        return Update({"noise": noise.mean()}, feedback)


def batch_of(rows: int) -> TensorDict:
    return Example(torch.zeros(rows, 3), torch.zeros(rows, 2), torch.zeros(rows, dtype=torch.int64)).to_tensordict()


class Rows:
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter([batch_of(2), batch_of(3), batch_of(4)])


class Replayed(ToyData):
    """Data whose replay is told what was learned."""

    def __init__(self) -> None:
        super().__init__(3)
        self.told: list[Feedback] = []

    def train_dataloader(self) -> Rows:
        return Rows()

    def val_dataloader(self) -> list[Any]:
        return []

    def replay_offer(self) -> ReplayOffer:
        return ReplayOffer(rows=1, prioritized=True)

    def write_back(self, feedback: Feedback) -> None:
        self.told.append(feedback)


@pytest.mark.parametrize(
    ("kind", "offer", "message"),
    [
        (SequenceBatch, ReplayOffer(9, prioritized=True), "windows .*SequenceReplay.* hands out prioritised sequences"),
        (StoredWindows, ReplayOffer(2, transitions=True), "learns from windows .* hands out single transitions"),
        (Transition, ReplayOffer(9), "learns from single transitions .*TransitionReplay.* hands out windows"),
        (PrioritizedSequences, ReplayOffer(9), "learns from prioritised sequences .*PrioritizedReplay"),
    ],
)
def test_a_replay_of_another_kind_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch, kind: Any, offer: ReplayOffer, message: str
) -> None:
    monkeypatch.setattr(Agent, "batch_type", kind)
    agent = Agent()
    agent.meet(None)
    with pytest.raises(ValueError, match=message):
        agent.meet(offer)


def test_networks_are_built_as_soon_as_spaces_are_known() -> None:
    assert not list(Giving().parameters())
    agent = Giving(SPACES)
    assert agent.spaces is SPACES
    assert agent.alive == [True]


def test_optimisers_of_the_agent_and_of_its_parts_are_found_in_one_order() -> None:
    agent = Giving(SPACES)
    assert agent.configure_optimizers() == [agent.optimizer, agent.part.optimizer]


def test_a_parameter_that_nothing_trains_is_named() -> None:
    agent = Giving(SPACES)
    agent.forgotten = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="no optimiser of Giving trains forgotten"):
        agent.configure_optimizers()
    agent.forgotten.requires_grad_(False)
    assert len(agent.configure_optimizers()) == 2


def test_a_tensordict_is_read_as_the_batch_that_the_agent_learns_from() -> None:
    agent = Giving(SPACES)
    rows = agent.read(batch_of(2))
    assert isinstance(rows, Example)
    assert agent.read(rows) is rows
    with pytest.raises(ValueError, match=r"Giving learns from batches of the type Example of ToyData, .* input"):
        agent.read(TensorDict({"input": torch.zeros(2, 3)}, [2]))
    with pytest.raises(ValueError, match="an empty batch"):
        agent.update(batch_of(0))


def test_noise_is_drawn_where_none_is_given() -> None:
    agent = Giving(SPACES)
    assert agent.update(batch_of(2)).metrics["noise"] == 2.0
    assert agent.update(batch_of(2), torch.zeros(2)).metrics["noise"] == 0.0


def test_feedback_goes_to_the_replay_that_the_agent_has_met(tmp_path: Path) -> None:
    agent, data = Giving(SPACES), Replayed()
    make_trainer(tmp_path, 1, []).fit(agent, datamodule=data)
    assert agent.met == [ReplayOffer(rows=1, prioritized=True)]
    assert [feedback.index.tolist() for feedback in data.told] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert all(feedback.state is not None and feedback.state.shape[1] == 3 for feedback in data.told)


def test_callbacks_take_part_without_a_trainer() -> None:
    agent, heard = Giving(SPACES), []

    class Listening:
        def on_targets(self, *given: Any) -> dict[str, Tensor]:
            heard.append(given)
            return {}

    agent.attach(Listening(), Callback())
    assert agent.announce("on_targets", 1, 2) == {}
    assert heard == [(agent, 1, 2)]
    agent.attach()
    assert agent.announce("on_targets", 1, 2) is None
    with pytest.raises(ValueError, match="KLBalancing would be ignored: Giving never announces on_kl, a divergence"):
        agent.attach(KLBalancing())
    with pytest.raises(ValueError, match="Listening and PopArt both answer on_targets; keep one"):
        agent.attach(Listening(), PopArt())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PopArt, "got the class PopArt: make an instance of it"),
        ([PopArt()], "one by one, got list, which has no method on_kl or on_targets"),
        (None, "one by one, got NoneType, which has no method"),
        (type("Half", (), {"on_kl": None})(), "Half.on_kl must be a method, got NoneType"),
        (type("Typo", (), {"on_k1": print})(), "got Typo, which has no method on_kl or on_targets"),
        (type("Both", (PopArt,), {"on_kl": print})(), "Both would be ignored: Giving never announces on_kl"),
    ],
)
def test_callbacks_that_are_refused_leave_those_attached_before(given: object, message: str) -> None:
    agent, popart = Giving(SPACES), PopArt()
    agent.attach(popart)
    value = torch.zeros(3)
    for callbacks in ((given,), (PopArt(), given)):
        with pytest.raises(ValueError, match=re.escape(message)):
            agent.attach(*callbacks)
    popart.on_targets = lambda *given: {"heard": value}  # type: ignore[method-assign]  # to see who is asked
    assert agent.announce("on_targets", [], value, None, None) == {"heard": value}
