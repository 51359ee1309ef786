from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from modules.functional.statistics import bootstrap_interval, crossed_interval, squared_variation, stratified_interval


def test_interval_of_a_constant_has_no_width():
    assert bootstrap_interval([3.0] * 7) == (3.0, 3.0)
    assert bootstrap_interval([2.5]) == (2.5, 2.5)


def test_interval_matches_the_binomial_answer():
    # resampled means of [0, 1] are Binomial(2, 1/2) / 2: 0 with probability 1/4, so the 95% interval is all of [0, 1]
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    # and the central 40% of it is exactly the value 1/2
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)


def test_interval_matches_the_normal_approximation():
    values = np.random.default_rng(0).normal(10.0, 2.0, size=1000)
    low, high = bootstrap_interval(values, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_interval_is_reproducible():
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values) == bootstrap_interval(values, confidence=0.95, resamples=2000, seed=0)


def test_interval_of_single_precision_is_computed_in_double():
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert bootstrap_interval(values) == bootstrap_interval(values.astype(np.float64))


def test_numbers_of_any_shape_count_one_by_one():
    assert bootstrap_interval([[0.0, 1.0]], confidence=0.4) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "^no values: a mean of nothing has no interval$"),
        ([1.0, np.nan, np.inf], "^2 of 3 values are not finite$"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_bad_confidence(confidence):
    with pytest.raises(ValueError, match=rf"confidence must .* got {confidence}$"):
        bootstrap_interval([1.0], confidence=confidence)


def test_strata_are_drawn_within_themselves() -> None:
    # Two groups without spread have a mean without any, however far apart they are.
    low, high = stratified_interval([[0.0, 0.0], [8.0, 8.0]], lambda groups: np.concatenate(groups, -1).mean(-1))
    assert (low, high) == (4.0, 4.0)
    low, high = stratified_interval([[0.0, 1.0], [5.0]], lambda g: np.stack([g[0].mean(-1), g[1].mean(-1)], -1), 0.4)
    assert (low.tolist(), high.tolist()) == ([0.5, 5.0], [0.5, 5.0])


def test_a_stratified_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=6), rng.normal(1.0, size=4)]
    found = stratified_interval(groups, lambda drawn: drawn[0].mean(-1) - drawn[1].max(-1), 0.9, 500, seed=7)
    expected = stats.bootstrap(
        groups, lambda x, y, axis=-1: x.mean(axis) - y.max(axis), n_resamples=500, confidence_level=0.9,
        method="percentile", rng=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    assert found == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_a_stratified_interval_has_the_defaults_of_others() -> None:
    values = np.random.default_rng(0).normal(size=50)
    given = stratified_interval([values], lambda groups: groups[0].mean(-1))
    assert given == bootstrap_interval(values, confidence=0.95, resamples=2000, seed=0)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_bad_strata_are_named(confidence: float) -> None:
    with pytest.raises(ValueError, match=rf"confidence must .* got {confidence}$"):
        stratified_interval([[1.0]], lambda groups: groups[0].mean(-1), confidence)
    with pytest.raises(ValueError, match=r"^no values"):
        stratified_interval([[1.0], []], lambda groups: groups[0].mean(-1))


def test_crossed_intervals_know_both_causes() -> None:
    assert crossed_interval(np.full((3, 5), 2.0)) == (2.0, 2.0)
    # One row, or rows that are alike: means of [0, 1] are those of two draws.
    assert crossed_interval(np.array([[0.0, 1.0]])) == (0.0, 1.0)
    assert crossed_interval(np.array([[0.0, 1.0]] * 8), confidence=0.4) == (0.5, 0.5)
    assert crossed_interval(np.array([[0.0], [1.0]]), confidence=0.4) == (0.5, 0.5)
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(200, 1)), rng.normal(size=(1, 100))
    low, high = crossed_interval(rows + columns, resamples=4000)
    half = 1.96 * math.sqrt(rows.var() / 200 + columns.var() / 100)
    mean = rows.mean() + columns.mean()
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)
    table = rng.normal(size=(4, 9))
    assert crossed_interval(table) == crossed_interval(table, 0.95, 2000, 0) != crossed_interval(table, seed=1)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_bad_numbers_of_a_crossed_interval_are_named(confidence: float) -> None:
    with pytest.raises(ValueError, match=rf"confidence must .* got {confidence}$"):
        crossed_interval(np.ones((1, 1)), confidence=confidence)
    with pytest.raises(ValueError, match=r"^1 of 2 values are not finite$"):
        crossed_interval(np.array([[1.0, np.nan]]))


def test_squared_variation() -> None:
    torch.testing.assert_close(squared_variation(torch.tensor([1.0, 3.0])), torch.tensor(0.25))  # 1 / 2^2
    assert squared_variation(torch.full((7,), 3.0)) == 0
    # A mean near zero divides by no less than 1e-10: here the variance and the squared mean are as much.
    assert squared_variation(torch.tensor([0.0, 2e-5])).item() == pytest.approx(0.5, rel=1e-3)
