"""States of any nesting: their leaves, and fresh rows where episodes begin."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from modules.functional.recurrent_state import leaves_of, map_leaves, restart, with_leaves


class Memory(NamedTuple):
    hidden: Tensor
    steps: int


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


def test_leaves_are_taken_out_in_order_and_put_back_into_the_same_nesting() -> None:
    nested = {"a": [torch.zeros(2, 3), None], "b": (Memory(torch.ones(2), 4), "text"), "c": {}}
    leaves = leaves_of(nested)
    assert [type(leaf) for leaf in leaves] == [Tensor, type(None), Tensor, int, str]
    assert with_leaves(nested, [1, 2, 3, 4, 5]) == {"a": [1, 2], "b": (Memory(3, 4), 5), "c": {}}
    assert with_leaves(None, leaves_of(None)) is None
    for wrong in (leaves[1:], [*leaves, 0]):
        with pytest.raises(ValueError, match="leaves for 5 places"):
            with_leaves(nested, wrong)


def test_several_nestings_are_mapped_leaf_by_leaf() -> None:
    assert map_leaves(lambda x, y: x + y, {"a": (1, [2])}, {"a": (10, [20])}) == {"a": (11, [22])}
    with pytest.raises(ValueError, match="shorter"):
        map_leaves(lambda x, y: x, [1, 2], [1])


class Carried(NamedTuple):
    hidden: torch.Tensor
    deep: list[torch.Tensor]


def test_named_states_keep_their_names() -> None:
    state, fresh = (Carried(torch.full((2,), x), [torch.full((2, 1), x)]) for x in (1.0, 0.0))
    found = restart(state, fresh, torch.tensor([True, False]))
    assert type(found) is Carried
    assert found.hidden.tolist() == [0.0, 1.0]
    assert found.deep[0].tolist() == [[0.0], [1.0]]
