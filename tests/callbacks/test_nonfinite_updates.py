from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from atac_agents import SPACES as CONTINUOUS
from atac_agents import make_batch
from command_line import mistake
from ranks import run_on_ranks
from sac_agents import make_agent
from tensordict import TensorDict
from toy_run import SPACES, Toy, ToyData, make_trainer

import reverie
from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.nonfinite_updates import NonfiniteUpdates, UpdateNotFinite, plain_batch
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.nonfinite import infinite_updates
from modules.agent.replayed import replay
from modules.contracts import Update
from modules.experts.products import LogitsNotFinite


class Sick(Toy):
    """Multiplies its loss by a number of its own at the updates that it is told, on one rank or all."""

    def __init__(self, at: tuple[int, ...] = (6,), factor: float = float("nan"), rank: int | None = None) -> None:
        super().__init__(SPACES)
        self.save_hyperparameters(ignore=["spaces"])
        self.at, self.factor, self.only = at, factor, rank

    def learn(self, batch: TensorDict) -> Update:
        if self.updates + 1 in self.at and self.only in (None, self.rank):
            batch = batch.clone().set("action", batch["action"] * self.factor)
        return super().learn(batch)


class SickData(ToyData):
    """Batches of which the one with that number holds infinity."""

    at: ClassVar[int] = 6

    def train_dataloader(self) -> Any:
        whole = super().train_dataloader()

        class Some(type(whole)):  # type: ignore[misc]
            def __iter__(self) -> Any:
                for number, batch in enumerate(super().__iter__(), 1):
                    if number == SickData.at:
                        batch["action"][2, 0] = torch.inf
                    yield batch

        return Some(whole.count, whole.generator)


def fit(folder: Path, agent: Agent, callback: NonfiniteUpdates, data: ToyData | None = None, epochs: int = 2) -> None:
    torch.manual_seed(0)
    callbacks = [callback, ExactResume(), Checkpoint(monitor="loss", every_n_updates=4)]
    make_trainer(folder, epochs, callbacks).fit(agent, datamodule=data or ToyData())


def test_a_run_learns_the_same_with_and_without(tmp_path: Path) -> None:
    plain, guarded = Toy(SPACES), Toy(SPACES)
    torch.manual_seed(0)
    make_trainer(tmp_path, 2, []).fit(plain, datamodule=ToyData())
    torch.manual_seed(0)
    make_trainer(tmp_path, 2, [NonfiniteUpdates()]).fit(guarded, datamodule=ToyData())
    assert torch.equal(plain.weight, guarded.weight)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])  # the square of the last gradient overflows
