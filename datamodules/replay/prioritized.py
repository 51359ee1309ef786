"""Replay of sequences of single episodes that overlap, drawn by priority, on TorchRL, in memory-mapped files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import PrioritizedSampler, ReplayBuffer
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

from datamodules.replay.checksums import RowChecksums
from datamodules.replay.episode_cutter import PADDING, PIECE, STORED, Cuts, EpisodeCutter
from datamodules.replay.memory_mapped_rows import Field, MemoryMappedRows, describe_layout, read_layout
from datamodules.replay.ring_buffer import RingBuffer
from datamodules.replay.sequences import batch_major
from datamodules.replay.streams import ObservationFields, StreamReplay, row_fields
from datamodules.replay.transitions import GatherStorage, gather
from modules.arguments.checks import check_ranges, check_sizes
from modules.arguments.memory import check_memory
from modules.batch import by_name, path_of
from modules.contracts import Feedback, ReplayOffer


class SequenceStorage(GatherStorage):
    """What TorchRL's sampler sees: a slot for each sequence that can be drawn; `get` gives rows, time-major.

    The sampler's priorities take as many slots as sequences can be drawn, the files more places: a slot stands for the
    newest sequence whose number leaves it as the remainder.
    """

    def __init__(self, ring: RingBuffer, files: MemoryMappedRows, length: int) -> None:
        rows = {path_of(name): values.flatten(0, 1) for name, values in files.values.items() if name != STORED}
        super().__init__(TensorDict(rows, [ring.length * length]), "cpu")
        self._sequences, self._files, self._rows = ring, files, torch.arange(length).unsqueeze(1)

    def __len__(self) -> int:
        return self._sequences.count - self._sequences.oldest

    def numbers(self, slot: Tensor) -> Tensor:
        """Numbers of the sequences in slots."""
        newest = self._sequences.count - 1
        return newest - (newest - slot) % self._sequences.capacity

    def get(self, index: Any) -> TensorDictBase:
        self._files.touched(len(index))
        place = self.numbers(index) % self._sequences.length
        return super().get((place * len(self._rows) + self._rows).flatten())


class PrioritizedReplay(StreamReplay):
    """Sequences of `L = burn_in + length + 1` rows of one episode each, see `modules.batch.PrioritizedSequences`.

    Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning", section 2.3: sequences
    of fixed length that overlap and never cross episodes, with the recurrent state of their first row. Every transition
    is trained in at least one of them. How they are drawn is that of Schaul et al. 2016, "Prioritized experience
    replay", section 3: with probability in proportion to `priority ** alpha`, new ones with the greatest priority so
    far, at least 1, and with the weights `(count * probability) ** -beta`, divided by the greatest in the batch.

    Args:
        folder: for the files; nothing is opened before the first rows are written or a state is loaded.
        observation: kind of the observation, or of each of its keys.
        action: kind of the action.
        streams: `N`.
        capacity: rows of each stream; a sequence counts as `stride = length - overlap` of them, however short the
            episode is. The oldest sequences are dropped.
        margin: rows of each stream that can be written after a checkpoint without a trace in it. For episodes much
            shorter than the stride it may be fewer: the files are at most doubled for them.
        batch_size: sequences per batch `B`.
        length: transitions of a sequence that are trained.
        seed: of the draws.
        stored_width: width `W` of what is kept of the agent's state with every row; 0 for nothing.
        burn_in: rows before the trained ones, from the same episode.
        overlap: transitions that neighbouring sequences share.
        alpha: exponent of the priorities.
        beta: exponent of the importance weights.
        refresh_states: whether `write_back` replaces start states by later ones. A checkpoint then keeps all of them.

    Raises:
        ValueError: an argument is out of range, or the capacity is less than one sequence of each stream.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = dict.fromkeys(
        ("burn_in", "overlap", "alpha", "refresh_states"), "the replay's files hold sequences of that form"
    )

    def __init__(
        self,
        folder: Path,
        observation: ObservationFields,
        action: Field,
        *,
        streams: int,
        capacity: int,
        margin: int,
        batch_size: int,
        length: int,
        seed: int = 0,
        stored_width: int = 0,
        burn_in: int = 40,
        overlap: int = 40,
        alpha: float = 0.9,
        beta: float = 0.6,
        refresh_states: bool = False,
    ) -> None:
        check_sizes(streams=streams, batch_size=batch_size, length=length)
        if burn_in < 0:
            raise ValueError(f"burn_in must be at least 0, got {burn_in}")
        if not 0 <= overlap < length:
            raise ValueError(f"overlap must lie in 0 .. {length - 1}, below the length of a sequence, got {overlap}")
        check_ranges(("alpha", alpha, 0, 1), ("beta", beta, 0, 1))
        if refresh_states and not stored_width:
            raise ValueError("refresh_states needs an agent whose state is stored; this one stores nothing")
        self.rows_needed = burn_in + length + 1
        if capacity < self.rows_needed:
            raise ValueError(
                f"capacity: {capacity} rows of each environment are less than one sequence of {self.rows_needed} "
                f"(burn_in {burn_in}, length {length}, and 1)"
            )
        fields = row_fields(observation, action, stored_width)
        self.folder, self.capacity, self.batch_size, self.length = folder, capacity, batch_size, length
        self.burn_in, self.overlap, self.stride = burn_in, overlap, length - overlap
        self.alpha, self.beta, self.refresh_states, self.stored_width = alpha, beta, refresh_states, stored_width
        self.open = EpisodeCutter(fields, streams, burn_in, length, self.stride)
        self.fields = {
            name: field if name == STORED else Field((self.rows_needed, *field.shape), field.dtype)
            for name, field in {**fields, PADDING: Field((), torch.bool)}.items()
        }
        sequences = capacity * streams // self.stride
        check_memory(f"priorities of capacity {capacity} rows in each of {streams} environments", 24 * sequences)
        usual, most = (streams * (margin // rows + 1) for rows in (self.stride, min(self.stride, 2)))
        self.ring = RingBuffer(1, sequences, min(most, max(usual, sequences)))
        self._newest = torch.full((streams,), -1)  # number of the newest sequence of each stream
        self._next = torch.full((sequences,), -1)  # by slot: number of the one that follows in the episode; -1 for none
        self.generator = torch.Generator().manual_seed(seed)
        self._sampler = PrioritizedSampler(sequences, alpha, beta)
        self._buffer: ReplayBuffer | None = None
        self._files: MemoryMappedRows | None = None

    def __len__(self) -> int:
        """Rows written to each stream, up to the capacity."""
        return min(self.open.count, self.capacity)

    def _open(self) -> tuple[ReplayBuffer, MemoryMappedRows]:
        if self._buffer is None or self._files is None:
            self._files = MemoryMappedRows(self.folder, self.fields, self.ring.length)
            self._checksums = RowChecksums(self.ring, self._files, (STORED,) if self.refresh_states else ())
            self._buffer = ReplayBuffer(
                storage=SequenceStorage(self.ring, self._files, self.rows_needed),
                sampler=self._sampler,
                writer=ImmutableDatasetWriter(),  # sequences are not written one by one, see `_write`
                collate_fn=lambda rows: batch_major(rows, self.rows_needed),
                batch_size=self.batch_size,
            )
            self._buffer.set_rng(self.generator)
        return self._buffer, self._files

    def extend(self, rows: TensorDictBase) -> None:
        """Add `[t, N]` rows of all streams behind the newest ones."""
        self._open()
        named = by_name(rows)
        for start in range(0, len(rows), PIECE):
            cuts = self.open.extend({name: values[start : start + PIECE] for name, values in named.items()})
            for part in range(0, len(cuts.time), self.ring.capacity):
                self._write(Cuts(*(values[part : part + self.ring.capacity] for values in cuts)))

    def _write(self, cuts: Cuts) -> None:
        buffer, files = self._open()
        numbers = self.ring.count + torch.arange(len(cuts.time))
        files.reserve(min(self.ring.count + len(numbers), self.ring.length))
        for name, values in self.open.read(cuts).items():
            files.values[name][numbers % self.ring.length] = values
        self.ring.count += len(numbers)
        files.count = self.ring.count
        files.touched(len(numbers))
        slot = numbers % self.ring.capacity
        self._next[slot] = -1
        for number, stream, order in zip(numbers.tolist(), cuts.stream.tolist(), cuts.order.tolist(), strict=True):
            before = int(self._newest[stream])
            if order and before >= self.ring.oldest:
                self._next[before % self.ring.capacity] = number
            self._newest[stream] = number
        buffer.update_priority(slot, self._sampler.default_priority)

    def sample(self) -> TensorDict:
        """`[B]` sequences: `sequence` `[B, L]` and `padding` `[B, L]`, contiguous as `[L, B]`; the rest is by sequence.

        Raises:
            ValueError: no sequence is finished yet.
        """
        buffer, files = self._open()
        if not self.ring.count:
            raise ValueError(f"no sequence is finished yet: each stream holds {self.open.count} rows")
        sequence, info = buffer.sample(return_info=True)
        number = buffer.storage.numbers(info["index"])
        place, size = number % self.ring.length, len(number)
        files.touched(size)  # start states lie apart from the rows, which the storage counts
        fields = {
            "sequence": sequence.exclude(PADDING),
            "padding": sequence[PADDING],
            "start_state": gather(files.values[STORED], place) if self.stored_width else torch.empty(size, 0),
            "weight": info["priority_weight"] / info["priority_weight"].max(),
            "index": number,
        }
        return TensorDict(fields, [size], device="cpu")

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """Refused: sequences of single episodes are no windows of a stream."""
        raise ValueError(
            "PrioritizedReplay has no windows of its streams; use datamodules.replay.sequences.SequenceReplay"
        )

    @property
    def offer(self) -> ReplayOffer:
        return ReplayOffer(self.rows_needed, self.burn_in, self.stride, True, self.refresh_states)

    def write_back(self, feedback: Feedback) -> None:
        """Give sequences that were drawn new priorities; those that are gone by now are left out.

        With `refresh_states` the states that are given back take the place of those that the next sequences of the
        episodes start from; otherwise they are not used.

        Raises:
            ValueError: a priority is negative or not finite, or start states are to be replaced and there are none.
        """
        buffer, files = self._open()
        index, priority, state = feedback.index.cpu(), feedback.priority.detach().float().cpu(), feedback.state
        if not (priority.isfinite() & (priority >= 0)).all():
            raise ValueError("priorities must be finite and not negative: the update before diverged")
        here = index >= self.ring.oldest
        slot = index[here] % self.ring.capacity
        buffer.update_priority(slot, priority[here])
        if not self.refresh_states:
            return
        if state is None:
            raise ValueError("refresh_states: the agent hands no states back; switch it off")
        following = self._next[slot]
        # It stands before the first row that is not padding: a state that would stand before padding is not kept.
        known = (following >= 0) & ~files.values[PADDING][index[here] % self.ring.length, self.stride]
        files.values[STORED][following[known] % self.ring.length] = state.detach().float().cpu()[here][known]
        files.touched(len(slot))

    # ----------------------------------------------------------------------------------------------------- exact resume
    def _form(self) -> dict[str, Any]:
        """What the replay of a checkpoint must agree in."""
        return {
            "sequence_length": self.length,
            "layout": describe_layout(self.fields, self.ring.length),
            "streams": self.open.streams,
            "capacity": self.capacity,
            "burn_in": self.burn_in,
            "overlap": self.overlap,
            "alpha": self.alpha,
            "refresh_states": self.refresh_states,
        }

    def _slots(self) -> Tensor:
        """Slots of the sequences that can be drawn, the oldest first."""
        return torch.arange(self.ring.oldest, self.ring.count) % self.ring.capacity

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, with all sequences on disk: they stay in the folder, open episodes do not."""
        _, files = self._open()
        files.flush()
        sampler = self._sampler.state_dict()
        place = torch.arange(self.ring.oldest, self.ring.count) % self.ring.length
        return {
            **self._form(),
            "folder": str(self.folder.absolute()),
            "count": self.ring.count,
            "checksum": self._checksums.by_field(),
            "generator": self.generator.get_state(),
            "open": self.open.state_dict(),
            "newest": self._newest.clone(),
            "next": self._next.clone(),
            "priorities": torch.as_tensor(sampler["_sum_tree"][self._slots()]),
            "greatest": sampler["_max_priority"],
            "start_states": files.values[STORED][place] if self.refresh_states else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue with the sequences of a checkpoint, from its folder where this one is another.

        Returns:
            Whether these are exactly its sequences. If not, the replay holds the newest ones of the folder with equal
            priorities, or none, and the streams start with new episodes.

        Raises:
            ValueError: the checkpoint's replay is of another form, or its sequences are damaged.
        """
        for name, value in self._form().items():
            if state.get(name) != value:
                raise ValueError(
                    f"the checkpoint's replay does not fit the configured one: its {name} is {state.get(name)}, the "
                    f"configured one {value}; use the run's own config.yaml"
                )
        source, layout = Path(state["folder"]), state["layout"]
        self.generator.set_state(state["generator"])
        moved = read_layout(self.folder) != layout
        if moved and read_layout(source) != layout:
            return False
        buffer, files = self._open()
        if moved:
            files.copy_from(source, 1)
        self.ring.count = state["count"]
        if self._checksums.are(state["checksum"], source if moved else self.folder):
            self._load_priorities(state["priorities"], state["greatest"])
            self.open.load_state_dict(state["open"])
            self._newest, self._next = state["newest"].clone(), state["next"].clone()
            if self.refresh_states:
                place = torch.arange(self.ring.oldest, self.ring.count) % self.ring.length
                files.values[STORED][place] = state["start_states"]
            return True
        self.ring.count = files.count
        slots = self._slots()
        self.open.restart(len(slots) * self.stride // self.open.streams)
        buffer.update_priority(slots, torch.ones(len(slots)))
        return False

    def _load_priorities(self, priorities: Tensor, greatest: Any) -> None:
        """Fill the sampler with numbers as its trees hold them: to make them anew from priorities could round them."""
        sampler, slots = self._sampler.state_dict(), self._slots()
        sampler["_sum_tree"][slots] = priorities
        sampler["_min_tree"][slots] = priorities
        self._sampler.load_state_dict({**sampler, "_max_priority": greatest})
