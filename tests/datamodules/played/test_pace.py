"""Steps that updates wait for."""

from __future__ import annotations

import pytest

from datamodules.played.pace import Pace


def test_steps_are_due_as_updates_need_them_or_all_of_a_block_before_its_first_update() -> None:
    single = Pace(updates_per_step=0.5, steps_per_epoch=10, prefill=7, pretrain_updates=2)
    assert [single.due(n, 1) for n in range(6)] == [7, 7, 9, 11, 13, 15]
    blocks = Pace(updates_per_step=0.5, steps_per_epoch=10, prefill=7, pretrain_updates=2, at_once=6)
    assert [blocks.due(n, 1) for n in range(9)] == [7, 7, 13, 13, 13, 19, 19, 19, 25]
    assert [blocks.due(n, 2) for n in range(3)] == [4, 4, 7]
    thirds = Pace(updates_per_step=1 / 3, steps_per_epoch=600, prefill=600, pretrain_updates=200, at_once=600)
    assert [thirds.due(n, 1) for n in (199, 200, 399, 400, 999)] == [600, 1200, 1200, 1800, 3000]


def test_a_block_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="collect_at_once must be at least 1"):
        Pace(0.5, 10, 7, 0, at_once=0)
