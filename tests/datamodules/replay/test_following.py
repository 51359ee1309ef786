"""Names of the episodes that sequences are of: the same for all of one, and its own for one that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prioritized_rows import STREAMS, draw, filled, make, make_rows, random_lengths


@pytest.mark.parametrize("every_start", [False, True])
def test_sequences_of_an_episode_have_its_name_and_no_others(tmp_path: Path, every_start: bool) -> None:
    rows = make_rows(random_lengths(3, 90, 20))
    replay = make(tmp_path, burn_in=0, length=4, overlap=2, every_start=every_start)
    names: dict[tuple[int, int], set[int]] = {}
    for stop in range(10, 91, 10):  # the same sequences again and again
        replay.extend(rows[stop - 10 : stop])
        for _ in range(8):
            batch = draw(replay)
            time, stream = batch.sequence.observation["observation"][0].long().unbind(-1)
            for t, s, name in zip(time.tolist(), stream.tolist(), batch.episode.tolist(), strict=True):
                start = int(rows["is_first"][: t + 1, s].nonzero()[-1])
                names.setdefault((start, s), set()).add(name)
    assert len(names) > 20
    assert all(len(name) == 1 for name in names.values())
    assert len(set.union(*names.values())) == len(names)


def test_sequences_whose_episodes_nobody_knows_each_have_one(tmp_path: Path) -> None:
    replay = filled(tmp_path)
    known = {int(n) for n in draw(replay).episode}
    assert len(known) == STREAMS
    replay.written(torch.arange(replay.ring.count))  # by a call of TorchRL's own
    batch = draw(replay)
    assert torch.equal(batch.episode, -1 - batch.index)
