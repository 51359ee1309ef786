"""Spaces of data and environments are compared by what matters to an agent."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from modules.batch import Spaces
from modules.same_spaces import check_same_spaces

BOX = gym.spaces.Box
OBSERVATION = BOX(-1.0, 1.0, (3,))


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (
            BOX(-1.0, 1.0, (2,)),
            BOX(-2.0, 2.0, (2,)),
            r"from -1 to 1, the environment's from -2 to 2.*min_action: -1\.0",
        ),
        (BOX(-1.0, 1.0, (2,)), BOX(np.array([-1, -2], "f"), np.array([1, 2], "f")), r"from \[-1\.0, -2\.0\] to"),
        (BOX(np.array([-1, -2], "f"), np.array([1, 2], "f")), BOX(-1.0, 1.0, (2,)), "name the wrapper"),
        (BOX(-1.0, 1.0, (2,)), BOX(-1.0, 1.0 + 1e-7, (2,)), None),
        (BOX(-1.0, 1.0, (2,)), BOX(-np.inf, np.inf, (2,)), None),  # nothing there says what 1 means
        (BOX(-np.inf, np.inf, (2,)), BOX(-1.0, 1.0, (2,)), "name the wrapper"),
        (gym.spaces.Discrete(3), gym.spaces.Discrete(3, start=1), "action space"),
        (gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiDiscrete([3, 2]), "action space"),
        (gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiDiscrete([2, 3]), None),
    ],
)
def test_actions_are_compared_by_their_bounds(mine: gym.Space, theirs: gym.Space, said: str | None) -> None:
    def compare() -> None:
        check_same_spaces("it", Spaces(OBSERVATION, mine), "Env-v0", Spaces(OBSERVATION, theirs))

    if said is None:
        compare()
        return
    with pytest.raises(ValueError, match=said) as caught:
        compare()
    assert len(str(caught.value)) < 400


def test_observations_are_compared_by_kind_shape_and_bytes_and_not_by_bounds() -> None:
    action = gym.spaces.Discrete(2)
    wide, seen = BOX(-9.0, 9.0, (3,)), BOX(0, 255, (3,), np.uint8)
    check_same_spaces("it", Spaces(OBSERVATION, action), "Env-v0", Spaces(wide, action))
    with pytest.raises(ValueError, match=r"its observation space is Box.*uint8"):
        check_same_spaces("it", Spaces(seen, action), "Env-v0", Spaces(wide, action))
