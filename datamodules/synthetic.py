"""Supervised problems that are drawn as they are needed, from a seed, with nothing on disk.

Both ask for a network that holds many maps and applies the right ones: what mixtures of experts are made for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from datamodules.base import FromConfig, repeated_batches
from modules.arguments.changed import RUNNING
from modules.arguments.checks import check_ranges, check_seed, check_sizes
from modules.arguments.memory import check_memory
from modules.batch import Example, Spaces

STATISTICS_ROWS = 1 << 16
GAIN = 1.5  # of the random maps: their `tanh` bends, but does not saturate


class Batches:
    """Endless iterable whose `len` is one epoch; all its randomness is in one generator.

    Args:
        draw: function that makes a batch from the generator.
        length: batches per epoch.
        seed: seed of the generator.
        restart: draw the same batches in every epoch (validation).
        repeat: batches after which the same ones are drawn again (overfitting), or None.
    """

    def __init__(
        self,
        draw: Callable[[torch.Generator], TensorDict],
        length: int,
        seed: int,
        restart: bool = False,
        repeat: int | None = None,
    ) -> None:
        self.draw = draw
        self.length = length
        self.seed = seed
        self.restart = restart
        self.generator = torch.Generator().manual_seed(seed)
        self.repeat = repeat
        self.drawn = 0

    def __iter__(self) -> Iterator[TensorDict]:
        if self.restart:
            self.generator.manual_seed(self.seed)
        while True:
            if self.repeat is not None and self.drawn % self.repeat == 0:
                self.generator.manual_seed(self.seed)
            self.drawn += 1
            yield self.draw(self.generator)

    def __len__(self) -> int:
        return self.length


class SyntheticTask(FromConfig):
    """Inputs and targets of a random problem; training and validation batches are drawn afresh, never repeated.

    A training batch `[B]` is an `Example`; a validation batch holds one of `validation_size` rows for each of the
    task's groups, by name. Targets are scaled to mean 0 and variance 1 over what is trained on, so that a squared error
    of 1 is that of the best constant. Each process of a distributed run draws rows of its own.

    Args:
        batch_size: rows per batch **on each rank**.
        updates_per_epoch: batches that make one epoch, since drawing never ends.
        validation_size: rows of each group at a validation, the same ones every time.
        seed: seed of the problem and of the rows.

    Raises:
        ValueError: a size is not positive.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {"seed": RUNNING}
    groups: tuple[str, ...] = ("seen",)
    d_input: int
    d_target: int

    def __init__(self, batch_size: int, updates_per_epoch: int, validation_size: int, seed: int) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_sizes(batch_size=batch_size, updates_per_epoch=updates_per_epoch, validation_size=validation_size)
        check_seed(seed=seed)
        self.batch_size = batch_size
        self.updates_per_epoch = updates_per_epoch
        self.validation_size = validation_size
        self.seed = seed

    # ------------------------------------------------------------------------------------------- what the tasks define
    def draw_raw(self, count: int, group: str, generator: torch.Generator) -> Example:
        """`[count]` rows of one of `groups`, targets not scaled yet."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------------ rows
    @property
    def spaces(self) -> Spaces:
        """Inputs as observations, targets as actions: a regressor is an agent whose action is its prediction."""
        inputs, targets = ((width,) for width in (self.d_input, self.d_target))
        return Spaces(gym.spaces.Box(-np.inf, np.inf, inputs), gym.spaces.Box(-np.inf, np.inf, targets))

    @functools.cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each target."""
        rows = self.draw_raw(STATISTICS_ROWS, self.groups[0], self._generator("statistics"))
        return rows.target.mean(0), rows.target.std(0)

    def draw(self, count: int, group: str, generator: torch.Generator) -> Example:
        """`[count]` rows of one of `groups`."""
        rows = self.draw_raw(count, group, generator)
        mean, std = self._statistics
        return rows._replace(target=(rows.target - mean) / std)

    def _stream(self, name: str, rank: int = 0) -> int:
        """Seed of one of the streams of random numbers, which have nothing to do with each other."""
        names = ("problem", "statistics", "training", "validation")
        return int(np.random.SeedSequence([self.seed, names.index(name), rank]).generate_state(1)[0])

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._stream(name))

    # --------------------------------------------------------------------------------------------------------- loaders
    def setup(self, stage: str) -> None:
        rows = max(self.batch_size, self.validation_size)
        check_memory(f"batch_size or validation_size {rows}", 4 * rows * (self.d_input + self.d_target))

    @functools.cached_property
    def _training(self) -> Batches:
        length = self.updates_per_epoch
        repeat = repeated_batches(self.trainer, length)
        return Batches(self._training_batch, length, self._stream("training", self._rank[0]), repeat=repeat)

    def _training_batch(self, generator: torch.Generator) -> TensorDict:
        return self.draw(self.batch_size, self.groups[0], generator).to_tensordict()

    def _validation_batch(self, generator: torch.Generator) -> TensorDict:
        size = self.validation_size
        groups = {name: self.draw(size, name, generator).to_tensordict() for name in self.groups}
        return TensorDict(groups, [size])

    def train_dataloader(self) -> Batches:
        return self._training

    def val_dataloader(self) -> Batches:
        return Batches(self._validation_batch, 1, self._stream("validation", self._rank[0]), restart=True)

    def test_dataloader(self) -> Batches:
        """The validation batch."""
        return self.val_dataloader()

    # ----------------------------------------------------------------------------------------------------- exact resume
    def rank_state(self) -> dict[str, Any]:
        """State of this rank's draws; with it the next batch is the one that would have come."""
        return {"generator": self._training.generator.get_state(), "drawn": self._training.drawn}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`, on the same rank."""
        self._training.generator.set_state(state["generator"])
        self._training.drawn = state.get("drawn", 0)


class MixtureTask(SyntheticTask):
    """Many small regression problems in one: each row belongs to a latent task that has a random map of its own.

    Row: `z ~ N(0, 1)`, a task `c` drawn uniformly, its code `e_c` plus noise. Target: `V_c tanh(W_c z)`.

    Args:
        tasks: number of latent tasks.
        features: `D`, width of `z`, of a task's code, of the hidden layer of its map and of the target.
        noise: standard deviation of the noise on the code, whose own is 1.
        batch_size: rows per batch **on each rank**.
        updates_per_epoch: batches per epoch.
        validation_size: rows of a validation.
        seed: seed of the maps, the codes and the rows.

    Raises:
        ValueError: a size is not positive, or the noise is negative.
    """

    def __init__(
        self,
        tasks: int = 64,
        features: int = 8,
        noise: float = 0.3,
        batch_size: int = 1024,
        updates_per_epoch: int = 250,
        validation_size: int = 8192,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, updates_per_epoch, validation_size, seed)
        check_sizes(tasks=tasks, features=features)
        check_ranges(("noise", noise, 0.0, 1e12))
        check_memory(f"{tasks} tasks of {features} features", 8 * tasks * features * (features + 1))
        self.features = features
        self.noise = noise
        self.d_input = 2 * features
        self.d_target = features
        generator = self._generator("problem")
        self.codes = torch.randn(tasks, features, generator=generator)
        self.first = random_maps(tasks, features, generator) * GAIN
        self.second = random_maps(tasks, features, generator)

    def draw_raw(self, count: int, group: str, generator: torch.Generator) -> Example:
        task = torch.randint(len(self.codes), (count,), generator=generator)
        z = torch.randn(count, self.features, generator=generator)
        code = self.codes[task] + self.noise * torch.randn(count, self.features, generator=generator)
        target = apply_maps(torch.tanh(apply_maps(z, self.first[task])), self.second[task])
        return Example(torch.cat([z, code], 1), target, task)


class CompositionalTask(SyntheticTask):
    """A chain of maps, each chosen from a few: the combinations are many, and some of them are never trained on.

    Row: `z ~ N(0, 1)` and, for each stage, the code of the map chosen there plus noise. Target: `f_c(f_b(f_a(z)))` for
    three stages, with `f_i(x) = tanh(W_i x)`. The groups of a validation are combinations that training has `seen` and
    those that it was denied, `held_out`: a network that has found the maps computes both.

    Args:
        maps: number of maps of each stage.
        stages: maps that are applied one after the other.
        features: width of `z`, of every map and of the target.
        code: width of the code of a map.
        noise: standard deviation of the noise on a code, whose own is 1.
        held_out: share of the combinations that is held out, chosen by `seed`.
        batch_size: rows per batch **on each rank**.
        updates_per_epoch: batches per epoch.
        validation_size: rows of each group at a validation.
        seed: seed of the maps, the codes, the held-out part, and the rows.

    Raises:
        ValueError: a size is not positive, the noise is negative, or so much is held out that training would never see
            some map, or nothing is.
    """

    groups = ("seen", "held_out")

    def __init__(
        self,
        maps: int = 8,
        stages: int = 3,
        features: int = 8,
        code: int = 4,
        noise: float = 0.1,
        held_out: float = 0.25,
        batch_size: int = 1024,
        updates_per_epoch: int = 500,
        validation_size: int = 8192,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, updates_per_epoch, validation_size, seed)
        check_sizes(maps=maps, stages=stages, features=features, code=code)
        check_ranges(("noise", noise, 0.0, 1e12), ("held_out", held_out, 0.0, 1.0))
        combinations = maps ** min(stages, 64)  # beyond any memory, whatever the base
        numbers = 2 * combinations * (maps > 1) + stages * maps * (code + features * features)
        check_memory(f"{maps} maps of {features} features in {stages} stages", 8 * numbers)
        self.maps = maps
        self.stages = stages
        self.features = features
        self.noise = noise
        self.d_input = features + stages * code
        self.d_target = features
        generator = self._generator("problem")
        self.codes = torch.randn(stages, maps, code, generator=generator)
        self.weights = random_maps(stages * maps, features, generator).unflatten(0, (stages, maps)) * GAIN
        order = torch.randperm(maps**stages, generator=generator)
        cut = round(held_out * len(order))
        self.combinations = {"seen": order[cut:], "held_out": order[:cut]}
        if cut < 1 or any(len(stage.unique()) < maps for stage in self.chosen_maps(self.combinations["seen"])):
            raise ValueError(
                f"held_out={held_out} leaves {cut} of {len(order)} combinations to hold out and {len(order) - cut} to "
                f"train on; at least one must be held out, and every map be trained on"
            )

    def chosen_maps(self, combination: Tensor) -> list[Tensor]:
        """Index of the map of each stage, first stage first, for `[B]` numbers of combinations."""
        return [combination // self.maps**stage % self.maps for stage in range(self.stages)]

    def draw_raw(self, count: int, group: str, generator: torch.Generator) -> Example:
        pool = self.combinations[group]
        combination = pool[torch.randint(len(pool), (count,), generator=generator)]
        x = torch.randn(count, self.features, generator=generator)
        inputs = [x]
        for codes, weights, chosen in zip(self.codes, self.weights, self.chosen_maps(combination), strict=True):
            inputs.append(codes[chosen] + self.noise * torch.randn(count, codes.shape[1], generator=generator))
            x = torch.tanh(apply_maps(x, weights[chosen]))
        return Example(torch.cat(inputs, 1), x, combination)


def random_maps(count: int, width: int, generator: torch.Generator) -> Tensor:
    """`[count, width, width]` random matrices that keep the mean square of a vector's features on average."""
    return torch.randn(count, width, width, generator=generator) / math.sqrt(width)


def apply_maps(x: Tensor, matrix: Tensor) -> Tensor:
    """Each row's own matrix: `[B, D]` and `[B, D, D']` to `[B, D']`."""
    return torch.bmm(x.unsqueeze(1), matrix).squeeze(1)
