"""Names of the entries of a batch."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from modules.batch import by_name, path_of


def test_a_slash_stands_between_keys_and_keys_of_observations_may_hold_more() -> None:
    observation = {"camera/left": torch.zeros(2), "a.b": torch.ones(2)}
    batch = TensorDict({"observation": observation, "next": {"reward": torch.ones(2)}, "row": torch.zeros(2)}, [2])
    names = by_name(batch)
    assert set(names) == {"observation/camera/left", "observation/a.b", "next/reward", "row"}
    again = TensorDict({path_of(name): value for name, value in names.items()}, [2])
    assert (again == batch).all()
