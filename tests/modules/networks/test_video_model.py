"""Last frames of windows, and what a video model refuses."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from modules.networks.video_model import VideoModel, last_frames, pushed, whole_context


def plain_last_frames(frame: Tensor, is_first: Tensor, context: int) -> Tensor:
    """Row by row: walk back until an episode or the window begins."""
    rows = []
    for t in range(len(frame)):
        games = []
        for b in range(frame.shape[1]):
            at, seen = t, [t]
            for _ in range(context - 1):
                at = at if is_first[at, b] or at == 0 else at - 1
                seen.insert(0, at)
            games.append(torch.stack([frame[i, b] for i in seen]))
        rows.append(torch.stack(games, 1))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("context", [1, 2, 4])
def test_last_frames_end_at_the_row_and_begin_no_earlier_than_its_episode(context: int) -> None:
    generator = torch.Generator().manual_seed(context)
    frame = torch.randint(256, (9, 5, 2, 3, 1), generator=generator, dtype=torch.uint8)
    is_first = torch.rand(9, 5, generator=generator) < 0.3
    assert torch.equal(last_frames(frame, is_first, context), plain_last_frames(frame, is_first, context))


def test_a_context_is_whole_from_its_length_on_or_from_a_reset_on() -> None:
    is_first = torch.tensor([[False, True, False], [False, False, True], [False, False, False]])
    expected = torch.tensor([[False, True, False], [False, True, True], [True, True, True]])
    assert torch.equal(whole_context(is_first, 3), expected)
    assert whole_context(is_first, 1).all()


def test_a_pushed_frame_is_the_last_one() -> None:
    frames = torch.arange(3).view(3, 1)
    assert torch.equal(pushed(frames, torch.tensor([9])), torch.tensor([[1], [2], [9]]))


@pytest.mark.parametrize("space", [gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Box(0, 255, (4,), np.uint8)])
def test_what_is_no_image_is_refused(space: gym.Space) -> None:
    class Model(VideoModel):
        losses = begin = step = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match=r"needs uint8 images .* data\.observation_keys"):
        Model(space, 3, 1)
