"""Aggregates of scores: known answers, and the numbers of rliable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.functional.aggregate_scores import (
    interquartile_mean,
    mean_score,
    median_score,
    optimality_gap,
    pooled_interquartile_mean,
    probability_of_improvement,
    share_above,
)
from modules.functional.statistics import stratified_interval

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data/rliable/scores.json").read_text())
X, Y = (np.array(GOLDEN["scores"][name]) for name in "xy")


def aggregates(scores: Any) -> np.ndarray:
    found = [mean_score(scores), median_score(scores), pooled_interquartile_mean(scores)]
    return np.stack([*found, optimality_gap(scores, GOLDEN["target"])], -1)


def test_quarters_are_left_out_and_few_values_are_not() -> None:
    assert interquartile_mean(np.array([1000.0, 0.0, 20.0, 10.0])) == 15.0
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0
    assert interquartile_mean(np.arange(9.0)[::-1]) == 4.0
    np.testing.assert_array_equal(interquartile_mean(np.array([[0.0, 1.0, 3.0, 9.0], [5.0] * 4])), [2.0, 5.0])


def test_tasks_of_different_numbers_of_runs() -> None:
    scores = [np.array([1.0, 3.0]), np.array([10.0, 20.0, 30.0]), np.array([7.0])]
    assert mean_score(scores) == pytest.approx((2 + 20 + 7) / 3)
    assert median_score(scores) == 7.0
    assert pooled_interquartile_mean(scores) == pytest.approx((3 + 7 + 10 + 20) / 4)
    assert optimality_gap(scores, 10.0) == pytest.approx(10 - (1 + 3 + 10 + 10 + 10 + 7) / 6)
    assert share_above(scores, np.array([3.0, 29.0, 30.0])).tolist() == [4 / 6, 1 / 6, 0.0]


def test_the_median_on_one_task_is_that_of_its_runs() -> None:
    assert median_score([np.array([1.0, 2.0, 9.0])]) == 2.0
    np.testing.assert_array_equal(median_score([np.array([[1.0, 2.0, 9.0], [4.0, 4.0, 5.0]])]), [2.0, 4.0])


def test_probability_of_improvement_counts_pairs_within_tasks_and_equal_ones_half() -> None:
    first, second = [np.array([1.0, 5.0]), np.array([0.0])], [np.array([1.0, 2.0, 7.0]), np.array([100.0])]
    # Task one: 1 against 1, 2, 7 is half, 5 is better than 1 and 2: 2.5 of 6 pairs. Task two: none of one.
    assert probability_of_improvement(first, second) == pytest.approx(2.5 / 6 / 2)
    assert probability_of_improvement(second, first) == pytest.approx(1 - 2.5 / 6 / 2)


def test_draws_stay_apart() -> None:
    """Each row of a table of draws is what it would be alone."""
    rng = np.random.default_rng(0)
    scores, others = ([rng.normal(size=(4, runs)) for runs in (5, 3)] for _ in range(2))
    thresholds = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0])
    for draw in range(4):
        mine, theirs = ([task[draw] for task in of] for of in (scores, others))
        np.testing.assert_array_equal(share_above(scores, thresholds)[draw], share_above(mine, thresholds))
        assert probability_of_improvement(scores, others)[draw] == probability_of_improvement(mine, theirs)
        for one in (mean_score, median_score, pooled_interquartile_mean):
            assert one(scores)[draw] == one(mine)
        assert optimality_gap(scores, 0.5)[draw] == optimality_gap(mine, 0.5)
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter"):
        probability_of_improvement(scores, others[:1])


def test_the_numbers_are_those_of_rliable() -> None:
    for name, scores in (("x", X), ("y", Y)):
        np.testing.assert_allclose(aggregates(list(scores)), GOLDEN["aggregates"][name], rtol=1e-12)
        profile = share_above(list(scores), np.array(GOLDEN["thresholds"]))
        np.testing.assert_allclose(profile, GOLDEN["profiles"][name], rtol=1e-12)
    assert probability_of_improvement(list(X), list(Y)) == pytest.approx(GOLDEN["improvement"][0], rel=1e-12)


def test_the_intervals_are_those_of_rliable() -> None:
    """Up to the noise of thousands of draws on both sides and the steps of rounded scores; intervals are 0.25 wide."""
    for name, scores in (("x", X), ("y", Y)):
        found = np.stack(stratified_interval(list(scores), aggregates, resamples=4000))
        np.testing.assert_allclose(found, GOLDEN["aggregate_intervals"][name], atol=0.025)
    tasks = len(X)
    found = np.stack(stratified_interval([*X, *Y], lambda both: probability_of_improvement(both[:tasks], both[tasks:])))
    np.testing.assert_allclose(found, np.ravel(GOLDEN["improvement_interval"]), atol=0.03)
