"""Storages and samplers in TorchRL's places, and each private name of TorchRL's that they rely on."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, PrioritizedSampler, RandomSampler, ReplayBuffer, RoundRobinWriter

from datamodules.replay import torchrl_parts
from datamodules.replay.memory_mapped_rows import Field, MemoryMappedRows
from datamodules.replay.ring_buffer import RingBuffer
from datamodules.replay.torchrl_parts import (
    EpisodeSampler,
    GatherStorage,
    LatestSampler,
    RowStorage,
    SequenceStorage,
    StreamWriter,
    WindowSampler,
    gather,
    load_priorities,
    stored_priorities,
)

STREAMS, ROWS = 2, 12
FIELDS = {name: Field((), torch.bool) for name in ("terminated", "truncated")} | {"time": Field((), torch.int64)}


def make_rows(start: int, stop: int) -> TensorDict:
    """`[t, N]` rows that hold their time; episodes of five rows."""
    time = torch.arange(start, stop).unsqueeze(1).expand(-1, STREAMS)
    fields = {"time": time, "terminated": time % 5 == 4, "truncated": torch.zeros_like(time, dtype=torch.bool)}
    return TensorDict(fields, [stop - start, STREAMS])  # type: ignore[arg-type]


def row_storage(folder: Path) -> tuple[RowStorage, RingBuffer]:
    ring = RingBuffer(STREAMS, ROWS, 0)
    return RowStorage(MemoryMappedRows(folder, FIELDS, ROWS * STREAMS), ring), ring


def buffer_of(storage: Any, sampler: Any, writer: RoundRobinWriter | None = None, batch_size: int = 8) -> ReplayBuffer:
    parts = {"writer": writer or RoundRobinWriter(), "batch_size": batch_size, "dim_extend": 0}
    buffer = ReplayBuffer(storage=storage, sampler=sampler, **parts)
    buffer.set_rng(torch.Generator().manual_seed(0))
    return buffer


# ------------------------------------------------------------------------------------------------------ private names
PRIVATE = {
    "_len": LazyTensorStorage(1),
    "_total_shape": LazyTensorStorage(1),
    "_set_last_cursor": LazyTensorStorage(1),
    "_bump_mutation_revision": LazyTensorStorage(1),
    "_rng": RandomSampler(),
    "_empty": RandomSampler(),
    "_sum_tree": PrioritizedSampler(1, 1.0, 1.0).state_dict(),
    "_min_tree": PrioritizedSampler(1, 1.0, 1.0).state_dict(),
    "_max_priority": PrioritizedSampler(1, 1.0, 1.0).state_dict(),
    "_replicate_index": RoundRobinWriter(),
    "_storage": RoundRobinWriter(),
}
"""Each private name of TorchRL's that the file uses, and what has it."""


def names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_each_private_name_is_torchrls_still() -> None:
    source = inspect.getsource(torchrl_parts)
    used = {
        name for name in names_in(ast.parse(source)) if name[:1] == "_" and name[:2] != "__" and name.isidentifier()
    }
    own = {name for name in used if f"self.{name} = " in source and name not in PRIVATE}
    own |= {name for name in used if f"self.{name}: " in source}
    assert used - own == set(PRIVATE)
    for name, owner in PRIVATE.items():
        assert name in owner if isinstance(owner, dict) else hasattr(owner, name), name


def test_the_writer_counts_under_the_names_that_a_ring_reads() -> None:
    buffer = buffer_of(LazyTensorStorage(4), RandomSampler())
    buffer.extend(TensorDict({"x": torch.arange(6)}, [6]))  # type: ignore[arg-type]
    assert buffer.writer.state_dict() == {"_cursor": 2, "_write_count": 6}


