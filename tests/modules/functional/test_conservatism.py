from __future__ import annotations

import math

import pytest
import torch

from modules.functional.conservatism import conservative_gap, multiplier_loss, uniform_actions, uniform_log_density


def test_gap_is_that_of_a_plain_loop_over_critics_rows_and_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    sampled = torch.randn(2, 3, 4, 5, generator=generator)  # critics, members, samples, rows
    log_density, data = torch.randn(3, 4, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    found = conservative_gap(sampled, log_density, data)
    assert found.shape == (2, 3, 5)
    for c in range(2):
        for m in range(3):
            for b in range(5):
                terms = [math.exp(float(sampled[c, m, n, b] - log_density[m, n, b])) for n in range(4)]
                assert float(found[c, m, b]) == pytest.approx(math.log(sum(terms)) - float(data[c, m, b]), rel=1e-5)


def test_gap_of_equal_values_is_the_log_of_the_volume_and_the_number_of_samples() -> None:
    """With Q constant the integral is Q plus the log of the volume `2^A`, and the sum is not divided by `N`."""
    samples, d_action = 7, 3
    density = torch.full((samples, 1), uniform_log_density(d_action))
    gap = conservative_gap(torch.full((samples, 1), 2.5), density, torch.tensor([2.5]))
    assert float(gap) == pytest.approx(d_action * math.log(2.0) + math.log(samples))


def test_gap_of_huge_values_is_finite() -> None:
    gap = conservative_gap(torch.tensor([[1e4], [9e3]]), torch.zeros(2, 1), torch.tensor([0.0]))
    assert float(gap) == pytest.approx(1e4)


def test_uniform_actions_are_the_quantiles_of_the_draws() -> None:
    found = uniform_actions(torch.tensor([-50.0, -1.0, 0.0, 0.674489750196, 50.0]))
    torch.testing.assert_close(found, torch.tensor([-1.0, -0.682689492, 0.0, 0.5, 1.0]))


def test_a_multiplier_descends_by_its_own_size_times_the_slack() -> None:
    log = torch.tensor([0.0, math.log(3.0)], requires_grad=True)
    slack = torch.tensor([0.5, -2.0], requires_grad=True)
    loss = multiplier_loss(log, slack)
    torch.testing.assert_close(loss.detach(), torch.tensor([0.5, -6.0]))
    loss.sum().backward()
    torch.testing.assert_close(log.grad, torch.tensor([0.5, -6.0]))
    assert slack.grad is None
