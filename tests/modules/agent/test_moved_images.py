"""Images of a batch are changed twice for each sequence: once in its first row, and once in all later ones."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from modules.agent.action_masks import ActionMask
from modules.agent.moved_images import Draws, MovedImages
from modules.agent.planning import Record
from modules.batch import SequenceBatch, Spaces
from modules.functional.augmentation import shifted

IMAGE, VECTOR = gym.spaces.Box(0, 255, (6, 5, 2), np.uint8), gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
ACTION = gym.spaces.Discrete(2)
BOTH = gym.spaces.Dict({"left": IMAGE, "right": IMAGE, "speed": VECTOR})
L, B, U = 4, 3, 2


RECORD = Record(torch.zeros(U + 1, B, 2), torch.zeros(U + 1, B), torch.zeros(U + 1, B))


def make(observation: gym.Space = BOTH, **settings: Any) -> MovedImages:
    return MovedImages(ActionMask(Spaces(observation, ACTION), "action_mask"), **settings)


def rows() -> SequenceBatch:
    g = torch.Generator().manual_seed(0)
    images = {key: torch.randint(0, 256, (L, B, 6, 5, 2), generator=g).byte() for key in ("left", "right")}
    rest = torch.zeros(L, B), torch.zeros(L, B).bool()
    return SequenceBatch({**images, "speed": torch.rand(L, B, 3)}, rest[0].long(), rest[0], rest[1], rest[1], rest[1])


def test_each_row_is_changed_by_one_of_two_draws_of_its_sequence() -> None:
    batch, moving = rows(), make(shift=2)
    torch.manual_seed(0)
    draws = moving.draw(B, torch.device("cpu"))
    found, record = moving.changed(batch, RECORD, draws, U)
    assert record is RECORD
    for key in ("left", "right"):
        assert found.observation[key].shape == (U + 1, B, 6, 5, 2)
        for t in range(U + 1):
            for b in range(B):
                which = 0 if t == 0 else 1
                moved = shifted(batch.observation[key][t, b].unsqueeze(0), draws.offset[which, b].unsqueeze(0))[0]
                torch.testing.assert_close(found.observation[key][t, b], moved * draws.factor[which, b])
    assert torch.equal(found.observation["speed"], batch.observation["speed"])
    assert all(x is y for x, y in zip(found[1:], batch[1:], strict=True))


def test_draws_cover_all_distances_and_come_from_the_seed() -> None:
    moving = make(shift=2, intensity=0.1)
    torch.manual_seed(0)
    draws = moving.draw(500, torch.device("cpu"))
    assert draws.offset.unique().tolist() == [-2, -1, 0, 1, 2]
    assert 0.8 <= float(draws.factor.min()) < 0.85 < 1.15 < float(draws.factor.max()) <= 1.2 + 1e-6
    torch.manual_seed(0)
    again = moving.draw(500, torch.device("cpu"))
    assert all(torch.equal(x, y) for x, y in zip(draws, again, strict=True))


def test_without_distance_and_brightness_images_stay_as_they_are() -> None:
    batch, moving = rows(), make(shift=0, intensity=0.0)
    found, _ = moving.changed(batch, RECORD, Draws(torch.zeros(2, B, 2).long(), torch.ones(2, B)), L - 1)
    assert torch.equal(found.observation["left"], batch.observation["left"].float())


@pytest.mark.parametrize(
    ("observation", "settings", "message"),
    [
        (VECTOR, {}, r"none is observed in Box.*: set model.augmentation to null"),
        (gym.spaces.Box(0, 1, (3, 3, 2), np.int8), {}, "none is observed"),
        (IMAGE, {"shift": 5}, "augmentation.shift of 5 pixels would move images of 5 out of sight: set it to 0"),
        (IMAGE, {"shift": -1}, "augmentation.shift must be at least 0, got -1"),
        (IMAGE, {"intensity": 0.6}, r"augmentation.intensity must lie in \[0, 0.5\], got 0.6"),
    ],
)
def test_what_cannot_be_changed_is_refused(observation: gym.Space, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(observation, **settings)
