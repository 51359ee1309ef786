"""A run that takes milliseconds: one weight per member, and an environment whose returns are known by heart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from pytorch_lightning import LightningDataModule, Trainer
from tensordict import TensorDict
from torch import Tensor, nn

from callbacks.checkpointing import AtomicCheckpointIO
from datamodules.recorded.dataset_info import DatasetInfo
from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam
from modules.batch import Spaces
from modules.contracts import Update


class Stairs(gym.Env):
    """The reward of a step is its action; the first observation says how many steps (3 to 7) the episode lasts."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float64)
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 8))
        return np.array([float(self.left)]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert np.isfinite(action).all(), "a non-finite action reached the environment"
        np.random.rand()  # a careless environment: draws from the global generator
        self.left -= 1
        return np.array([float(self.left)]), float(action[0]), self.left == 0, False, {}


class Wide(Stairs):
    observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float64)


gym.register("Stairs-v0", Stairs)
gym.register("Wide-v0", Wide)


def episode_length(seed: int) -> int:
    return int(Stairs().reset(seed=seed)[0][0])


class Toy(Agent):
    """Plays `weight[member]`, and walks it towards 1 with noise from the global and an own generator."""

    def __init__(self, spaces: Spaces, members: int = 1, warm_start: int = 0, start: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        self.members = members
        self.warm_start = warm_start
        self.spaces = spaces
        self.alive = [True] * members
        self.weight = nn.Parameter(torch.full((members,), start))
        self.optimizer = make_adam([self.weight], 0.05)
        self.generator = torch.Generator().manual_seed(0)

    @property
    def member_names(self) -> tuple[str, ...]:
        return ("",) if self.members == 1 else tuple(f"beta=4/seed={m}" for m in range(self.members))

    @property
    def phase(self) -> str:
        return "warm start" if self.updates < self.warm_start else "training"

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        torch.rand(())  # a careless agent: draws although it need not
        return self.weight.repeat_interleave(len(observation) // self.members)[:, None], state

    def learn(self, batch: TensorDict) -> Update:
        noise = torch.randn(self.members) + torch.randn(self.members, generator=self.generator)
        loss = (self.weight - 1.0 + 0.1 * noise + batch["action"].mean()).square()
        descend(self.optimizer, loss.sum())
        return Update({"loss": loss.detach(), "weight": self.weight.detach().clone()})

    def rank_state(self) -> dict[str, Any]:
        return {"noise": self.generator.get_state()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["noise"])


class Batches:
    """Endless with a length; draws from a generator of its own."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        while True:
            yield TensorDict({"action": torch.randn(4, 1, generator=self.generator)}, [4])


class ToyData(LightningDataModule):
    def __init__(self, per_epoch: int = 10, environment: str | None = "Stairs-v0", references: bool = True) -> None:
        super().__init__()
        self.per_epoch = per_epoch
        self.generator = torch.Generator().manual_seed(1)
        low, high = (0.0, 5.0) if references else (None, None)
        self.info = DatasetInfo(
            "stairs-mixed", "ab" * 32, environment, 100, 3, np.array([1.0, 2.0, 3.0]), np.array([3, 4, 5]), low, high,
            "given by hand", "card of stairs-mixed\n",
        )  # fmt: skip

    def train_dataloader(self) -> Batches:
        return Batches(self.per_epoch, self.generator)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def rank_state(self) -> dict[str, Any]:
        return {"sampler": self.generator.get_state()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["sampler"])


SPACES = Spaces(Stairs.observation_space, Stairs.action_space)


def make_trainer(folder: Path, epochs: int, callbacks: list, **arguments: Any) -> Trainer:
    defaults = {
        "max_epochs": epochs,
        "callbacks": callbacks,
        "default_root_dir": folder,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "log_every_n_steps": 5,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any("Checkpoint" in type(c).__name__ for c in callbacks),
        "plugins": [AtomicCheckpointIO()],
    }
    return Trainer(**defaults | arguments)
