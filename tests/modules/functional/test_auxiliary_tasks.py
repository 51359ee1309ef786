"""Tasks beside the game: classes of rewards, their weights, recent rows, changes of pixels; by hand and by loops."""

from __future__ import annotations

import pytest
import torch

from modules.functional.auxiliary_tasks import balanced, cells_of, pixel_changes, recent, reward_class


def test_rewards_are_none_positive_or_negative() -> None:
    assert reward_class(torch.tensor([0.0, 0.5, -2.0, -0.0, 1e-9])).tolist() == [0, 1, 2, 0, 1]


def test_rare_steps_count_as_much_as_all_others_together() -> None:
    rare = torch.tensor([[True, False], [False, False], [True, False]])
    valid = torch.tensor([[True, True], [True, False], [False, True]])
    weight = balanced(rare, valid)
    third = 1.0 / 6.0
    assert weight.flatten().tolist() == pytest.approx([0.5, third, third, 0.0, 0.0, third])
    assert balanced(torch.zeros_like(rare), valid).sum().item() == pytest.approx(0.5)
    assert not balanced(rare, torch.zeros_like(valid)).any()


def test_recent_rows_stand_beside_a_row_within_its_episode() -> None:
    x = torch.arange(1.0, 6.0).view(5, 1, 1)
    is_first = torch.tensor([False, False, False, True, False]).view(5, 1)
    assert recent(x, is_first, 3)[:, 0].tolist() == [[1, 0, 0], [2, 1, 0], [3, 2, 1], [4, 0, 0], [5, 4, 0]]
    assert torch.equal(recent(x, is_first, 1), x)


def test_changes_of_pixels_are_means_over_cells_as_in_loops() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (3, 2, 5, 7, 2), dtype=torch.uint8)
    found = pixel_changes(images, 3)
    assert found.shape == (2, 2, cells_of(5, 7, 3)) == (2, 2, 6)
    numbers = images.double()
    for t in range(2):
        for b in range(2):
            k = 0
            for top in (0, 3):
                for left in (0, 3, 6):
                    part = (numbers[t + 1, b] - numbers[t, b]).abs()[top : top + 3, left : left + 3]
                    assert found[t, b, k].item() == pytest.approx(part.mean().item() / 255.0, rel=1e-5)
                    k += 1
    assert cells_of(10, 5, 5) == 2
    dark, bright = torch.zeros(1, 1, 4, 4, 1, dtype=torch.uint8), torch.full((1, 1, 4, 4, 1), 255, dtype=torch.uint8)
    assert torch.equal(pixel_changes(torch.cat([bright, dark]), 2), torch.ones(1, 1, 4))
