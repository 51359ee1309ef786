"""Rewards, masks and means of unrolled rows, by numbers worked out by hand and by loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.functional.unrolled import masks, mean_by_age, over_steps, prefix_targets
from modules.search.value_prefix import first_prefix, next_prefix

REWARD = torch.tensor([[100.0, 1.0], [1.0, 2.0], [2.0, 3.0], [4.0, 5.0], [8.0, 7.0], [16.0, 11.0]])


# -------------------------------------------------------------------------------------------------------------- rewards
def test_sums_of_rewards_begin_anew_behind_every_reset() -> None:
    assert prefix_targets(REWARD, 2)[:, 0].tolist() == [0, 1, 1 + 2, 4, 4 + 8, 16]
    assert prefix_targets(REWARD, 5)[:, 0].tolist() == [0, 1, 3, 7, 15, 31]
    assert (
        prefix_targets(REWARD, 1)[:, 1].tolist() == prefix_targets(REWARD, None)[:, 1].tolist() == [0, 2, 3, 5, 7, 11]
    )
    before = REWARD.clone()
    prefix_targets(REWARD, 3)
    assert torch.equal(REWARD, before)


@pytest.mark.parametrize("horizon", [1, 2, 3, 4, 5, 9])
def test_sums_of_rewards_are_those_of_their_definition(horizon: int) -> None:
    reward = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    found = prefix_targets(reward, horizon)
    for k in range(1, 12):
        reset = max(j for j in range(k) if j % horizon == 0)
        torch.testing.assert_close(found[k], reward[reset + 1 : k + 1].sum(0))


@pytest.mark.parametrize("horizon", [1, 2, 3, 7])
def test_a_search_that_is_told_these_sums_sees_the_rewards(horizon: int) -> None:
    reward = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    prefix = first_prefix(reward[0])
    for told, expected in zip(prefix_targets(reward, horizon)[1:], reward[1:], strict=True):
        seen, prefix = next_prefix(prefix, told, horizon)
        torch.testing.assert_close(seen, expected)


# ---------------------------------------------------------------------------------------------------------------- masks
def flags(*rows: int) -> Tensor:
    """`[6, 3]`: in each sequence one row, or from there on all; 6 for none."""
    return torch.arange(6).unsqueeze(1) == torch.tensor(rows)


TERMINATED = flags(2, 6, 6)
PADDING = torch.arange(6).unsqueeze(1) > torch.tensor([2, 1, 6])
"""One sequence ends in a terminal state at row 2, one is cut at row 1, one goes on."""


def test_the_first_row_counts_in_full_and_later_ones_by_their_share() -> None:
    loss = torch.tensor([[5.0, 1.0], [2.0, 4.0], [6.0, 0.0]])
    assert over_steps(loss, 2).tolist() == [9.0, 3.0]
    assert over_steps(loss[1:], 2).tolist() == [4.0, 2.0]


def test_all_but_padding_counts_and_the_policy_where_an_action_followed() -> None:
    found = masks(TERMINATED, PADDING, 3)
    assert found.value.int().t().tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert found.policy.int().t().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert found.reward.int().t().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]


def test_behind_a_terminal_state_zeros_are_learned_where_that_is_asked_for() -> None:
    found = masks(TERMINATED, PADDING, 3, absorbing=True)
    assert found.value.int().t().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert found.policy.int().t().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert found.reward.int().t().tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1]]


# --------------------------------------------------------------------------------------------------------------- by age
def test_means_by_age() -> None:
    age = torch.tensor([0, 9, 10, 11, 19, 20, 500])
    numbers = torch.tensor([1.0, 3.0, 10.0, 20.0, 30.0, 7.0, 9.0])
    assert mean_by_age(numbers, age, (10, 20)).tolist() == [2.0, 20.0, 8.0]
    elsewhere = mean_by_age(numbers.to("meta"), age.to("meta"), (10, 20))
    assert (elsewhere.device.type, elsewhere.shape) == ("meta", (3,))
    empty = mean_by_age(numbers[:2], age[:2], (5, 7))
    assert [empty[0].item(), empty[2].item()] == [1.0, 3.0]
    assert empty[1].isnan()
