"""Replay of parallel streams of experience: single transitions, for agents that learn from recorded ones too."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDict
from torch import Tensor
from torchrl.data.replay_buffers import Sampler, Storage

from datamodules.replay.memory_mapped_rows import MemoryMappedRows
from datamodules.replay.ring_buffer import RingBuffer
from datamodules.replay.sequences import SequenceReplay
from datamodules.replay.streams import ReplaySettings
from datamodules.replay.torchrl_parts import WindowSampler, gather
from modules.contracts import ReplayOffer

ROWS = 2
"""Rows of a transition: an observation, and what an action led to from there."""

PATIENCE = 1000
"""Draws after which there seems to be no transition among the rows."""


class TransitionReplay(SequenceReplay):
    """Uniform transitions of `N` parallel streams, as `modules.batch.Transition` reads them; the others stay as rows.

    An observation is stored once, in its row, so that memory and files are those of a `SequenceReplay`.

    Args:
        settings: settings of the datamodule; the length of its sequences is 2, the rows of a transition.

    Raises:
        ValueError: the length is another one.
    """

    def __init__(self, settings: ReplaySettings) -> None:
        if settings.length != ROWS:
            raise ValueError(
                f"sequence_length: {settings.length}: TransitionReplay draws two rows, from one observation to the "
                "next; set sequence_length to 2"
            )
        super().__init__(settings)

    def sample(self) -> TensorDict:
        """`[B]` transitions in TorchRL's TED layout: `observation`, `action`, `next`; reward and flags are `[B, 1]`."""
        rows = super().sample()
        before, after = rows[:, 0], rows[:, 1]
        following = {"observation": after["observation"]}
        following |= {name: after[name].unsqueeze(-1) for name in ("reward", "terminated", "truncated")}
        fields = {"observation": before["observation"], "action": after["previous_action"]}
        return TensorDict({**fields, "next": TensorDict(following, rows.shape[:1])}, rows.shape[:1], device="cpu")

    @property
    def offer(self) -> ReplayOffer:
        return super().offer._replace(transitions=True)

    def _own_sampler(self) -> Sampler:
        return TransitionSampler(self.ring, self.files)


class TransitionSampler(WindowSampler):
    """Uniform pairs of rows of a ring of which the second is not the first of an episode, as no action led to that.

    Args:
        ring: ring that the rows are in.
        files: files that hold them.
    """

    def __init__(self, ring: RingBuffer, files: MemoryMappedRows) -> None:
        super().__init__(ring, ROWS)
        self.files = files

    def sample(self, storage: Storage, batch_size: int) -> tuple[Any, dict[str, Any]]:
        windows = self.draw(batch_size // ROWS)
        for _ in range(PATIENCE):
            (missing,) = self._no_transition(windows.start, windows.stream).nonzero(as_tuple=True)
            if not len(missing):
                return self.ring.index(windows, ROWS), {}
            again = self.draw(len(missing))
            windows.start[missing] = again.start
            windows.stream[missing] = again.stream
        raise ValueError("there is hardly a transition in the replay: episodes end as soon as they begin")

    def _no_transition(self, start: Tensor, stream: Tensor) -> Tensor:
        place = (start + 1) % self.ring.length * self.ring.streams + stream
        return gather(self.files.values["is_first"], place)
