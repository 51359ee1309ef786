"""Ratings have the odds that they promise, explain tables of results, and follow them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modules.functional.ratings import elo_gain, fit_ratings, matchmaking, sides_of, table_ratings, win_probability


def of(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def pairs(count: int) -> Tensor:
    """`[G, 2]` of all pairs of players."""
    return torch.combinations(torch.arange(count), 2)


def test_400_points_are_odds_of_ten_to_one() -> None:
    torch.testing.assert_close(
        win_probability(of(0.0, 400.0, -400.0, 200.0)), of(0.5, 10 / 11, 1 / 11, 0.759746926647957)
    )


def test_elo_gives_what_is_beyond_the_expected() -> None:
    # The expectations against 400 more, equals and 400 less, of a player who wins, draws and loses.
    gain = elo_gain(of(-400.0, 0.0, 400.0), of(1.0, 0.5, 0.0), of(1.0, 1.0, 1.0), 32.0)
    torch.testing.assert_close(gain, of(32 * 10 / 11, 0.0, -32 * 10 / 11))
    # Ten matches at once, of which five points were expected.
    torch.testing.assert_close(elo_gain(of(0.0), of(7.0), of(10.0), 4.0), of(8.0))


def test_elo_takes_from_one_what_it_gives_the_other() -> None:
    ahead, points, games = of(130.0), of(3.5), of(5.0)
    torch.testing.assert_close(elo_gain(ahead, points, games, 8.0), -elo_gain(-ahead, games - points, games, 8.0))


def test_close_matches_are_made_more_often() -> None:
    weights = matchmaking(of(0.5, 0.5 - 1 / 6, 0.5 + 1 / 6, 1.0), 1 / 6)
    raw = of(1.0, math.exp(-0.5), math.exp(-0.5), math.exp(-4.5))
    torch.testing.assert_close(weights, raw / raw.sum())
    torch.testing.assert_close(matchmaking(of(0.0, 0.5, 1.0), 1e6), of(1 / 3, 1 / 3, 1 / 3))


def test_two_players_are_as_far_apart_as_their_results_say() -> None:
    sides = sides_of(torch.tensor([[0]]), torch.tensor([[1]]), 2, mean=False)
    rating = fit_ratings(sides, of(75.0), of(100.0), prior=1e6)
    assert float(rating[0] - rating[1]) == pytest.approx(400 * math.log10(3.0), abs=1e-3)  # 190.85
    assert float(rating.sum()) == pytest.approx(0.0, abs=1e-6)


def test_ratings_come_back_from_the_results_that_they_promise() -> None:
    true = of(-310.0, -40.0, 25.0, 325.0)
    both = pairs(4)
    sides = sides_of(both[:, :1], both[:, 1:], 4, mean=False)
    games = torch.full((6,), 500.0)
    found = fit_ratings(sides, games * win_probability(sides @ true), games, prior=1e6)
    torch.testing.assert_close(found, true, atol=0.01, rtol=0)


def test_it_is_the_top_of_the_posterior() -> None:
    """A slow climb along the gradient that autograd finds ends at the same place."""
    torch.manual_seed(0)
    both = pairs(5)
    sides = sides_of(both[:, :1], both[:, 1:], 5, mean=False)
    games = torch.randint(0, 9, (10,)).double()
    points = (games * torch.rand(10, dtype=torch.float64)).round()
    slow = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    climb = torch.optim.LBFGS([slow], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16)

    def loss() -> Tensor:
        climb.zero_grad()
        chance = win_probability(100.0 * (sides @ slow))
        likely = points * chance.log() + (games - points) * (1.0 - chance).log()
        total = -likely.sum() + 0.5 * (100.0 * slow / 300.0).square().sum()
        total.backward()
        return total

    climb.step(loss)
    torch.testing.assert_close(fit_ratings(sides, points, games, 300.0), 100.0 * slow.detach(), atol=1e-4, rtol=0)


def test_a_table_is_that_of_its_pairs() -> None:
    """Of which one was not played, and each stands in it twice."""
    both = pairs(4)
    games = torch.tensor([8.0, 3.0, 0.0, 5.0, 9.0, 2.0], dtype=torch.float64)
    points = torch.tensor([6.0, 0.5, 0.0, 2.0, 9.0, 1.0], dtype=torch.float64)
    made, played = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    made[both[:, 0], both[:, 1]], made[both[:, 1], both[:, 0]] = points, games - points
    played[both[:, 0], both[:, 1]] = played[both[:, 1], both[:, 0]] = games
    expected = fit_ratings(sides_of(both[:, :1], both[:, 1:], 4, mean=False), points, games, 500.0)
    torch.testing.assert_close(table_ratings(made, played, 500.0), expected)
    torch.testing.assert_close(table_ratings(made.T, played, 500.0), -expected)


@pytest.mark.parametrize("prior", [100.0, 1000.0, 1e5])
def test_who_won_every_match_is_finitely_strong(prior: float) -> None:
    sides = sides_of(torch.tensor([[0], [1]]), torch.tensor([[1], [2]]), 3, mean=False)
    rating = fit_ratings(sides, of(1000.0, 1000.0), of(1000.0, 1000.0), prior)
    assert torch.isfinite(rating).all()
    assert rating[0] > rating[1] + 50 > rating[2] + 100


def test_who_played_nobody_is_where_the_prior_is() -> None:
    sides = sides_of(torch.tensor([[0], [0]]), torch.tensor([[1], [2]]), 3, mean=False)
    assert float(fit_ratings(sides, of(3.0, 0.0), of(4.0, 0.0), 400.0)[2]) == 0.0


def test_teams_are_as_strong_as_the_sum_or_the_mean_of_their_players() -> None:
    first, second = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[2, 3], [0, 3]])
    assert sides_of(first, second, 4, mean=False).tolist() == [[1, 1, -1, -1], [-1, 0, 2, -1]]
    assert sides_of(first, second, 4, mean=True).tolist() == [[0.5, 0.5, -0.5, -0.5], [-0.5, 0, 1, -0.5]]
    true = of(150.0, -70.0, 20.0, -100.0)
    every = torch.tensor([[a, b] for a in range(4) for b in range(4)])
    sides = sides_of(every.repeat_interleave(16, 0), every.repeat(16, 1), 4, mean=False)
    games = torch.full((256,), 10.0)
    found = fit_ratings(sides, games * win_probability(sides @ true), games, prior=1e6)
    torch.testing.assert_close(found, true, atol=0.01, rtol=0)


def test_widths_and_priors_are_positive() -> None:
    with pytest.raises(ValueError, match="width must be"):
        matchmaking(of(0.5), 0.0)
    with pytest.raises(ValueError, match="prior must be"):
        fit_ratings(torch.zeros(1, 2, dtype=torch.float64), of(0.0), of(0.0), -1.0)
