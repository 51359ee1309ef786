"""Targets, priorities and choices of sequences, by numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from modules.functional.sequence_targets import choose, mixed_priority, n_step_backup, plain_n_step_targets

REWARD = torch.tensor([[100.0], [1.0], [2.0], [4.0]])
"""Of four rows of one sequence; the first was received before it."""


def column(*entries: bool) -> torch.Tensor:
    return torch.tensor(entries).unsqueeze(1)


NEVER = column(False, False, False, False)


def test_two_steps_of_an_episode_that_goes_on() -> None:
    backup = n_step_backup(REWARD, NEVER, NEVER, torch.tensor([0.5, 1.0]), 2)
    # The first sees rewards 1 and 2, the second 2 and 4, the last only 4 and the last row's value after one step.
    assert backup.reward.squeeze(1).tolist() == [[2.0, 3.0], [4.0, 6.0], [4.0, 4.0]]
    assert backup.discount.squeeze(1).tolist() == [[0.25, 1.0], [0.25, 1.0], [0.5, 1.0]]
    assert backup.row.squeeze(1).tolist() == [2, 3, 3]
    assert backup.mask.squeeze(1).tolist() == [True, True, True]


def test_nothing_is_worth_anything_behind_a_terminal_state() -> None:
    backup = n_step_backup(
        REWARD, column(False, False, True, False), column(False, False, False, True), torch.tensor([0.5]), 3
    )
    assert backup.reward[:2].flatten().tolist() == [1.0 + 0.5 * 2.0, 2.0]
    assert backup.discount[:2].flatten().tolist() == [0.0, 0.0]
    assert backup.row.flatten().tolist() == [2, 2, 2]
    assert backup.mask.flatten().tolist() == [True, True, False]


def test_value_of_the_last_row_counts_where_an_episode_was_cut() -> None:
    """Padding neither adds rewards nor discounts: one step leads to the last row, whatever `n`."""
    backup = n_step_backup(REWARD, NEVER, column(False, False, True, True), torch.tensor([0.5]), 3)
    assert float(backup.reward[0]) == 1.0
    assert float(backup.discount[0]) == 0.5
    assert backup.row.flatten().tolist() == [1, 1, 1]
    assert backup.mask.flatten().tolist() == [True, False, False]


def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    reward = torch.cat([REWARD, -10.0 * REWARD, REWARD], 1)
    terminated = torch.cat([NEVER, column(False, False, True, False), NEVER], 1)
    padding = torch.cat([NEVER, column(False, False, False, True), column(False, False, True, True)], 1)
    gamma = torch.tensor([0.5, 1.0])
    together = n_step_backup(reward, terminated, padding, gamma, 2)
    alone = [n_step_backup(*(x[:, b : b + 1] for x in (reward, terminated, padding)), gamma, 2) for b in range(3)]
    for found, *parts in zip(together, *alone, strict=True):
        assert torch.equal(found, torch.cat(parts, 1))
    value = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    for n in (1, 2, 3, 5):
        backup = n_step_backup(reward, terminated, padding, gamma, n)
        targets = backup.reward + backup.discount * torch.take_along_dim(value, backup.row.unsqueeze(-1), 0)
        plain = plain_n_step_targets(reward, terminated, padding, value, gamma, n)
        assert plain.shape == targets.shape
        torch.testing.assert_close(plain[backup.mask], targets[backup.mask])


def test_targets_are_made_where_the_rewards_are() -> None:
    flags = torch.zeros(4, 2, dtype=torch.bool, device="meta")
    backup = n_step_backup(torch.zeros(4, 2, device="meta"), flags, flags, torch.ones(3, device="meta"), 2)
    assert [x.shape for x in backup] == [(3, 2, 3), (3, 2, 3), (3, 2), (3, 2)]
    assert {x.device.type for x in backup} == {"meta"}


def test_priority_mixes_largest_and_mean_error() -> None:
    error = torch.tensor([[1.0, -4.0], [-3.0, 7.0]])
    mask = torch.tensor([[True, True], [True, False]])
    torch.testing.assert_close(mixed_priority(error, mask, 0.9), torch.tensor([0.9 * 3 + 0.1 * 2, 4.0]))


def test_priority_of_a_sequence_without_targets_is_zero() -> None:
    assert mixed_priority(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.bool), 0.9).tolist() == [0.0]


@pytest.mark.parametrize("wide", [False, True], ids=["[T, B, A]", "[T, B, A, K]"])
def test_predictions_of_actions_are_chosen(wide: bool) -> None:
    prediction = torch.arange(12).view(2, 2, 3)
    action = torch.tensor([[2, 0], [1, 1]])
    chosen = torch.tensor([[2, 3], [7, 10]])
    if wide:
        prediction, chosen = torch.stack([prediction, -prediction], -1), torch.stack([chosen, -chosen], -1)
    assert torch.equal(choose(prediction, action), chosen)
