"""The callback for mixtures of experts: numbers known by hand, files, pruning, resume, and two processes."""

from __future__ import annotations

import copy
import csv
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from equal import assert_equal
from fit_command import fit, load
from pytorch_lightning import Callback
from tensordict import TensorDict
from torch import Tensor, nn
from toy_run import SPACES, Batches, Toy, ToyData, make_trainer

from callbacks.checkpointing import ExactResume
from callbacks.experts.experts import Experts, load_metrics
from callbacks.experts.pruning import Pruning, copies_of, learning_layers
from callbacks.experts.report import INTERVALS, LoadHistory, draw_heat_maps, write_csv
from callbacks.mlflow.logger import MLflowLogger
from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam
from modules.contracts import Update
from modules.experts.layer import SparseMoE, sparse_layers
from modules.networks.ensemble import follow

BATCH = 32
PATH = "critic.0"


class Mean(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([layer(x) for layer in self]).mean(0)


class Mixed(Agent):
    """A critic that is one mixture, and a target that follows it; experts 1 and 4 of six are out of reach.

    Expert 2 is in reach of the noise alone.
    """

    def __init__(self, spaces: Any = SPACES, kind: str = "top_k", members: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        self.kind = kind
        self.members = members
        self.build_for(spaces)

    def build(self, spaces: Any) -> None:
        torch.manual_seed(0)
        arguments: dict[str, Any] = {"expert": nn.Linear} if self.kind == "modules" else {}
        routing: Any = "top_k" if self.kind == "modules" else self.kind
        self.critic = Mean(SparseMoE(4, 4, 6, 2, routing=routing, **arguments) for _ in range(self.members))
        for layer in self.critic:
            with torch.no_grad():
                layer.router.weight[:, :6].uniform_(-0.1, 0.1)
                layer.router.weight[0, [1, 2, 4]] = torch.tensor([-99.0, -1.5, -99.0])
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.optimizer = make_adam(self.critic.parameters(), 1e-4)

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        with torch.no_grad():
            return self.critic(observation.expand(-1, 4))[:, :1], state

    def learn(self, batch: TensorDict) -> Update:
        loss = (self.critic(batch["x"]) - batch["x"]).square().mean()
        descend(self.optimizer, loss)
        follow(self.target_critic, self.critic, 0.1)
        return Update({"loss": loss.detach()})

    def evaluate_losses(self, batch: TensorDict) -> dict[str, Tensor]:
        return {"loss": (self.critic(batch["x"]) - batch["x"]).square().mean()}


def rows(generator: torch.Generator) -> TensorDict:
    x = torch.randn(BATCH, 4, generator=generator)
    x[:, 0] = 1.0  # a constant feature: its row of the gate is a bias
    return TensorDict({"x": x}, [BATCH])


HELD_OUT = rows(torch.Generator().manual_seed(5))


class Endless(Batches):
    def __iter__(self) -> Iterator[TensorDict]:
        while True:
            yield rows(self.generator)


class HeldOut:
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[TensorDict]:
        yield HELD_OUT


class Data(ToyData):
    def train_dataloader(self) -> Batches:
        return Endless(self.per_epoch, self.generator)

    def val_dataloader(self) -> HeldOut:
        return HeldOut()


class Metrics(Callback):
    """Every value that an agent logs, by name and update; at an epoch's end it plays, as an evaluation does."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if hasattr(pl_module, "critic"):
            pl_module.act(torch.ones(7, 1), explore=False)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.seen: dict[str, dict[int, float]] = {}
        plain = pl_module.log_metrics

        def log_metrics(values: dict[str, float]) -> None:
            for name, value in values.items():
                self.seen.setdefault(name, {})[pl_module.updates] = value
            plain(values)

        pl_module.log_metrics = log_metrics


def run(
    folder: Path, agent: Agent, experts: Experts, epochs: int = 4, extra: tuple[Callback, ...] = (), **arguments: Any
) -> Metrics:
    """Epochs of ten updates with validation."""
    metrics = Metrics()
    fit_arguments = {"ckpt_path": arguments.pop("ckpt_path", None)}
    trainer = make_trainer(folder, epochs, [experts, metrics, *extra], num_sanity_val_steps=0, **arguments)
    trainer.fit(agent, datamodule=Data(), **fit_arguments)
    return metrics


def table(folder: Path) -> tuple[list[str], list[list[str]]]:
    with (folder / "expert_load.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    return names, rows


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    return width, height


# ------------------------------------------------------------------------------------------------------------- numbers
def test_loads_in_numbers() -> None:
    assert load_metrics(torch.tensor([0, 2, 4, 2])) == {
        "load_variation": pytest.approx(math.sqrt(2) / 2), "load_max_over_mean": 2.0, "unused_experts": 1.0,
    }  # fmt: skip
    assert load_metrics(torch.zeros(3, dtype=torch.int64)) == {}


class Known(Mixed):
    """Each token names its expert: of eight tokens five choose the first, two the second and one the third."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.critic = Mean([SparseMoE(4, 4, 4, 1, routing="top_k", **arguments)])
        self.critic[0].router.weight.data = 10 * torch.eye(4)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.optimizer = make_adam(self.critic.parameters(), 1e-4)

    def learn(self, batch: TensorDict) -> Update:
        with torch.no_grad():
            self.critic(torch.eye(4)[[0, 0, 0, 0, 0, 1, 1, 2]])
        return Update({"loss": torch.zeros(())})


@pytest.mark.parametrize("validation", [0, 1])
def test_metrics_of_loads_known_by_hand(tmp_path: Path, validation: int) -> None:
    seen = run(tmp_path, Known(), Experts(interval=4), epochs=2, limit_val_batches=validation).seen
    assert sorted(seen["experts/critic.0/load_variation"]) == [4, 8, 12, 16, 20]
    last = {name.removeprefix(f"experts/{PATH}/"): v[20] for name, v in seen.items() if name.startswith("experts/")}
    p, q = math.exp(10) / (math.exp(10) + 3), 1 / (math.exp(10) + 3)
    entropy = -p * math.log(p) - 3 * q * math.log(q)
    assert last == {
        "load_variation": pytest.approx(math.sqrt((9 + 0 + 1 + 4) / 4) / 2),
        "load_max_over_mean": 2.5,
        "unused_experts": 1.0,
        "router_entropy": pytest.approx(entropy, rel=1e-4),
        "router_entropy_share": pytest.approx(entropy / math.log(4), rel=1e-4),
    }
    # What validation and evaluation compute is not counted: every interval of four updates holds 32 rows.
    names, rows = table(tmp_path)
    assert names == ["updates", *(f"{PATH}/{e}" for e in range(4))]
    assert rows == [[str(end), "20", "8", "4", "0"] for end in (4, 8, 12, 16, 20)]


def test_dropped_rows_are_a_share_of_all(tmp_path: Path) -> None:
    seen = run(tmp_path, Known(capacity_factor=1.0), Experts(), epochs=1).seen  # two rows per expert
    assert seen["experts/critic.0/dropped_share"] == {5: 3 / 8, 10: 3 / 8}
    assert seen["experts/critic.0/load_max_over_mean"][10] == pytest.approx(2 / 1.25)


def test_history_joins_neighbours_when_it_is_full() -> None:
    history = LoadHistory({"a": 2, "b": 1})
    for update in range(1, 2 * INTERVALS + 4):
        if update == 301:
            assert history.remove("a", [1], 300) == [0]
        history.add(update, {"a": torch.tensor([7, 1] if update <= 300 else [1]), "b": torch.tensor([update])})
    assert history.per_interval == 4
    assert history.ends == [*range(4, 2 * INTERVALS + 1, 4), 2 * INTERVALS + 3]
    a, b = history.loads("a"), history.loads("b")
    assert a[:75, 0].tolist() == [28.0] * 75  # up to update 300
    assert np.isnan(a[75:, 0]).all()
    assert a[:, 1].tolist() == [4.0] * (INTERVALS // 2) + [3.0]
    assert b[0, 0] == 1 + 2 + 3 + 4
    assert b.sum() == sum(range(1, 2 * INTERVALS + 4))


# --------------------------------------------------------------------------------------------------------------- files
def test_heat_maps_have_a_panel_per_mixture_and_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.experts.report.PANELS", 2)
    history = LoadHistory({f"critic.{i}": 4 for i in range(3)})
    for update in (100, 200, 300):
        history.add(update, {f"critic.{i}": torch.tensor([update, 1, 1, 0]) for i in range(3)})
    history.remove("critic.2", [0, 1, 2], 200)
    pages = draw_heat_maps(history, tmp_path)
    assert [page.name for page in pages] == ["expert_load_1.png", "expert_load_2.png"]
    assert [png_size(page) for page in pages] == [(910, 598), (910, 351)]
    write_csv(history, tmp_path / "expert_load.csv")
    _, rows = table(tmp_path)
    assert rows[-1][-4:] == ["300", "1", "1", ""]


class Puts(MLflowLogger):
    """Keeps what would be sent."""

    experiment = None

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []

    def put(self, kind: str, run_id: str | None = None, **fields: Any) -> None:
        self.sent.append({"kind": kind, **fields})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_files_are_in_the_run_directory_and_sent_to_mlflow(tmp_path: Path) -> None:
    logger = Puts()
    run(tmp_path, Mixed(members=2), Experts(), epochs=3, logger=logger)
    assert png_size(tmp_path / "expert_load.png") == (910, round(130 * (0.8 + 2 * 1.9)))
    files = [Path(record["source"]).name for record in logger.sent if record["kind"] == "file"]
    assert files == [*["expert_load.csv"] * 4, "expert_load.png"]  # each epoch's end, and the end of training
    names, rows = table(tmp_path)
    assert len(names) == 13
    assert [sum(map(int, row[1:])) for row in rows] == [2 * 5 * 2 * BATCH] * 6  # layers, updates, k, tokens


# ------------------------------------------------------------------------------------------------------------- pruning
@pytest.mark.parametrize("kind", ["noisy_top_k", "modules"])
def test_a_collapsed_mixture_loses_what_nobody_uses(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    """Experts 1 and 4 are never used; expert 2 only with noise, which the window does without."""
    agent, experts = Mixed(kind=kind, members=2), Experts(prune_after=12, prune_window=10)
    before: list[Tensor] = []

    class Around(Callback):
        """Looks at the update of the pruning before and after the callback under test."""

        def __init__(self, store: list[Tensor]) -> None:
            self.store = store

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if pl_module.updates == 22:
                copied = copy.deepcopy(pl_module.critic).eval()
                copied[0].noise = copied[1].noise = False
                self.store.append(copied(HELD_OUT["x"]))

    metrics = Metrics()
    first, last = Around(before), Around(before)
    trainer = make_trainer(tmp_path, 4, [first, experts, metrics, last])
    trainer.fit(agent, datamodule=Data())
    torch.testing.assert_close(before[1], before[0], rtol=0, atol=1e-6)
    unused_with_noise = metrics.seen[f"experts/{PATH}/unused_experts"]
    if kind == "noisy_top_k":
        assert unused_with_noise[10] == 2.0  # the noise does reach expert 2
    assert [layer.num_experts for layer in (*agent.critic, *agent.target_critic)] == [3] * 4
    assert metrics.seen[f"experts/{PATH}/num_experts"] == {22: 3.0}
    assert unused_with_noise[40] == 0.0
    held = [p for group in agent.optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in agent.critic.parameters()]
    for p in held:
        assert agent.optimizer.state[p]["exp_avg"].shape == agent.optimizer.state[p]["exp_avg_sq"].shape == p.shape
    assert len(agent.optimizer.state) == len(held)
    printed = capsys.readouterr().out
    assert "critic.0: 6 -> 3 experts, without 1, 2, 4\n" in printed
    assert not any(layer.quiet for layer in agent.critic)
    names, rows = table(tmp_path)
    assert rows[3][0] == "20"
    assert rows[3][names.index(f"{PATH}/2")] == "0"
    assert rows[-1][names.index(f"{PATH}/1")] == ""


class Switches(Callback):
    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(pl_module.critic[0].quiet)


def test_noise_returns_after_the_window(tmp_path: Path) -> None:
    switches = Switches()
    run(tmp_path, Mixed(), Experts(prune_after=0, prune_window=20), extra=(switches,))
    assert switches.seen == [True] * 20 + [False] * 20


def test_the_share_that_is_too_small(tmp_path: Path) -> None:
    agent = Known()
    run(tmp_path, agent, Experts(prune_after=0, prune_window=30, min_share=0.2))
    assert agent.critic[0].num_experts == 2  # 5, 2 and 1 of 8 rows


def test_copies_follow_by_place_and_name() -> None:
    agent = Mixed(members=2)
    assert copies_of(agent, learning_layers(agent)) == {
        "critic.0": [agent.target_critic[0]], "critic.1": [agent.target_critic[1]],
    }  # fmt: skip
    agent.slow = copy.deepcopy(agent.critic).requires_grad_(False)
    with pytest.raises(ValueError, match=r"slow\.0 is frozen, and no network that learns has a mixture at its place"):
        copies_of(agent, learning_layers(agent))


# ------------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"prune_after": -1}, "prune_after must be at least 0, got -1"),
        ({"prune_after": 1, "min_share": 1.0}, r"min_share must lie in \[0, 1\), got 1.0"),
        ({"min_share": 0.1}, "would be ignored; set prune_after"),
        ({"prune_window": 7}, "would be ignored; set prune_after"),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experts(**arguments)


@pytest.mark.parametrize(
    ("agent", "arguments", "message"),
    [
        (lambda: Toy(SPACES), {}, "finds no mixture of experts that learns in Toy"),
        (Mixed, {"prune_after": 5, "prune_window": 4}, "critic.0 gets 43 rows on average.*; set at least 5"),
        (Mixed, {"prune_after": 35, "prune_window": 10}, "the run ends after 40 updates, before it is pruned at .* 45"),
        (lambda: Mixed(kind="expert_choice"), {"prune_after": 1, "prune_window": 10}, "every expert is used by design"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    tmp_path: Path, agent: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path, agent(), Experts(**arguments))
    assert "\n" not in str(error.value)


def test_mixtures_that_are_spread_over_processes_are_not_pruned() -> None:
    layers = {PATH: SparseMoE(4, 4, 6, parallel_size=2)}
    pruning = Pruning(start=12, window=10, min_share=0.0)
    processes = [SimpleNamespace(world_size=n, estimated_stepping_batches=40) for n in (1, 2)]
    assert pruning.is_due(processes[0], layers, updates=0, opened=False, done=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"critic\.0 is spread over processes and cannot be pruned there"):
        pruning.is_due(processes[1], layers, updates=0, opened=False, done=None)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- resume
PRUNED = {"prune_after": 12, "prune_window": 10}


class Keep(Callback):
    """Checkpoints at these updates; at the end of an epoch where one ends there."""

    def __init__(self, folder: Path, *updates: int) -> None:
        self.folder = folder
        self.updates = updates

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.updates % 10:
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.updates in self.updates:
            trainer.save_checkpoint(self.folder / f"{pl_module.updates}.ckpt")


def whole_state(agent: Mixed, experts: Experts) -> dict[str, Any]:
    state = {"agent": agent.state_dict(), "optimizer": agent.optimizer.state_dict(), "experts": experts.state_dict()}
    return copy.deepcopy(state)


@pytest.mark.parametrize("kind", ["noisy_top_k", "modules"])
def test_resume_equals_the_run_that_was_never_stopped(tmp_path: Path, kind: str) -> None:
    """Before the window, within it, at an epoch's end within it, right after the pruning, and long after it."""
    stops = (9, 17, 20, 22, 33) if kind == "noisy_top_k" else (17, 22)
    agent, experts = Mixed(kind=kind), Experts(**PRUNED)
    run(tmp_path / "whole", agent, experts, extra=(ExactResume(), Keep(tmp_path, *stops)))
    assert agent.critic[0].num_experts == 3
    for stop in stops:
        resumed, again = Mixed(kind=kind), Experts(**PRUNED)
        folder, checkpoint = tmp_path / str(stop), tmp_path / f"{stop}.ckpt"
        run(folder, resumed, again, extra=(ExactResume(),), ckpt_path=checkpoint)
        assert_equal(whole_state(agent, experts), whole_state(resumed, again))
        assert (tmp_path / "whole/expert_load.csv").read_bytes() == (folder / "expert_load.csv").read_bytes()

        loaded = Mixed.from_checkpoint(checkpoint)
        assert isinstance(loaded, Mixed)
        assert loaded.critic[0].num_experts == loaded.target_critic[0].num_experts == (6 if stop < 22 else 3)


def test_a_pruning_that_is_past_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Mixed(), Experts(), extra=(Keep(tmp_path, 40),))
    last = tmp_path / "40.ckpt"
    with pytest.raises(ValueError, match="prune_after=12 is past, the run is at 40 updates; raise it"):
        run(tmp_path, Mixed(), Experts(**PRUNED), epochs=8, ckpt_path=last)
    agent = Mixed()
    run(tmp_path, agent, Experts(prune_after=50, prune_window=10), epochs=8, ckpt_path=last)
    assert agent.critic[0].num_experts == 3


def test_a_window_is_forgotten_when_the_schedule_changes(tmp_path: Path) -> None:
    run(tmp_path, Mixed(), Experts(prune_after=8, prune_window=22), epochs=3, extra=(ExactResume(), Keep(tmp_path, 15)))
    switches, again = Switches(), Experts(prune_after=20, prune_window=5)
    run(tmp_path, Mixed(), again, epochs=3, extra=(ExactResume(), switches), ckpt_path=tmp_path / "15.ckpt")
    assert switches.seen == [False] * 5 + [True] * 5 + [False] * 5


# ------------------------------------------------------------------------------------------------------- two processes
def test_two_processes_prune_alike_and_their_checkpoint_is_played_on(tmp_path: Path) -> None:
    """Through the command line, with policy, critics and what follows them as mixtures."""
    experts = {"class_path": "callbacks.experts.experts.Experts", "init_args": {"prune_after": 20, "prune_window": 30}}
    mixture = {"class_path": "modules.experts.layer.SparseMoE", "init_args": {"num_experts": 24, "hidden": 8}}
    arguments = (
        "--model.hidden", "[16]", "--model.trunk", json.dumps(mixture), "--model.actor.average_rate", "0.1",
        "--data.updates_per_epoch", "30", "--trainer.callbacks+", json.dumps(experts), "--run_dir", "runs/mixture",
    )  # fmt: skip
    done = fit(
        tmp_path, "ranks", *arguments, "--trainer.max_epochs", "2",
        "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = [load(tmp_path / f"ranks/rank{r}.pt")["state"] for r in range(2)]
    for state in states:  # each rank's own counts
        for name in [name for name in state if name.endswith("_extra_state")]:
            del state[name]
    assert_equal(*states)
    agent = Agent.from_checkpoint(next(tmp_path.glob("runs/mixture/*/checkpoints/last.ckpt")))
    experts_left = {path: layer.num_experts for path, layer in sparse_layers(agent).items()}
    assert experts_left["actor.network.trunks.0"] < 24
    assert experts_left["average_actor.network.trunks.0"] == experts_left["actor.network.trunks.0"]
    assert experts_left["target_critic.trunks.1"] == experts_left["critic.trunks.1"]
    assert agent.act(torch.randn(5, 3), explore=False)[0].shape == (5, 2)
