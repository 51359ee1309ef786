from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from tensordict import TensorDict
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.verified_updates import UpdateDiffers, VerifiedUpdates
from modules.contracts import Update


class Forgetful(Toy):
    """Adds something to its weight that no checkpoint knows of, in the update that it is told."""

    def __init__(self, at: int = 6, rank: int | None = None) -> None:
        super().__init__(SPACES, members=3)
        self.at = at
        self.only = rank
        self.calls = 0

    def learn(self, batch: TensorDict) -> Update:
        result = super().learn(batch)
        self.calls += 1
        if self.updates + 1 == self.at and self.only in (None, self.rank):
            with torch.no_grad():
                self.weight[1] += 1e-3 * self.calls
        return result


def test_a_run_learns_the_same_with_and_without(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain, verified = Toy(SPACES), Toy(SPACES)
    torch.manual_seed(0)
    make_trainer(tmp_path / "plain", 2, []).fit(plain, datamodule=ToyData())
    torch.manual_seed(0)
    callback = VerifiedUpdates(3)
    make_trainer(tmp_path / "verified", 2, [callback]).fit(verified, datamodule=ToyData())
    assert torch.equal(plain.weight, verified.weight)
    assert callback.verified == 6  # of 20 updates
    assert "6 updates were executed twice: every bit was the same" in capfd.readouterr().err


def test_the_first_tensor_that_differs_is_named_before_the_update_counts(tmp_path: Path) -> None:
    agent = Forgetful()
    place = (
        r"^update 6 differs when it is repeated: weight \[1\]: 0\.\d+ and 0\.\d+, 1 of its 3 numbers. It does not count"
    )
    with pytest.raises(UpdateDiffers, match=place):
        make_trainer(tmp_path, 1, [VerifiedUpdates(2)]).fit(agent, datamodule=ToyData())
    assert agent.updates == 5


def test_updates_in_between_are_executed_once(tmp_path: Path) -> None:
    agent = Forgetful(at=5)
    make_trainer(tmp_path, 1, [VerifiedUpdates(2)]).fit(agent, datamodule=ToyData())
    assert (agent.updates, agent.calls) == (10, 15)


def _meet(rank: int) -> str:
    agent, callback = Forgetful(at=1, rank=1), VerifiedUpdates(1)
    batch: Any = TensorDict({"action": torch.zeros(4, 1)}, batch_size=[4])
    with pytest.raises(UpdateDiffers) as raised:
        callback.perform_update(agent, lambda: agent.update(batch))
    return str(raised.value)


def test_all_ranks_stop_where_one_has_to(tmp_path: Path) -> None:
    other, mine = run_on_ranks(2, tmp_path, _meet)
    assert other == "update 1 differs on another rank when it is repeated, see there"
    assert mine.startswith("update 1 differs when it is repeated: weight [1]: ")


def test_less_than_every_update_is_refused() -> None:
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        VerifiedUpdates(0)
