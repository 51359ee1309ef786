"""Small objects that vanish or multiply, by counts of pixels."""

from __future__ import annotations

import pytest
import torch

from modules.functional.small_objects import object_pixels, object_shares, object_shares_by_step, usual_frame


def test_pixels_of_objects_differ_from_the_background_in_any_channel_by_more_than_the_least() -> None:
    background = torch.full((2, 3, 2), 100, dtype=torch.uint8)
    frames = background.repeat(4, 1, 1, 1)
    frames[1, 0, 0, 1] = 201  # brighter, in one channel
    frames[2, 1, 2] = 0  # darker, in both
    frames[2, 0, 0, 0] = 0
    frames[3, 0, 0] = 200  # not by more
    assert object_pixels(frames, background, least=100.0).tolist() == [0, 1, 0, 0]
    assert object_pixels(frames, background, least=99.0).tolist() == [0, 1, 2, 1]
    assert object_pixels(frames[1].float(), background).item() == 1
    frames[3, 0, 0] = 164  # the usual least is a quarter of the range
    assert object_pixels(frames[3], background).item() == 0


def test_the_usual_frame_is_what_a_pixel_mostly_is() -> None:
    frames = torch.zeros(5, 2, 2, 1, dtype=torch.uint8)
    for n in range(2):
        frames[n, 0, 0] = 255
    frames[:3, 1, 1] = 9
    assert usual_frame(frames).flatten().tolist() == [0, 0, 0, 9]


def test_a_frame_counts_from_half_of_the_true_pixels_on() -> None:
    truth = torch.tensor([2, 2, 2, 2, 2, 0, 0, 4])
    model = torch.tensor([2, 1, 0, 3, 4, 0, 1, 3])
    found = object_shares(model, truth)
    assert found.vanished.item() == pytest.approx(2 / 8)
    assert found.multiplied.item() == pytest.approx(3 / 8)
    finer = object_shares(model, truth, part=0.25)
    assert finer.vanished.item() == pytest.approx(3 / 8)


def test_a_blur_has_lost_what_it_is_a_blur_of() -> None:
    """A ball that is somewhere in five places, painted by its mean: no pixel is bright enough."""
    background = torch.zeros(3, 5, 1)
    balls = torch.zeros(5, 3, 5, 1)
    balls[torch.arange(5), 1, torch.arange(5)] = 255.0
    truth = object_pixels(balls, background)
    blurred = object_pixels(balls.mean(0).expand(5, -1, -1, -1), background)
    assert truth.tolist() == [1] * 5
    assert object_shares(blurred, truth).vanished == 1.0
    assert object_shares(truth, truth) == (0.0, 0.0)


def test_shares_of_each_step_are_those_of_its_known_frames() -> None:
    truth = torch.tensor([[2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1]])
    model = torch.tensor([[2, 0, 3], [0, 0, 2], [2, 2, 2], [0, 0, 0]])
    known = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
    found = object_shares_by_step(model, truth, known)
    assert found.vanished[:3].tolist() == pytest.approx([1 / 3, 1 / 2, 0.0])
    assert found.multiplied[:3].tolist() == pytest.approx([1 / 3, 0.0, 0.0])
    assert found.vanished[3].isnan()
    everywhere = object_shares_by_step(model, truth, torch.ones_like(known))
    for by_step, share in zip(everywhere, object_shares(model, truth), strict=True):
        assert by_step.mean().item() == pytest.approx(share.item())
    assert object_shares_by_step(model[:1], truth[:1], known[:1], part=1.0).multiplied.tolist() == [0.0]
