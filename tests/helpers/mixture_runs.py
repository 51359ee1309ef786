"""Short runs of an agent whose critic is a mixture of experts, and the files that are left of them."""

from __future__ import annotations

import copy
import csv
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from tensordict import TensorDict
from torch import Tensor, nn
from toy_run import SPACES, Batches, ToyData, make_trainer

from callbacks.experts.experts import Experts
from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam
from modules.contracts import Update
from modules.experts.layer import SparseMoE
from modules.networks.auxiliary_losses import collecting
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
        with collecting(self.critic):  # whose losses are left out: the load shall stay as uneven as it is
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


class Switches(Callback):
    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(pl_module.critic[0].quiet)
