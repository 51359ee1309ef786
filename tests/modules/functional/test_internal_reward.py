"""Rewards of events: weighted sums."""

from __future__ import annotations

import torch

from modules.functional.internal_reward import internal_reward


def test_it_is_the_weighted_sum_of_the_events_of_each_step() -> None:
    events = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[0, 0, 0], [2, 0, 1]]], dtype=torch.int8)
    reward = internal_reward(events, [0.5, -2.0, 10.0])
    assert reward.dtype == torch.float32
    assert reward.tolist() == [[0.5, 8.0], [0.0, 11.0]]
