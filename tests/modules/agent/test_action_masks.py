"""Masks of actions: read, left out of what is seen, and refused where they fit no actions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from modules.agent.action_masks import ActionMask
from modules.batch import Spaces

BOARD, MASK = gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.MultiBinary(3)
FOUR = gym.spaces.Discrete(3, start=4)


def test_the_mask_is_read_and_is_no_observation() -> None:
    scales = {"board": np.ones(2), "legal": np.ones(3)}
    spaces = Spaces(gym.spaces.Dict({"board": BOARD, "legal": MASK}), FOUR, scales, scales)
    mask = ActionMask(spaces, "legal")
    observation = {"board": torch.zeros(5, 2, 2), "legal": torch.tensor([1, 0, 1], dtype=torch.int8).expand(5, 2, 3)}
    valid = mask.valid(observation)
    assert valid is not None
    assert valid.dtype == torch.bool
    assert valid[4, 1].tolist() == [True, False, True]
    assert mask.seen.observation == gym.spaces.Dict({"board": BOARD})
    assert list(mask.seen.statistics_by_key()) == ["board"]
    assert mask.seen.action == FOUR


@pytest.mark.parametrize("space", [BOARD, gym.spaces.Dict({"board": BOARD})])
def test_without_such_a_part_everything_is_seen_and_allowed(space: gym.Space) -> None:
    spaces = Spaces(space, FOUR)
    mask = ActionMask(spaces, "legal")
    assert mask.key is None
    assert mask.seen is spaces
    assert mask.valid({"board": torch.zeros(1, 2)}) is None


@pytest.mark.parametrize(
    ("parts", "action", "message"),
    [
        ({"board": BOARD, "legal": gym.spaces.MultiBinary(2)}, FOUR, r"of shape \[2\], must hold one number for each"),
        ({"board": BOARD, "legal": MASK}, BOARD, "of Discrete actions, which are Box"),
        ({"legal": MASK}, FOUR, "nothing to observe besides the mask of actions 'legal'"),
    ],
)
def test_masks_that_fit_no_actions_are_refused(parts: dict[str, gym.Space], action: gym.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionMask(Spaces(gym.spaces.Dict(parts), action), "legal")