def test_a_run_stops_before_the_update_counts(
    tmp_path: Path, factor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = Sick(factor=factor)
    with pytest.raises(UpdateNotFinite, match=r"update 6 is not finite: first losses loss, .*nonfinite/update-6\.ckpt"):
        fit(tmp_path, agent, NonfiniteUpdates())
    assert agent.updates == 5
    path = tmp_path / "nonfinite/update-6.ckpt"
    reverie.main(["inspect", str(path)])
    assert "the state is that after it" in capsys.readouterr().out
    with pytest.raises(ValueError, match="state after its update: go on with --ckpt_path last --nonfinite skip"):
        replay(path)


def test_the_batch_is_named_before_the_losses_and_gradients_that_follow(tmp_path: Path) -> None:
    with pytest.raises(UpdateNotFinite, match=r"first batch action, \[2, 0\] inf, 1 of 4 numbers"):
        fit(tmp_path, Toy(SPACES), NonfiniteUpdates(), SickData())
    (kept,) = read_checkpoint(tmp_path / "nonfinite/update-6.ckpt")["nonfinite"]["ranks"]
    assert [place for place, _, _ in kept["found"]] == ["batch", "losses", "losses", "gradients"]
    assert kept["batch"]["entries"]["action"][2, 0] == torch.inf


def test_an_update_that_is_skipped_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next ones draw the numbers that they would have drawn in its place."""
    agent, callback = Sick(at=(20,)), NonfiniteUpdates("skip")
    fit(tmp_path, agent, callback)
    before = Toy(SPACES)
    torch.manual_seed(0)
    make_trainer(tmp_path / "before", 2, [], max_steps=19).fit(before, datamodule=ToyData())
    assert torch.equal(agent.weight, before.weight)
    assert (agent.updates, callback.undone) == (20, 1)
    assert "update 20 is not finite: first losses loss" in capsys.readouterr().err
    assert torch.equal(agent.generator.get_state(), before.generator.get_state())


class Refusing(Sick):
    """Has a part that looks at numbers itself, and ends the update where they are not finite."""

    def learn(self, batch: TensorDict) -> Update:
        if self.updates + 1 in self.at:
            raise LogitsNotFinite("the router's logits are not finite for 4 of 4 tokens")
        return super().learn(batch)


def test_an_update_that_a_mixture_refuses_is_undone_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, callback = Refusing(at=(1, 20)), NonfiniteUpdates("skip")
    fit(tmp_path, agent, callback)
    assert (agent.updates, callback.undone) == (20, 2)
    said = capsys.readouterr().err
    assert "update 20 is not finite: first outputs LogitsNotFinite, the router's logits are not finite for 4 of" in said
    assert (tmp_path / "nonfinite/update-20.ckpt").is_file()
    stopped = Refusing(at=(6,))
    with pytest.raises(UpdateNotFinite, match=r"update 6 is not finite: first outputs LogitsNotFinite.*does not count"):
        fit(tmp_path / "stop", stopped, NonfiniteUpdates("stop"))
    assert stopped.updates == 5


def test_the_run_goes_back_to_the_weights_of_its_last_checkpoint(tmp_path: Path) -> None:
    agent, weights = Sick(at=(7,)), []
    callback = NonfiniteUpdates("rollback")
    agent.advance = lambda: (Toy.advance(agent), weights.append(float(agent.weight)))  # type: ignore[method-assign]
    fit(tmp_path, agent, callback)
    assert weights[6] == weights[3]  # behind the fourth update
    assert weights[7] != weights[4]  # for it draws other numbers
    assert len(weights) == 20


@pytest.mark.parametrize(("answer", "last"), [("skip", 14), ("rollback", 8)])
def test_a_run_that_makes_no_progress_ends(tmp_path: Path, answer: Any, last: int) -> None:
    agent = Sick(at=tuple(range(4, 20)))
    with pytest.raises(UpdateNotFinite, match=rf"update {last} is not finite.*without progress: the run ends"):
        fit(tmp_path, agent, NonfiniteUpdates(answer))
    assert len([*(tmp_path / "nonfinite").iterdir()]) <= 5


def test_members_go_on_as_long_as_one_is_finite() -> None:
    agent = Toy(SPACES, members=3)
    batch: Any = TensorDict({"action": torch.zeros(4, 1)}, [4])
    with torch.no_grad():
        agent.weight[1] = torch.nan
    assert not infinite_updates(agent, agent.update(batch), 3)
    with torch.no_grad():
        agent.weight.fill_(torch.nan)
    assert infinite_updates(agent, agent.update(batch), 3)


def _meet(rank: int) -> str:
    agent, callback = Sick(at=(1,), rank=1), NonfiniteUpdates()
    batch: Any = TensorDict({"action": torch.zeros(4, 1)}, batch_size=[4])
    with pytest.raises(UpdateNotFinite) as raised:
        callback.perform_update(agent, lambda: agent.update(batch))
    return str(raised.value)


def test_all_ranks_stop_where_one_has_to(tmp_path: Path) -> None:
    """The loss of one is not finite; its gradient reaches the moments of both."""
    other, mine = run_on_ranks(2, tmp_path, _meet)
    assert other.startswith("update 1 is not finite: first losses weight, ")  # what the update has made of it there
    assert mine.startswith("update 1 is not finite: first losses loss, ")


class Transitions(ToyData):
    """Batches of transitions, the third with a reward that is not a number."""

    def train_dataloader(self) -> Any:
        batches = [make_batch(8, seed) for seed in range(5)]
        batches[2].reward[5] = torch.nan
        return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an update of SAC."""
    folder = tmp_path_factory.mktemp("kept")
    torch.manual_seed(0)
    trainer = make_trainer(folder, 1, [NonfiniteUpdates("skip"), ExactResume()])
    trainer.fit(make_agent(CONTINUOUS), datamodule=Transitions(environment=None))
    return folder / "nonfinite/update-3.ckpt"


def test_an_update_is_executed_again_from_its_file_to_the_bit(kept: Path) -> None:
    (found,) = read_checkpoint(kept)["nonfinite"]["ranks"]
    agent, update = replay(kept)
    assert agent.updates == 2
    assert update.metrics.keys() == found["metrics"].keys()
    for name, value in update.metrics.items():
        assert torch.equal(value.nan_to_num(), found["metrics"][name].nan_to_num()), name
    assert infinite_updates(agent, update, 1)
    assert not any(bool(p.isnan().any()) for p in Agent.from_checkpoint(kept).parameters())
    with pytest.raises(ValueError, match="is of 1 processes, there is no rank 1"):
        replay(kept, 1)


def test_one_screen_shows_what_was_not_finite_first(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reverie.main(["inspect", str(kept)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "SAC, update 3 was not finite; the state is that before it"
    assert lines[3].split() == ["batch", "reward:", "[5]", "nan,", "1", "of", "8", "numbers"]
    (row,) = [line for line in lines if line.startswith("reward ")]
    assert row.split()[1:3] == ["[8]", "float32"]
    assert row.split()[-1] == "1"
    assert lines[-1] == f"  agent, update = replay('{kept}')"
    assert len(lines) <= 45


def test_other_checkpoints_and_damaged_ones_are_named(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_checkpoint(kept)
    for name, nonfinite in (
        ("none", None),
        ("empty", {"ranks": []}),
        ("half", {"ranks": [{"update": 3, "before": True}]}),
    ):
        torch.save({**content, "nonfinite": nonfinite}, tmp_path / f"{name}.ckpt")
        message = mistake(["inspect", str(tmp_path / f"{name}.ckpt")], capsys)
        assert "no update that was not finite" in message if name == "none" else "is damaged" in message


def test_outputs_of_networks_are_named_in_their_order(tmp_path: Path) -> None:
    agent = make_agent(CONTINUOUS)
    with torch.no_grad():
        last = [p for name, p in agent.named_parameters() if name.startswith("actor")][-1]
        last.fill_(3e38)  # the critic is given what overflows
    trainer = make_trainer(tmp_path, 1, [NonfiniteUpdates("skip"), ExactResume()])
    trainer.fit(agent, datamodule=Transitions(environment=None))
    (kept,) = read_checkpoint(tmp_path / "nonfinite/update-1.ckpt")["nonfinite"]["ranks"]
    places = [place for place, _, _ in kept["found"]]
    assert kept["found"][0][:2] == ["outputs", "critic.layers.0"]
    assert places == sorted(places, key=["outputs", "losses", "gradients"].index)


def test_batches_are_kept_as_plain_values() -> None:
    entries = {"a": torch.ones(2), "b": {"c": torch.zeros(2)}}
    kept = plain_batch(TensorDict(entries, [2]))
    assert kept["batch_size"] == [2]
    assert torch.equal(kept["entries"]["b"]["c"], torch.zeros(2))
    assert plain_batch(torch.ones(1)) == {"value": torch.ones(1)}


def test_an_unknown_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="nonfinite must be one of stop, skip, rollback, got 'go'"):
        NonfiniteUpdates("go")  # type: ignore[arg-type]
