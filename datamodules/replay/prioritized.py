"""Replay of sequences of single episodes that overlap, drawn by priority, on TorchRL, in memory-mapped files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import PrioritizedSampler
from torchrl.data.replay_buffers import Sampler

from datamodules.replay.buffered import BufferedReplay
from datamodules.replay.episode_cutter import PIECE, Cuts, EpisodeCutter
from datamodules.replay.following import Following
from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.other_parts import make_drawing
from datamodules.replay.ring_buffer import RingBuffer
from datamodules.replay.streams import STORED, ReplaySettings
from datamodules.replay.torchrl_parts import (
    APART,
    PADDING,
    SEQUENCE,
    START_STATE,
    MakeSampler,
    MakeStorage,
    SequenceStorage,
    load_priorities,
    stored_priorities,
)
from modules.arguments.checks import check_counts, check_ranges, check_sizes
from modules.arguments.memory import check_memory
from modules.batch import by_name, path_of
from modules.contracts import Feedback, ReplayOffer


class PrioritizedReplay(BufferedReplay):
    """Sequences of `L = burn_in + length + 1` rows of one episode each, see `modules.batch.PrioritizedSequences`.

    Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning", section 2.3: sequences
    of fixed length that overlap and never cross episodes, with the recurrent state of their first row. Every transition
    is trained in at least one of them. How they are drawn is that of Schaul et al. 2016, "Prioritized experience
    replay", section 3: with probability in proportion to `priority ** alpha`, new ones with the greatest priority so
    far, at least 1, and with the weights `(count * probability) ** -beta`, divided by the greatest in the batch.

    `buffer` is a TorchRL ReplayBuffer whose entries are sequences, drawn by TorchRL's PrioritizedSampler. One part is
    this project's own: the storage, whose files outlast the process and what is written after a checkpoint, see
    `SequenceStorage`.

    Args:
        settings: settings of the datamodule. Its capacity counts a sequence as `stride = length - overlap` rows,
            however short the episode is; the oldest sequences are dropped. For episodes much shorter than the stride
            the margin may be fewer rows: the files are at most doubled for them. Its length are the transitions that
            are trained.
        burn_in: rows before the trained ones, from the same episode.
        overlap: transitions that neighbouring sequences share.
        every_start: whether every `stride` rows of an episode start a sequence, the last ones included: those that its
            end cuts short are padded behind it. Otherwise these must bring a transition that the one before lacks.
        alpha: exponent of the priorities.
        beta: exponent of the importance weights.
        stored_rows: whether sequences hold what the agent stored with each of their rows, `[L, W]`, such as the visit
            counts of a search; what it stored with the first row, its state there, they always hold.
        refresh_states: whether `write_back` replaces what the agent stored by what it would store now. A checkpoint
            then keeps all that was stored.
        storage: another storage of TorchRL's, such as `torchrl.data.LazyTensorStorage`.
        sampler: another sampler of TorchRL's, such as `torchrl.data.RandomSampler`; `alpha` and `beta` then have no
            effect, and the weights are 1 where it gives no `priority_weight`.

    Raises:
        ValueError: an argument is out of range, or the capacity is less than one sequence of each stream.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = dict.fromkeys(
        ("burn_in", "overlap", "every_start", "alpha", "stored_rows", "refresh_states"),
        "the replay's files hold sequences of that form",
    )

    def __init__(
        self,
        settings: ReplaySettings,
        *,
        burn_in: int = 40,
        overlap: int = 40,
        every_start: bool = False,
        alpha: float = 0.9,
        beta: float = 0.6,
        stored_rows: bool = False,
        refresh_states: bool = False,
        storage: MakeStorage | None = None,
        sampler: MakeSampler | None = None,
    ) -> None:
        streams, capacity, length = settings.streams, settings.capacity, settings.length
        check_sizes(streams=streams, batch_size=settings.batch_size, length=length)
        check_counts(0, burn_in=burn_in)
        check_ranges(("overlap", overlap, 0, length - 1), ("alpha", alpha, 0, 1), ("beta", beta, 0, 1))
        for name, asked in {"stored_rows": stored_rows, "refresh_states": refresh_states}.items():
            if asked and not settings.stored_width:
                raise ValueError(f"{name} needs an agent whose state is stored; this one stores nothing")
        self.rows_needed = burn_in + length + 1
        if capacity < self.rows_needed:
            raise ValueError(
                f"capacity: {capacity} rows of each environment are less than one sequence of {self.rows_needed} "
                f"(burn_in {burn_in}, length {length}, and 1): raise data.capacity to {streams * self.rows_needed} for "
                "each process, or lower data.sequence_length"
            )
        self.burn_in = burn_in
        self.overlap = overlap
        self.stride = length - overlap
        self.every_start = every_start
        self.alpha = alpha
        self.beta = beta
        self.stored_rows = stored_rows
        self.refresh_states = refresh_states
        rows = settings.row_fields()
        self.open = EpisodeCutter(
            rows, streams, burn_in, length, self.stride, every_start=every_start, stored_rows=stored_rows
        )
        sequences = capacity * streams // self.stride
        check_memory(f"priorities of capacity {capacity} rows in each of {streams} environments", 24 * sequences)
        # More places than sequences that can be drawn: those that are written after a checkpoint leave no trace.
        pending = -(-length // self.stride) if every_start else 1  # of a stream, which a single row may finish
        usual, most = (streams * (settings.margin // rows + pending) for rows in (self.stride, min(self.stride, 2)))
        margin = min(most, max(usual, sequences)) if storage is None and sampler is None else 0
        super().__init__(settings, RingBuffer(1, sequences, margin), self._entry_fields(rows), storage, sampler)
        self._following = Following(self.ring, streams)

    def _entry_fields(self, rows: Mapping[str, Field]) -> dict[str, Field]:
        """Fields of a sequence by name."""
        kept = {name: field for name, field in rows.items() if name != STORED or self.stored_rows}
        by_row = {**kept, PADDING: Field((), torch.bool)}
        fields = {name: Field((self.rows_needed, *field.shape), field.dtype) for name, field in by_row.items()}
        return fields | ({START_STATE: rows[STORED]} if STORED in rows else {})

    def __len__(self) -> int:
        """Rows written to each stream, up to the capacity."""
        return min(self.open.count, self.settings.capacity)

    def extend(self, rows: TensorDictBase) -> None:
        """Add `[t, N]` rows of all streams behind the newest ones."""
        for piece in rows.split(PIECE) if len(rows) > PIECE else (rows,):
            cuts = self.open.extend(by_name(piece))
            for part in range(0, len(cuts.time), self.ring.capacity):
                self._write(Cuts(*(values[part : part + self.ring.capacity] for values in cuts)))

    def _write(self, cuts: Cuts) -> None:
        first = self.ring.count
        self.buffer.extend(self._entries_of(self.open.read(cuts)))  # which gives them the greatest priority so far
        self._following.add(cuts, first)

    def sample(self) -> TensorDict:
        """`[B]` sequences: `sequence` `[B, L]` and `padding` `[B, L]`, contiguous as `[L, B]`; the rest is by sequence.

        Raises:
            ValueError: no sequence is finished yet.
        """
        if not self.ring.count:
            raise ValueError(f"no sequence is finished yet: each stream holds {self.open.count} rows")
        batch, info = self.buffer.sample(return_info=True)
        slots, size = info["index"], len(batch)
        weight = info.get("priority_weight", torch.ones(size))
        numbers = self.ring.numbers(slots)
        fields = {
            SEQUENCE: batch[SEQUENCE],
            PADDING: batch[PADDING],
            START_STATE: batch[START_STATE] if self.settings.stored_width else torch.empty(size, 0),
            "weight": weight / weight.max(),
            "index": numbers,
            "episode": self._following.episodes(slots),
            "age": (self.ring.count - 1 - numbers) * self.stride,
        }
        return TensorDict(fields, [size], device="cpu")

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """Refused: sequences of single episodes are no windows of a stream."""
        raise ValueError(
            "PrioritizedReplay has no windows of its streams; use datamodules.replay.sequences.SequenceReplay"
        )

    @property
    def offer(self) -> ReplayOffer:
        return ReplayOffer(
            self.rows_needed, self.burn_in, self.stride, True, self.refresh_states, stored=self.stored_rows
        )

    def write_back(self, feedback: Feedback) -> None:
        """Give sequences that were drawn new priorities; those that are gone by now are left out.

        With `refresh_states`, states that are given back take the place of those that the next sequences of the
        episodes start from, and what is given back for single rows takes the place of what these sequences hold of
        them, apart from padding; neighbours that share a row hold it by themselves. Otherwise neither is used.

        Raises:
            ValueError: a priority is negative or not finite, or what is stored is to be replaced and nothing is given,
                or is given for single rows where `stored_rows` is off.
        """
        index, priority = feedback.index.cpu(), feedback.priority.detach().float().cpu()
        if not (priority.isfinite() & (priority >= 0)).all():
            raise ValueError("priorities must be finite and not negative: the update before diverged")
        here = index >= self.ring.oldest
        slots = index[here] % self.ring.capacity
        if isinstance(self.buffer.sampler, PrioritizedSampler):
            self.buffer.update_priority(slots, priority[here])
        if not self.refresh_states:
            return
        if feedback.state is None and feedback.stored is None:
            raise ValueError("refresh_states: the agent hands no states back; switch it off")
        padding = self._values(PADDING, slots)
        if feedback.state is not None:
            following = self._following.of(slots)
            # It stands before the first row that is not padding: a state that would stand before padding is not kept.
            known = (following >= 0) & ~padding[:, self.stride]
            state = feedback.state.detach().float().cpu()[here][known]
            self._replace(START_STATE, following[known] % self.ring.capacity, state)
        if feedback.stored is not None:
            if not self.stored_rows:
                raise ValueError("stored_rows is off, but the agent hands back what it stores with rows: set it")
            rows = feedback.stored.detach().float().cpu().transpose(0, 1)[here]
            self._replace(STORED, slots, rows.masked_fill(padding.unsqueeze(-1), 0))

    def _values(self, name: str, slots: Tensor) -> Tensor:
        """`[n, ...]` entries of a field."""
        storage = self.buffer.storage
        if isinstance(storage, SequenceStorage):
            return self.files.values[name][storage.place(slots)]
        return storage[:][self._key_of(name)][slots.to(storage.device)].cpu()

    def _replace(self, name: str, slots: Tensor, values: Tensor) -> None:
        storage = self.buffer.storage
        if isinstance(storage, SequenceStorage):
            self.files.values[name][storage.place(slots)] = values
            self.files.touched(len(slots))
        else:
            place = storage[:][self._key_of(name)]
            place[slots.to(place.device)] = values.to(place.device)

    # ------------------------------------------------------------------------------------------------- parts of TorchRL
    def _own_storage(self) -> SequenceStorage:
        return SequenceStorage(self.files, self.ring, self.rows_needed)

    @property
    def most_at_once(self) -> int:
        return self.ring.capacity

    def _other_sampler(self, make: MakeSampler) -> Sampler:
        return make_drawing(make, self._entries)

    def _entries_of(self, rows: Mapping[str, Tensor]) -> TensorDict:
        count = len(rows[PADDING])
        by_row = {path_of(name): values for name, values in rows.items() if name not in APART}
        apart = {name: values for name, values in rows.items() if name in APART}
        return TensorDict({SEQUENCE: TensorDict(by_row, [count, self.rows_needed]), **apart}, [count])

    def _key_of(self, field: str) -> tuple[str, ...]:
        return (field,) if field in APART else (SEQUENCE, *path_of(field))

    def _own_sampler(self) -> Sampler:
        return PrioritizedSampler(self.ring.capacity, self.alpha, self.beta)

    def _drawn_at_once(self) -> int:
        return self.settings.batch_size

    # --------------------------------------------------------------------------------- what TorchRL's own calls bring
    def written(self, index: Tensor) -> None:
        """Sequences neither follow others nor are followed, until `extend` says so."""
        self._following.forget(index.flatten())

    def beside(self) -> dict[str, Any]:
        """Open episodes and which sequences follow each other, for a replay of the same form."""
        return {"form": self._own_form(), **self._episodes()}

    def restored(self, beside: Mapping[str, Any] | None) -> None:
        super().restored(beside)
        if beside is None or beside["form"] != self._own_form():
            self._forget_episodes()
        else:
            self._load_episodes(beside)

    def _episodes(self) -> dict[str, Any]:
        return {"open": self.open.state_dict(), **self._following.state_dict()}

    def _load_episodes(self, state: Mapping[str, Any]) -> None:
        self.open.load_state_dict(state["open"])
        self._following.load_state_dict(state)

    def _forget_episodes(self) -> None:
        """Start new episodes behind the sequences that are there, of which none is known to follow another."""
        self.open.restart(len(self._slots()) * self.stride // self.open.streams)
        self._following.forget_all()

    # ----------------------------------------------------------------------------------------------------- exact resume
    def _apart(self) -> tuple[str, ...]:
        return tuple(name for name in (START_STATE, STORED) if name in self.fields) if self.refresh_states else ()

    def _own_form(self) -> dict[str, Any]:
        return {
            "sequence_length": self.settings.length,
            "streams": self.settings.streams,
            "burn_in": self.burn_in,
            "overlap": self.overlap,
            "every_start": self.every_start,
            "alpha": self.alpha,
            "refresh_states": self.refresh_states,
        }

    def _slots(self) -> Tensor:
        """Slots of the sequences that can be drawn, the oldest first."""
        return torch.arange(self.ring.oldest, self.ring.count) % self.ring.capacity

    def _sampler_state(self) -> dict[str, Any] | None:
        sampler = self.buffer.sampler
        if isinstance(sampler, PrioritizedSampler):
            return stored_priorities(sampler, self._slots())
        return super()._sampler_state()

    def _load_sampler(self, state: Mapping[str, Any]) -> None:
        sampler = self.buffer.sampler
        if isinstance(sampler, PrioritizedSampler):
            load_priorities(sampler, self._slots(), state["sampler_state"])
        else:
            super()._load_sampler(state)

    def state_dict(self) -> dict[str, Any]:
        """The entries of a checkpoint, with all sequences on disk: they stay in the folder, open episodes do not."""
        return {
            **super().state_dict(),
            **self._episodes(),
            "apart": {name: self._values(name, self._slots()) for name in self._apart()} if self.ring.count else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue with the sequences of a checkpoint, from its folder where this one is another.

        Returns:
            Whether these are exactly its sequences. If not, the replay holds the newest ones of the folder with equal
            priorities, or none, and the streams start with new episodes.

        Raises:
            ValueError: the checkpoint's replay is of another form, or its sequences are damaged.
        """
        if super().load_state_dict(state):
            self._load_episodes(state)
            for name, values in state["apart"].items():
                self._replace(name, self._slots(), values)
            return True
        self._forget_episodes()
        slots = self._slots()
        if len(slots) and isinstance(self.buffer.sampler, PrioritizedSampler):
            self.buffer.update_priority(slots, torch.ones(len(slots)))
        return False
