"""Moving statistics of targets against slow loops and known numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.functional.popart import deviation, moving_moments, plain_moment, rescale_factors


def fresh(tasks: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(tasks).double(), torch.ones(tasks).double(), torch.zeros(tasks).double()


def sums(targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of `[K, N]` targets."""
    targets = targets.double()
    return targets.sum(-1), targets.square().sum(-1), torch.full((len(targets),), targets.shape[-1]).double()


def test_first_batch_replaces_the_start() -> None:
    mu, nu, weight = moving_moments(fresh(2), sums(torch.tensor([[1.0, 3.0], [-10.0, -10.0]])), 0.25)
    assert mu.tolist() == [2.0, -10.0]
    assert nu.tolist() == [5.0, 100.0]
    assert weight.tolist() == [0.25, 0.25]
    assert deviation(mu, nu).tolist() == [1.0, 1e-4]


def test_one_target_is_a_batch() -> None:
    mu, nu, weight = moving_moments(fresh(1), sums(torch.tensor([[3.0]])), 0.5)
    assert (mu.item(), nu.item(), weight.item()) == (3.0, 9.0, 0.5)


def test_debiased_averages_are_weighted_means_of_the_batches() -> None:
    torch.manual_seed(0)
    batches, decay = torch.randn(20, 3, 8).double(), 0.1
    state = fresh(3)
    for batch in batches:
        state = moving_moments(state, sums(batch), decay)
    for found, values in ((state[0], batches.mean(-1)), (state[1], batches.square().mean(-1))):
        torch.testing.assert_close(found, plain_moment(values, decay))
    torch.testing.assert_close(state[2], torch.full((3,), 1.0 - (1.0 - decay) ** 20).double())
    assert plain_moment(torch.tensor([[1.0], [4.0]]), 0.5).item() == 3.0


def test_plain_moment_of_two_batches_in_double_precision() -> None:
    found = plain_moment(torch.tensor([[1.0, -2.0], [5.0, 4.0]]).double(), 0.3)
    exact = [(0.7 * 1.0 + 5.0) / 1.7, (0.7 * -2.0 + 4.0) / 1.7]
    assert all(abs(x - y) < 1e-14 for x, y in zip(found.tolist(), exact, strict=True))


def test_tasks_without_targets_stay_as_they_are_bit_for_bit() -> None:
    state = moving_moments(fresh(3), sums(torch.tensor([[0.1, 0.7]] * 3)), 0.3)
    total, squares, count = sums(torch.tensor([[5.0, 6.0]] * 3))
    present = torch.tensor([1.0, 0.0, 1.0]).double()
    after = moving_moments(state, (total * present, squares * present, count * present), 0.3)
    for old, new in zip(state, after, strict=True):
        assert old[1] == new[1]
        assert (old[[0, 2]] != new[[0, 2]]).all()
    scale, shift = rescale_factors((state[0], deviation(state[0], state[1])), (after[0], deviation(after[0], after[1])))
    assert scale[1] == 1.0
    assert shift[1] == 0.0


def test_deviation_of_one_around_ten_thousand() -> None:
    torch.manual_seed(0)
    state = fresh(1)
    for _ in range(300):
        state = moving_moments(state, sums(1e4 + torch.randn(1, 512).double()), 0.05)
    assert abs(state[0].item() - 1e4) < 0.05
    assert abs(deviation(state[0], state[1]).item() - 1.0) < 0.05


def test_limits_of_a_deviation() -> None:
    mu, nu = torch.tensor([3.0, 0.0, 1.0]).double(), torch.tensor([9.0 - 1e-9, 1e20, 5.0]).double()
    assert deviation(mu, nu).tolist() == [1e-4, 1e6, 2.0]
    assert deviation(mu, nu, 2.5, 3.0).tolist() == [2.5, 3.0, 2.5]


def test_rescale_factors_keep_the_unnormalised_number() -> None:
    mu, sigma, new_mu, new_sigma = torch.tensor([[0.5], [2.0], [100.0], [8.0]]).double()
    scale, shift = rescale_factors((mu, sigma), (new_mu, new_sigma))
    n = torch.linspace(-3.0, 3.0, 7).double()
    torch.testing.assert_close(new_sigma * (scale * n + shift) + new_mu, sigma * n + mu)
