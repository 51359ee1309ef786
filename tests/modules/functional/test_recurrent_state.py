"""States of any nesting, restarted where episodes begin."""

from __future__ import annotations

import torch

from modules.functional.recurrent_state import restart


def test_rows_where_an_episode_begins_are_fresh_in_every_tensor() -> None:
    state = {"hidden": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "steps": (torch.tensor([7, 8, 9]), "kept")}
    fresh = {"hidden": torch.full((3, 2), -1.0), "steps": (torch.zeros(3, dtype=torch.int64), "new")}
    found = restart(state, fresh, torch.tensor([True, False, True]))
    assert found["hidden"].tolist() == [[-1.0, -1.0], [3.0, 4.0], [-1.0, -1.0]]
    assert found["steps"][0].tolist() == [0, 8, 0]
    assert found["steps"][1] == "kept"
    assert state["hidden"].tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_deep_tensors_are_restarted_by_row() -> None:
    state = torch.arange(8.0).view(2, 2, 2)
    assert restart(state, torch.zeros(2, 2, 2), torch.tensor([False, True])).tolist() == [
        [[0, 1], [2, 3]],
        [[0, 0]] * 2,
    ]


def test_no_memory_stays_none() -> None:
    assert restart(None, None, torch.tensor([True])) is None
