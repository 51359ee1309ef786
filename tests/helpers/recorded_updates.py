"""Updates that scripts in `benchmarks/peers` recorded of other libraries, in the forms of this project."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from modules.batch import Spaces, Transition
from modules.networks.ensemble import EnsembleLinear

DATA = Path(os.environ.get("REVERIE_RECORDED", Path(__file__).parents[1] / "data"))
"""Folder of the libraries' folders; a benchmark records anew, at the sizes that it times, and names its own."""

RATE = 0.01
"""Of every optimiser of the recorded updates, see `benchmarks/peers/recorded_draws.py`."""


class Recorded:
    """Two consecutive updates of one algorithm; `when` is `initial`, `after_1` or `after_2`.

    `settings` are d3rlpy's hyper-parameters, `losses` what it reports, one dict per update, of which 1 is the first.
    After an update weights may differ by `near`, at most a hundredth of a step, and losses by the share `share`.
    """

    library = "d3rlpy"
    layers: tuple[tuple[str, ...], ...] = (("_encoder._layers.0",), ("_encoder._layers.2",), ("_fc", "_mu", "_logstd"))
    """Names that the layers of one of its networks may have, in order; those of one place become one layer."""

    def __init__(self, name: str) -> None:
        self.arrays = dict(np.load(DATA / self.library / f"{name}.npz"))
        about = json.loads(str(self.arrays.pop("about")))
        self.settings: dict = about["settings"]
        self.losses: list[dict[str, float]] = about["losses"]
        self.hidden: list[int] = about["hidden"]
        # Adam's first step divides by the gradient: of many weights some have one that rounding changes.
        small = max(self.hidden) <= 16
        self.near = 1e-5 if small else 1e-2 * RATE
        self.share = 1e-5 if small else 1e-4

    @property
    def spaces(self) -> Spaces:
        """Spaces of the recorded batches; numbered actions are up to the highest that the last layer has."""
        rows = self.arrays["batch_1/observations"]
        actions = self.arrays["batch_1/actions"]
        box = gym.spaces.Box(-1.0, 1.0, (actions.shape[1],))
        outputs = [x for name, x in self.arrays.items() if name.startswith("initial/") and name.endswith(".bias")]
        numbered = np.issubdtype(actions.dtype, np.integer)
        return Spaces(
            gym.spaces.Box(-np.inf, np.inf, (rows.shape[1],)),
            gym.spaces.Discrete(len(outputs[-1])) if numbered else box,
        )

    def parameter(self, when: str, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[f"{when}/{name}"])

    def draw(self, update: int, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[f"draws_{update}/{name}"])

    def batch(self, update: int) -> Transition:
        rows = {name: torch.from_numpy(self.arrays[f"batch_{update}/{name}"]) for name in
                ("observations", "actions", "rewards", "next_observations", "terminals")}  # fmt: skip
        actions = rows["actions"] if rows["actions"].is_floating_point() else rows["actions"].squeeze(-1)
        ends = rows["terminals"].squeeze(-1).bool()
        return Transition(
            rows["observations"], actions, rows["rewards"].squeeze(-1), rows["next_observations"], ends,
            torch.zeros_like(ends),
        )  # fmt: skip

    @torch.no_grad()
    def fill(self, network: nn.Module, when: str, *names: str) -> None:
        """Give a stacked network the weights of d3rlpy's, one name per member, such as `q_funcs.0`, `q_funcs.1`.

        Heads of mean and log deviation become one last layer, the mean first.
        """
        for ours, theirs in self._pairs(network, when, *names):
            ours.copy_(theirs)

    @torch.no_grad()
    def distance(self, network: nn.Module, when: str, *names: str) -> float:
        """The largest difference between a stacked network's weights and those of d3rlpy's."""
        return max(float((ours - theirs).abs().max()) for ours, theirs in self._pairs(network, when, *names))

    def _pairs(self, network: nn.Module, when: str, *names: str) -> Iterator[tuple[Tensor, Tensor]]:
        layers = [layer for layer in network.modules() if isinstance(layer, EnsembleLinear)]
        for member, name in enumerate(names):
            theirs = [
                [part for part in parts if f"{when}/{name}.{part}.weight" in self.arrays] for parts in self.layers
            ]
            for layer, parts in zip(layers, theirs, strict=True):
                for kind, ours in (("weight", layer.weight[member].T), ("bias", layer.bias[member, 0])):
                    yield ours, torch.cat([self.parameter(when, f"{name}.{part}.{kind}") for part in parts])


class RecordedOfStableBaselines3(Recorded):
    """The same of stable-baselines3."""

    library = "stable_baselines3"
    layers = (("0", "latent_pi.0"), ("2", "latent_pi.2"), ("4", "mu", "log_std"))
