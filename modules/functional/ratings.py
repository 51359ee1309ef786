"""Ratings of players by the results of their matches, and which matches teach the most.

Sources: Elo 1978, "The Rating of Chessplayers, Past and Present", for ratings that follow results; Bradley & Terry
1952, "Rank Analysis of Incomplete Block Designs", for those that explain a whole table of them; Jaderberg et al. 2019,
"Human-level performance in 3D multiplayer games with population-based reinforcement learning"
(https://arxiv.org/abs/1807.01281), for teams and matchmaking.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modules.arguments.checks import check_positive

ELO = 400.0 / math.log(10.0)
"""Points of rating in a unit of log-odds: 400 points are odds of ten to one."""

STEPS = 100
"""Steps of Newton's method, at most; a table of results takes about ten."""


def win_probability(ahead: Tensor) -> Tensor:
    """Expected share of the points of who is `ahead` by so many points of rating, where a draw is half a point."""
    return torch.sigmoid(ahead / ELO)


def elo_gain(ahead: Tensor, points: Tensor, games: Tensor, k: float) -> Tensor:
    """Elo's update: `k` times the points beyond those that were expected, which the other player loses.

    Args:
        ahead: `[...]` rating of a player less that of the other, before these matches.
        points: `[...]` points that the player made of them: 1 for a win, one half for a draw.
        games: `[...]` number of matches.
        k: points of rating for a win that nothing spoke for.

    Returns:
        `[...]` what the player's rating grows by.
    """
    return k * (points - games * win_probability(ahead))


def matchmaking(chance: Tensor, width: float) -> Tensor:
    """How often each opponent is to be met: a Gaussian of the chance to win, around one half.

    Matches that are as good as won or lost teach little. The weights of the paper, with its width as an argument.

    Args:
        chance: `[P]` chance of a win against each of the opponents.
        width: standard deviation of the Gaussian, as a share of the points; the smaller, the closer the matches.

    Returns:
        `[P]` weights, which sum to 1.

    Raises:
        ValueError: the width is not positive.
    """
    check_positive(width=width)
    return torch.softmax(-0.5 * ((chance - 0.5) / width).square(), -1)


def sides_of(first: Tensor, second: Tensor, players: int, *, mean: bool) -> Tensor:
    """Which ratings count in each pairing of two teams, and with which sign.

    Args:
        first: `[G, n]` int64 players of one team; a player may stand in it more than once.
        second: `[G, m]` int64 players of the other.
        players: number `P` of players that there are.
        mean: a team is as strong as the mean of its players; else as their sum, as in the paper.

    Returns:
        `[G, P]` float64, whose product with ratings `[P]` is how far the first team is ahead.
    """
    sides = torch.zeros(len(first), players, dtype=torch.float64)
    for team, sign in ((first, 1.0), (second, -1.0)):
        share = sign / team.shape[1] if mean else sign
        sides.scatter_add_(1, team, torch.full(team.shape, share, dtype=torch.float64))
    return sides


def fit_ratings(sides: Tensor, points: Tensor, games: Tensor, prior: float) -> Tensor:
    """The ratings under which a whole table of results is the most likely, with a prior around 0.

    The model is that of Bradley & Terry, in which a draw is half a win and half a defeat. Without a prior a player who
    won every match would be infinitely strong, and only differences of ratings would be known. Newton's method, on a
    concave function with one maximum.

    Args:
        sides: `[G, P]` float64 pairings, see `sides_of`.
        points: `[G]` points that the first side made.
        games: `[G]` matches that it had; 0 for a pairing that was not played.
        prior: standard deviation of the normal distribution that each rating has before any match.

    Returns:
        `[P]` float64 ratings.

    Raises:
        ValueError: the prior is not positive.
    """
    check_positive(prior=prior)
    points, games = points.double(), games.double()
    precision = (ELO / prior) ** 2
    ratings = torch.zeros(sides.shape[1], dtype=torch.float64)  # in log-odds
    for _ in range(STEPS):
        chance = torch.sigmoid(sides @ ratings)
        slope = sides.T @ (points - games * chance) - precision * ratings
        curvature = (sides.T * (games * chance * (1.0 - chance))) @ sides
        step = torch.linalg.solve(curvature + precision * torch.eye(len(ratings), dtype=torch.float64), slope)
        ratings = ratings + step * min(1.0, 2.0 / max(float(step.abs().max()), 1e-300))  # a long one may overshoot
        if float(step.abs().max()) < 1e-12:
            break
    return ELO * ratings


def table_ratings(points: Tensor, games: Tensor, prior: float) -> Tensor:
    """The most likely ratings of players by a table of their matches, one against one; see `fit_ratings`.

    Args:
        points: `[P, P]` points that the player of the row made against that of the column.
        games: `[P, P]` matches of both, the same in both orders.
        prior: standard deviation of the normal distribution that each rating has before any match.

    Returns:
        `[P]` float64 ratings.

    Raises:
        ValueError: the prior is not positive.
    """
    first, second = torch.triu_indices(len(points), len(points), 1)
    sides = sides_of(first[:, None], second[:, None], len(points), mean=True)
    return fit_ratings(sides, points[first, second], games[first, second], prior)
