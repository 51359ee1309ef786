"""Spaces as text, from files of anyone."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import pytest
from minari.serialization import serialize_space

from modules.trust.space_text import read_space

BOX = {"type": "Box", "dtype": "float32", "shape": [1], "low": [0.0], "high": [1.0]}


@pytest.mark.parametrize("dtype", ["<U250000000", "S2000000000", "V1000000000", "(1000,1000,1000)f4", "O"])
def test_numbers_are_of_a_closed_list_of_types(dtype: Any) -> None:
    for space in (BOX, {"type": "MultiDiscrete", "nvec": [2], "start": [0]}):
        for whole in (space | {"dtype": dtype}, {"type": "Tuple", "subspaces": [space | {"dtype": dtype}]}):
            with pytest.raises(ValueError, match=f"a {space['type']} of "):
                read_space(json.dumps(whole))


def test_all_boxes_together_have_no_more_entries_than_the_text_has_characters() -> None:
    box = BOX | {"shape": [1000], "low": 0.0, "high": 1.0}
    with pytest.raises(ValueError, match="more entries"):
        read_space(json.dumps({"type": "Tuple", "subspaces": [box] * 50}))


@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "int8", "uint8", "uint64"])
def test_what_is_written_is_read(dtype: Any) -> None:
    space = gym.spaces.Dict({"a": gym.spaces.Box(0, 1, (2, 3), dtype), "b": gym.spaces.MultiDiscrete([2, 3])})
    assert read_space(serialize_space(space)) == space