# ------------------------------------------------------------------------------------------------------------ storages
@pytest.mark.parametrize("shape", [(9,), (9, 4, 4), (9, 3), (9, 8)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bool])
def test_gathering_is_indexing(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randint(2 if dtype == torch.bool else 200, shape).to(dtype)
    index = torch.tensor([8, 0, 3, 3])
    found = gather(values, index)
    assert torch.equal(found, values[index])
    assert found.dtype == dtype


def test_a_storage_that_gathers_is_full_and_gives_what_indexing_gives() -> None:
    rows = TensorDict({"a": torch.arange(7), "b": {"c": torch.rand(7, 2)}}, [7])  # type: ignore[arg-type]
    storage = GatherStorage(rows, "cpu")
    assert len(storage) == 7
    for index in (torch.tensor([6, 0, 0]), slice(2, 4), 3):
        assert (storage.get(index) == rows[index]).all()


@pytest.mark.parametrize("count", [0, 5, ROWS, ROWS + 7])
def test_a_ring_of_rows_that_is_continued_is_one_that_was_written(tmp_path: Path, count: int) -> None:
    (written, ring), (plain, _) = row_storage(tmp_path), (LazyTensorStorage(ROWS * STREAMS, ndim=2), None)
    buffers = [buffer_of(written, EpisodeSampler(3), ring.writer, 6), buffer_of(plain, EpisodeSampler(3), None, 6)]
    for start in range(0, count, 4):
        for buffer in buffers:
            buffer.extend(make_rows(start, min(start + 4, count)))
    continued, again = row_storage(tmp_path)  # of the same files
    revision = continued._mutation_revision
    continued.go_on(count)
    assert int(continued._mutation_revision) > int(revision)
    buffers.append(buffer_of(continued, EpisodeSampler(3), again.writer, 6))
    assert {len(buffer) for buffer in buffers} == {min(count, ROWS) * STREAMS}
    if count:  # no slice goes from the newest row to the oldest, and all draw the same
        batches = [[buffer.sample()["time"] for _ in range(20)] for buffer in buffers]
        assert all(torch.equal(a, b) for others in batches[1:] for a, b in zip(batches[0], others, strict=True))
        assert all((time.view(-1, 3).diff(dim=1) == 1).all() for time in batches[0])


def test_slots_of_sequences_that_are_continued_hold_the_newest_ones(tmp_path: Path) -> None:
    fields = {"number": Field((2,), torch.int64), "padding": Field((2,), torch.bool)}
    for count in (0, 2, 5, 11):
        folder = tmp_path / str(count)
        ring = RingBuffer(1, 4, 3)
        storage = SequenceStorage(MemoryMappedRows(folder, fields, 7), ring, 2)
        buffer = buffer_of(storage, RandomSampler(), ring.writer)
        for number in range(count):
            entry = {"sequence": {"number": torch.full((1, 2), number)}, "padding": torch.zeros(1, 2, dtype=torch.bool)}
            buffer.extend(TensorDict(entry, [1]))  # type: ignore[arg-type]
        again = RingBuffer(1, 4, 3)
        continued = SequenceStorage(MemoryMappedRows(folder, fields, 7), again, 2)
        revision = int(continued._mutation_revision)
        continued.go_on(count)
        assert int(continued._mutation_revision) > revision
        expected = sorted(range(max(0, count - 4), count), key=lambda number: number % 4)
        for one in (storage, continued):
            assert len(one) == len(expected)
            assert one.get(slice(None))["sequence", "number"].tolist() == [[number] * 2 for number in expected]


# ------------------------------------------------------------------------------------------------------------- writing
def places(writer: RoundRobinWriter, size: list[int]) -> list[Any]:
    """The places that a buffer returns for writes that go around its ring, of one row and of several."""
    storage = LazyTensorStorage(5 * torch.Size(size).numel(), ndim=1 + len(size))
    buffer = ReplayBuffer(storage=storage, writer=writer, dim_extend=0)
    found = []
    for steps in (1, 3, 2, 4):
        rows = TensorDict({"x": torch.zeros(steps, *size)}, [steps, *size])  # type: ignore[arg-type]
        found += [buffer.extend(rows), torch.as_tensor(buffer.add(rows[0]))]
    return found


@pytest.mark.filterwarnings("ignore:Using `add")
@pytest.mark.parametrize("size", [[], [1], [3], [2, 3]])
def test_places_are_those_of_torchrls_writer(size: list[int]) -> None:
    for own, other in zip(places(StreamWriter(), size), places(RoundRobinWriter(), size), strict=True):
        assert own.dtype == other.dtype
        assert own.tolist() == other.tolist()


# ------------------------------------------------------------------------------------------------------------ samplers
def test_windows_are_drawn_by_the_buffers_generator_alone(tmp_path: Path) -> None:
    storage, ring = row_storage(tmp_path)
    buffer = buffer_of(storage, WindowSampler(ring, 4), ring.writer)
    buffer.extend(make_rows(0, 10))
    untouched = torch.get_rng_state()
    buffer.set_rng(torch.Generator().manual_seed(3))
    first = [buffer.sample()["time"] for _ in range(9)]
    buffer.set_rng(torch.Generator().manual_seed(3))
    assert all(torch.equal(buffer.sample()["time"], time) for time in first)
    assert torch.equal(torch.get_rng_state(), untouched)
    assert all((time.diff(dim=1) == 1).all() for time in first)


def test_an_emptied_buffer_begins_its_newest_windows_anew(tmp_path: Path) -> None:
    storage, ring = row_storage(tmp_path)
    buffer = buffer_of(storage, LatestSampler(ring, 2), ring.writer, 2 * STREAMS)
    buffer.extend(make_rows(0, 9))
    buffer.sample()
    assert buffer.sampler.state_dict() == {"learned": 9}
    buffer.empty()
    assert buffer.sampler.state_dict() == {"learned": 0}
    buffer.extend(make_rows(0, 3))
    assert buffer.sample()["time"].tolist() == [[0, 1, 2]] * STREAMS


def test_priorities_are_kept_as_the_trees_hold_them() -> None:
    priority, slots = torch.tensor([0.1, 3.0, 0.7, 1.9]), torch.tensor([2, 0, 3, 1])
    samplers = [PrioritizedSampler(4, 0.7, 0.4) for _ in range(2)]
    buffers = [buffer_of(LazyTensorStorage(4), sampler) for sampler in samplers]
    for buffer in buffers:
        buffer.extend(TensorDict({"x": torch.arange(4)}, [4]))  # type: ignore[arg-type]
    buffers[0].update_priority(slots, priority)
    kept = stored_priorities(samplers[0], slots)
    torch.testing.assert_close(kept["priorities"], priority**0.7, rtol=1e-5, atol=0)
    assert float(kept["greatest"][0]) == 3.0
    load_priorities(samplers[1], slots, kept)
    for _ in range(5):
        (one, info), (other, others) = (buffer.sample(return_info=True) for buffer in buffers)
        assert torch.equal(one["x"], other["x"])
        assert torch.equal(info["priority_weight"], others["priority_weight"])
    assert samplers[1].default_priority == samplers[0].default_priority
