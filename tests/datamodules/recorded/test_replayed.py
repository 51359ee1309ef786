"""Recorded episodes in a replay: the rows that an agent would have written that had played them itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learners import Storing
from tensordict import TensorDict
from tiny_dataset import LENGTHS, make_arrays, write_hdf5

from datamodules.recorded.conversion import convert
from datamodules.recorded.converted import Converted
from datamodules.recorded.replayed import RecordedStreams, check_replay, fill
from datamodules.replay.buffered import BufferedReplay
from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import LatestWindows, SequenceReplay
from datamodules.replay.streams import MakeReplay, ReplaySettings

TRANSITIONS = sum(LENGTHS)


@pytest.fixture
def dataset(tmp_path: Path) -> Converted:
    return convert([write_hdf5(tmp_path / "tiny.h5", make_arrays())], cache_dir=tmp_path / "cache")


def make(folder: Path, kind: MakeReplay = SequenceReplay, **changes: Any) -> BufferedReplay:
    kinds = Field((3,), torch.float32), Field((2,), torch.float32)
    told = {"streams": 1, "capacity": 30, "margin": 0, "batch_size": 4, "length": 3, "seed": 1}
    replay = kind(ReplaySettings(folder, *kinds, **told | changes))
    assert isinstance(replay, BufferedReplay)
    return replay


def plain_rows(episodes: list[int]) -> list[dict[str, Any]]:
    """The rows of these episodes in a single stream, by the definition."""
    arrays = make_arrays()
    rows: list[dict[str, Any]] = []
    for episode in episodes:
        start = sum(LENGTHS[:episode])
        nothing = {"previous_action": np.zeros(2), "reward": 0.0, "terminated": False, "truncated": False}
        rows.append({"observation": arrays["observations"][start], "is_first": True, **nothing})
        for t in range(start, start + LENGTHS[episode]):
            last = t == start + LENGTHS[episode] - 1
            seen = arrays["final_observations"][episode] if last else arrays["observations"][t + 1]
            ended = bool(arrays["terminals"][t])
            flags = {"is_first": False, "terminated": ended, "truncated": last and not ended}
            led = {"previous_action": arrays["actions"][t], "reward": arrays["rewards"][t]}
            rows.append({"observation": seen, **led, **flags})
    return rows


def rows_of(recorded: RecordedStreams, folder: Path) -> TensorDict:
    return recorded.read(0, len(recorded), make(folder).settings.row_fields(), None)


def test_one_stream_holds_the_episodes_end_to_end(dataset: Converted, tmp_path: Path) -> None:
    recorded = RecordedStreams.of(dataset, np.array([2, 0, 1]), streams=1)
    rows, expected = rows_of(recorded, tmp_path), plain_rows([2, 0, 1])
    assert rows.shape == (TRANSITIONS + 3, 1)
    assert recorded.steps == TRANSITIONS
    for index, row in enumerate(expected):
        for name, value in row.items():
            np.testing.assert_array_equal(rows[name][index, 0].numpy(), value, err_msg=f"{index} {name}")


@pytest.mark.parametrize("streams", [2, 3, 4])
def test_more_streams_lose_hardly_a_transition_and_know_where_one_was_cut(
    dataset: Converted, tmp_path: Path, streams: int
) -> None:
    recorded = RecordedStreams.of(dataset, np.arange(3), streams)
    rows = rows_of(recorded, tmp_path)
    assert rows.shape == (len(recorded), streams) == ((TRANSITIONS + 3) // streams, streams)
    expected = [row for row in plain_rows([0, 1, 2]) if not row["is_first"]]
    kept = 0
    for stream in range(streams):
        assert rows["is_first"][0, stream]
        assert rows["terminated"][-1, stream] | rows["truncated"][-1, stream]
        for t in range(1, len(rows)):
            before, row = rows[t - 1, stream], rows[t, stream]
            ended = bool(before["terminated"] | before["truncated"])
            assert bool(row["is_first"]) == ended
            if row["is_first"]:
                assert row["reward"] == 0
                assert not row["terminated"]
                continue
            # Transitions come in their order, none twice, each from the row before it.
            np.testing.assert_array_equal(row["observation"].numpy(), expected[kept]["observation"])
            np.testing.assert_array_equal(row["previous_action"].numpy(), expected[kept]["previous_action"])
            assert row["reward"] == expected[kept]["reward"]
            assert bool(row["terminated"]) == expected[kept]["terminated"]
            assert float(row["observation"][0]) == float(before["observation"][0]) + 1
            kept += 1
    assert kept == recorded.steps >= TRANSITIONS - 2 * streams


def test_a_step_without_its_last_observation_leaves_a_cut(dataset: Converted, tmp_path: Path) -> None:
    arrays = make_arrays()
    del arrays["final_observations"]
    lost = convert([write_hdf5(tmp_path / "lost.h5", arrays)], cache_dir=tmp_path / "cache")
    rows = rows_of(RecordedStreams.of(lost, np.arange(3), streams=1), tmp_path)
    assert rows["is_first"].nonzero()[:, 0].tolist() == [0, 4, 8]  # 3, 3 and 4 transitions are left
    assert rows["terminated"].nonzero()[:, 0].tolist() == [7]
    assert rows["truncated"].nonzero()[:, 0].tolist() == [3, 12]


@pytest.mark.parametrize("at_once", [3, 4096])
def test_a_replay_is_filled_whatever_is_written_at_once(
    dataset: Converted, tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.recorded.replayed.AT_ONCE", at_once)
    replay = make(tmp_path / "rows")
    recorded = RecordedStreams.of(dataset, np.arange(3), streams=1)
    fill(replay, recorded, None)
    assert len(replay) == TRANSITIONS + 3
    whole = replay.buffer.storage[:]
    assert (whole == rows_of(recorded, tmp_path / "other")).all()


def test_prioritised_sequences_begin_with_the_given_state_and_the_greatest_priority(
    dataset: Converted, tmp_path: Path
) -> None:
    kind = partial(PrioritizedReplay, burn_in=1, overlap=1)
    replay = make(tmp_path / "rows", kind, stored_width=2, capacity=30)
    fill(replay, RecordedStreams.of(dataset, np.arange(3), streams=1), torch.tensor([3.0, -1.0]))
    # Transitions 0 to 3 and 2 to 4 of the first episode; 0 to 3 of the second; 0 to 3 and 2 to 5 of the third.
    assert replay.ring.count == 5
    state = replay.state_dict()
    assert state["sampler_state"]["priorities"].unique().numel() == 1
    for _ in range(5):
        batch = replay.sample()
        assert torch.equal(batch["start_state"], torch.tensor([[3.0, -1.0]] * 4))
        assert torch.equal(batch["weight"], torch.ones(4))


def test_what_does_not_fit_is_refused_and_the_advice_works(dataset: Converted, tmp_path: Path) -> None:
    recorded = RecordedStreams.of(dataset, np.arange(3), streams=1)
    with pytest.raises(ValueError, match=r"raise data.capacity to 1\.5 times as much"):
        fill(make(tmp_path / "small", capacity=10), recorded, None)
    fill(make(tmp_path / "enough", capacity=15), recorded, None)
    kind = partial(PrioritizedReplay, burn_in=0, overlap=0)
    with pytest.raises(ValueError, match=r"raise data.capacity to 1\.7 times as much"):
        fill(make(tmp_path / "few", kind, capacity=9), recorded, None)  # 3 sequences, of 5
    fill(make(tmp_path / "more", kind, capacity=16), recorded, None)
    with pytest.raises(ValueError, match="12 transitions are less than one for each of 8 streams"):
        RecordedStreams.of(dataset, np.arange(3), streams=8)


def test_a_replay_that_needs_more_than_recorded_rows_is_refused(tmp_path: Path) -> None:
    agent = Storing()
    latest = make(tmp_path / "latest", LatestWindows, batch_size=1)
    with pytest.raises(ValueError, match="which no recorded row is"):
        check_replay(latest, None)
    stored = make(tmp_path / "stored", stored_width=2)
    with pytest.raises(ValueError, match="hold nothing of it"):
        check_replay(stored, agent)
    searching = partial(PrioritizedReplay, burn_in=0, overlap=0, stored_rows=True)
    search = make(tmp_path / "search", searching, stored_width=2)
    with pytest.raises(ValueError, match="hold nothing of it"):
        check_replay(search, agent)
    check_replay(make(tmp_path / "state", partial(PrioritizedReplay, burn_in=0, overlap=0), stored_width=2), agent)
    agent.stored_optional = True
    for replay in (stored, search):
        check_replay(replay, agent)
    with pytest.raises(ValueError, match="which no recorded row is"):
        check_replay(latest, agent)
