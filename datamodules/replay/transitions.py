"""Replay on TorchRL: uniform or weighted batches from packed rows, endless, resumable.

A stored row is one float32 vector with all fields of a transition, so drawing a batch is one gather, and its cost does
not grow with the number of stored rows. Batches come out in TorchRL's TED layout.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import PrioritizedSampler, RandomSampler, TensorDictReplayBuffer
from torchrl.data.replay_buffers import Sampler
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

from datamodules.replay.other_parts import make_sampler
from datamodules.replay.torchrl_parts import GatherStorage, MakeSampler, SubsetStorage, gather
from datamodules.replay.weighted import WeightedSampler
from modules.batch import by_name
from modules.trust.names import cut
from modules.wall_time import timed


def move(batch: TensorDictBase, device: torch.device) -> TensorDictBase:
    """The batch on a device; as it is where it is there already: Lightning's own transfer copies it regardless."""
    return batch if batch.device == device else batch.to(device)


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: torch knows no such device, or it is a CUDA device and there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"storage_device: {name!r} is no device of torch; use cpu, cuda or cuda:<index>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"storage_device: {name} is not there; torch sees {torch.cuda.device_count()} CUDA devices")


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


class Share(NamedTuple):
    """Rows of one process among those that all processes of a run draw together, from random numbers that are the same.

    Together they draw what one process with all rows in its batch would draw, in that order.

    Attributes:
        rank: index of the process.
        world: number of all.
        minibatches: independent parts of a batch, of each of which every process has its share.
    """

    rank: int = 0
    world: int = 1
    minibatches: int = 1

    def of(self, rows: Tensor) -> Tensor:
        """The `[B]` own ones of `[world * B]` rows."""
        return rows.view(self.minibatches, self.world, -1)[:, self.rank].flatten()


ALL = Share()
"""The rows of the only process."""

OTHERS = "use torchrl.data.SamplerWithoutReplacement, or leave sampler out"
"""Advice for a sampler that does not fit."""


class Replay:
    """Endless iterable of batches whose `len` is one epoch; all its randomness is in two generators.

    `buffer` is TorchRL's, with its sampler and a writer that adds nothing. The storage is the dataset itself: packed
    rows in the files of the conversion or copied to a device, which no other storage of TorchRL's gathers as fast.

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
        sampler: makes the sampler; None for draws with replacement.
        weights: `[n]` weights of the rows in those draws, on the device of the data; None for uniform ones.
        share: rows of this process among those that several draw, all with this seed.

    Raises:
        ValueError: the sampler cannot draw these rows.
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
        sampler: MakeSampler | None = None,
        weights: Tensor | None = None,
        share: Share = ALL,
    ) -> None:
        device = data["row"].device
        self.batch_size = batch_size
        self.length = length
        self.seed = seed
        self.restart = restart
        self.initial = initial
        self.repeat = repeat
        self.drawn = 0
        # Processes that draw together read the storage themselves, each its own rows.
        self.share = share
        self.unpack = unpack
        self.storage = GatherStorage(data, device) if rows is None else SubsetStorage(data, device, rows)
        self.generators = {name: torch.Generator(device) for name in ("rows", "initial")}
        self.buffer = TensorDictReplayBuffer(
            storage=self.storage,
            sampler=RandomSampler() if weights is None else WeightedSampler(weights, self.generators["rows"]),
            writer=ImmutableDatasetWriter(),
            collate_fn=unpack,
            batch_size=batch_size,
            prefetch=prefetch or None,
        )
        self.buffer.set_rng(self.generators["rows"])
        self._sampler = sampler
        self.reseed()
        if sampler is not None:
            self._drawn()  # finds at the start what a sampler lacks, and is drawn again
            self.reseed()

    def reseed(self) -> None:
        """Start both random sequences, and the order of another sampler, over."""
        for offset, generator in enumerate(self.generators.values()):
            generator.manual_seed(self.seed + 500 * offset)
        if self._sampler is not None:
            self.buffer.set_sampler(self._new_sampler(self._sampler))
            self.buffer.set_rng(self.generators["rows"])

    def _new_sampler(self, make: MakeSampler) -> Sampler:
        sampler = make_sampler(make, OTHERS)
        if isinstance(sampler, PrioritizedSampler):
            raise ValueError(f"sampler: {type(sampler).__name__}: recorded rows have no priorities; {OTHERS}")
        return sampler

    def _drawn(self) -> TensorDictBase:
        """Rows `[B]` of the buffer; a pass over them that ends with fewer is completed from the next one."""
        if self._sampler is None:
            return self.buffer.sample()
        parts: list[TensorDictBase] = []
        missing = self.batch_size
        while missing:
            part = self._part(missing)
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, size: int) -> TensorDictBase:
        name = type(self.buffer.sampler).__name__
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Got conflicting batch_sizes")  # it is meant so
                part = self.buffer.sample(size)
        except Exception as error:  # a class of somebody else may raise anything
            why = cut(str(error), 200)
            raise ValueError(f"sampler: {name} cannot draw recorded rows: {why}; {OTHERS}") from error
        if not 0 < len(part) <= size:
            raise ValueError(f"sampler: {name} drew {len(part)} rows where {size} were asked for; {OTHERS}")
        return part

    def _shared(self) -> Tensor:
        """`[B]` own rows of those that all processes draw; only these are gathered."""
        parts: list[Tensor] = []
        missing = self.batch_size * self.share.world
        while missing:
            rows, _ = self.buffer.sampler.sample(self.storage, missing)
            parts.append(rows)
            missing -= len(rows)
        return self.share.of(torch.cat(parts))

    def sample(self) -> TensorDictBase:
        """One batch `[B]` in TED layout."""
        batch = self._drawn() if self.share.world == 1 else self.unpack(self.storage.get(self._shared()))
        if self.initial is not None:
            draw = torch.randint(
                len(self.initial),
                (self.batch_size * self.share.world,),
                generator=self.generators["initial"],
                device=self.initial.device,
            )
            batch["initial_observation"] = gather(self.initial, self.share.of(draw))
        return batch

    def __iter__(self) -> Iterator[TensorDictBase]:
        if self.restart:
            self.reseed()
        while True:
            if self.repeat is not None and self.drawn % self.repeat == 0:
                self.reseed()
            self.drawn += 1
            with timed("sampling"):
                batch = self.sample()
            yield batch

    def __len__(self) -> int:
        return self.length

    def state_dict(self) -> dict[str, Any]:
        """State of the generators, and of another sampler: the next batches follow from it and the data."""
        return {
            "drawn": torch.tensor(self.drawn),
            **({} if self._sampler is None else {"sampler": self._sampler_state()}),
            **{name: generator.get_state() for name, generator in self.generators.items()},
        }

    def _sampler_state(self) -> dict[str, Any]:
        # Clones, as a view would be saved with all that it is a view of.
        state = self.buffer.sampler.state_dict()
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`, of a replay with the same sampler."""
        self.drawn = int(state.get("drawn", 0))
        if self._sampler is not None:
            device = self.generators["rows"].device
            kept = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in state["sampler"].items()}
            self.buffer.sampler.load_state_dict(kept)
        for name, generator in self.generators.items():
            generator.set_state(state[name])
