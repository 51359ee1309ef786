"""How much is read and written for one row or one batch: counted, so that it cannot depend on the machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # torch has no public name for it
from torchrl.data import LazyTensorStorage, TensorStorage

from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import LatestWindows, SequenceReplay
from datamodules.replay.torchrl_parts import RowStorage, SequenceStorage
from tests.helpers.small_replays import drawn, fill, make_rows, settings


class Moved(TorchDispatchMode):
    """Counts the elements that operations make or write; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            in_place = func.overloadpacket.__name__.endswith("_")
            self.elements += numel(args[1:] if in_place else result)
        return result


def numel(values: Any) -> int:
    if isinstance(values, Tensor):
        return values.numel()
    return sum(map(numel, values)) if isinstance(values, tuple | list) else 0


def moved(act: Callable[[], object]) -> int:
    with Moved() as counter:
        act()
    return counter.elements


def latest(folder: Path, capacity: int, **parts: Any) -> LatestWindows:
    return LatestWindows(settings(folder, batch_size=3, capacity=capacity), **parts)


def ends(folder: Path, capacity: int, **parts: Any) -> SequenceReplay:
    return SequenceReplay(settings(folder, capacity=capacity), prioritize_ends=True, **parts)


def sequences(folder: Path, capacity: int, **parts: Any) -> PrioritizedReplay:
    kinds: dict[str, Any] = {"burn_in": 1, "overlap": 1, "stored_rows": True, "refresh_states": True}
    return PrioritizedReplay(settings(folder, capacity=capacity, length=3), **kinds | parts)


def every_start(folder: Path, capacity: int, **parts: Any) -> PrioritizedReplay:
    return sequences(folder, capacity, overlap=2, every_start=True, **parts)


KINDS = [latest, ends, sequences, every_start]


@pytest.mark.parametrize("storage", [{}, {"storage": LazyTensorStorage}])
@pytest.mark.parametrize("make", KINDS)
def test_a_row_and_a_batch_cost_the_same_whatever_the_capacity(tmp_path: Path, make: Any, storage: Any) -> None:
    written, batches = [], []
    for capacity in (20, 400):
        replay = make(tmp_path / str(capacity), capacity=capacity, **storage)
        drawn(fill(replay, 410))  # both are full
        written.append([moved(partial(replay.extend, make_rows(time, time + 1))) for time in range(410, 417)])
        batches.append(moved(partial(drawn, replay, 1)))
    assert written[0] == written[1]
    assert abs(batches[1] - batches[0]) < 100  # a few sequences are followed by another one whose state is replaced


@pytest.mark.parametrize("make", KINDS)
def test_neither_touches_all_rows_of_the_own_files(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = make(tmp_path, capacity=20)
    drawn(fill(replay))

    def get(storage: TensorStorage, index: Any) -> None:
        raise AssertionError(f"{type(storage).__name__} took all fields of all rows apart for {index}")

    monkeypatch.setattr(TensorStorage, "get", get)
    for start in range(53, 60):
        replay.extend(make_rows(start, start + 1))
        drawn(replay, 1)


@pytest.mark.parametrize("make", KINDS)
def test_few_rows_are_written_as_slices_and_have_room_before(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = fill(make(tmp_path, capacity=400))
    assert isinstance(replay.buffer.storage, RowStorage | SequenceStorage)
    opened: list[int] = []
    indices: list[Any] = []
    write = TensorStorage.set

    def note(storage: TensorStorage, index: Any, *arguments: Any, **named: Any) -> None:
        indices.append(index)
        write(storage, index, *arguments, **named)

    monkeypatch.setattr(TensorStorage, "set", note)
    monkeypatch.setattr("os.posix_fallocate", lambda file, *_: opened.append(file), raising=False)
    for start in range(53, 60):
        replay.extend(make_rows(start, start + 1))
    assert indices
    assert all(isinstance(index, slice) for index in indices)
    assert not opened
