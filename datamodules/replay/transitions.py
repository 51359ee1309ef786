"""Replay on TorchRL: uniform batches from packed rows, endless, resumable.

A stored row is one float32 vector with all fields of a transition, so drawing a batch is one gather, and its cost does
not grow with the number of stored rows. Batches come out in TorchRL's TED layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import RandomSampler, TensorDictReplayBuffer
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

from datamodules.replay.torchrl_parts import GatherStorage, RowSampler, gather
from modules.batch import by_name


def move(batch: TensorDictBase, device: torch.device) -> TensorDictBase:
    """The batch on a device; as it is where it is there already: Lightning's own transfer copies it regardless."""
    return batch if batch.device == device else batch.to(device)


@dataclass(frozen=True)
class Column:
    """Where a field lies in the packed rows: `row[:, start:stop]`, reshaped to `[B, *shape]`."""

    start: int
    stop: int
    shape: tuple[int, ...]


class Unpack:
    """Collate function: packed rows `[B, W]` to a TED TensorDict `[B]`, rewards scaled and shifted."""

    def __init__(self, columns: Mapping[str, Column], reward_scale: float = 1.0, reward_shift: float = 0.0) -> None:
        self.columns = columns
        self.reward_scale = reward_scale
        self.reward_shift = reward_shift

    def __call__(self, data: TensorDictBase) -> TensorDict:
        row = data["row"]
        size = row.shape[:1]
        fields = {name: row[:, c.start : c.stop].contiguous().view(*size, *c.shape) for name, c in self.columns.items()}
        fields |= by_name(data)
        reward = fields["next/reward"]
        if (self.reward_scale, self.reward_shift) != (1.0, 0.0):
            reward = reward * self.reward_scale + self.reward_shift
        following = TensorDict(
            {
                "observation": fields["next/observation"],
                "reward": reward,
                "terminated": fields["next/terminated"] > 0.5,
                "truncated": fields["next/truncated"] > 0.5,
            },
            size,
            device=row.device,  # without it, the outer TensorDict would copy the inner one
        )
        return TensorDict(
            {"observation": fields["observation"], "action": fields["action"], "next": following},
            size,
            device=row.device,
        )


class Replay:
    """Endless iterable of batches whose `len` is one epoch; all its randomness is in two generators.

    Args:
        data: `[N]` stored rows, with `row` `[N, W]` and fields of other dtypes; `next/reward` `[N, 1]` overrides the
            packed one.
        unpack: collate function.
        batch_size: rows per batch.
        length: batches per epoch.
        seed: seed of both generators.
        rows: `[n]` rows to sample from, or None for all.
        initial: `[E, ...]` first observations of episodes; adds `initial_observation` to every batch, or None.
        prefetch: batches that a background thread prepares; the order is then not reproducible.
        restart: draw the same batches in every epoch (validation).
        repeat: batches after which the same ones are drawn again (overfitting), or None.
    """

    def __init__(
        self,
        data: TensorDictBase,
        unpack: Unpack,
        *,
        batch_size: int,
        length: int,
        seed: int,
        rows: Tensor | None = None,
        initial: Tensor | None = None,
        prefetch: int = 0,
        restart: bool = False,
        repeat: int | None = None,
    ) -> None:
        device = data["row"].device
        self.batch_size = batch_size
        self.length = length
        self.seed = seed
        self.restart = restart
        self.initial = initial
        self.repeat = repeat
        self.drawn = 0
        self.generators = {name: torch.Generator(device) for name in ("rows", "initial")}
        self.buffer = TensorDictReplayBuffer(
            storage=GatherStorage(data, device),
            sampler=RandomSampler() if rows is None else RowSampler(rows.to(device)),
            writer=ImmutableDatasetWriter(),
            collate_fn=unpack,
            batch_size=batch_size,
            prefetch=prefetch or None,
        )
        self.buffer.set_rng(self.generators["rows"])
        self.reseed()

    def reseed(self) -> None:
        """Start both random sequences over."""
        for offset, generator in enumerate(self.generators.values()):
            generator.manual_seed(self.seed + 500 * offset)

    def sample(self) -> TensorDictBase:
        """One batch `[B]` in TED layout."""
        batch = self.buffer.sample()
        if self.initial is not None:
            draw = torch.randint(
                len(self.initial),
                (self.batch_size,),
                generator=self.generators["initial"],
                device=self.initial.device,
            )
            batch["initial_observation"] = gather(self.initial, draw)
        return batch

    def __iter__(self) -> Iterator[TensorDictBase]:
        if self.restart:
            self.reseed()
        while True:
            if self.repeat is not None and self.drawn % self.repeat == 0:
                self.reseed()
            self.drawn += 1
            yield self.sample()

    def __len__(self) -> int:
        return self.length

    def state_dict(self) -> dict[str, Tensor]:
        """State of the generators: the next batches follow from it and the data."""
        return {
            "drawn": torch.tensor(self.drawn),
            **{name: generator.get_state() for name, generator in self.generators.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.drawn = int(state.get("drawn", 0))
        for name, generator in self.generators.items():
            generator.set_state(state[name])
