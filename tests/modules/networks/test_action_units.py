"""Actions in a model's units and in those of an environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch

from modules.networks.action_units import BoxUnits, DiscreteUnits


def test_units_of_actions() -> None:
    box = BoxUnits(gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)))
    torch.testing.assert_close(box.played(torch.tensor([[0.5, -1.0]])), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(box.learned(torch.tensor([[1.0, 0.0]])), torch.tensor([[0.5, -1.0]]))
    assert (box.width, box.discrete) == (2, False)
    numbers = DiscreteUnits(gym.spaces.Discrete(4, start=-1))
    assert numbers.learned(torch.tensor([-1, 2], dtype=torch.int32)).tolist() == [0, 3]
    assert numbers.played(torch.tensor([0, 3])).tolist() == [-1, 2]
    assert (numbers.width, numbers.discrete) == (4, True)
