from __future__ import annotations

import math

import numpy as np
import pytest

from modules.functional.choosing import choose, rank_correlation, regret


def estimates(*means: float, noise: float = 0.0, shared: float = 0.0) -> np.ndarray:
    """`[4, K, 50]` estimates, with noise of each and with noise that a seed gives to all policies alike."""
    rng = np.random.default_rng(0)
    mean = np.array(means)[None, :, None]
    return mean + rng.normal(0.0, noise, (4, len(means), 50)) + rng.normal(0.0, shared, (4, 1, 1))


def test_the_highest_lower_bound_is_chosen_where_it_is_clearly_better() -> None:
    choice = choose(estimates(1.0, 3.0, 2.0, noise=0.1), safe=0)
    assert (choice.chosen, choice.best, choice.safe, choice.runner_up) == (1, 1, 0, 2)
    assert choice.gain.mean == pytest.approx(2.0, abs=0.1)
    assert choice.gain.low < choice.gain.mean < choice.gain.high
    assert choice.margin is not None
    assert choice.margin.mean == pytest.approx(1.0, abs=0.1)
    assert [v.mean for v in choice.values] == pytest.approx([1.0, 3.0, 2.0], abs=0.1)


def test_a_wide_interval_loses_to_a_sure_value() -> None:
    values = estimates(1.0, 3.0, 2.0)
    values[:, 1] += np.array([-4.0, 4.0, -4.0, 4.0])[:, None]  # its seeds disagree
    assert choose(values, safe=0).best == 2


def test_the_safe_one_is_taken_where_the_difference_may_be_none() -> None:
    choice = choose(estimates(1.0, 1.01, noise=1.0), safe=0)
    assert choice.gain.low <= 0.0
    assert choice.chosen == 0
    alone = choose(estimates(1.0, 0.0), safe=0)
    assert (alone.chosen, alone.best) == (0, 0)
    assert alone.gain == (0.0, 0.0, 0.0)


def test_one_seed_or_one_start_is_too_little_to_leave_the_safe_one() -> None:
    values = estimates(1.0, 3.0, noise=0.1)
    for few in (values[:1], values[:, :, :1]):
        choice = choose(few, safe=0)
        assert choice.gain.low > 0.0
        assert (choice.best, choice.chosen, choice.told_apart) == (1, 0, False)
    assert choose(values[:2, :, :2], safe=0).told_apart


def test_differences_are_paired() -> None:
    choice = choose(estimates(1.0, 1.2, noise=0.1, shared=10.0), safe=0)
    first, second = choice.values
    assert first.high > second.low  # alone they overlap
    assert choice.chosen == 1


def test_one_policy_has_no_margin() -> None:
    choice = choose(estimates(1.0), safe=0)
    assert (choice.chosen, choice.margin, choice.runner_up) == (0, None, None)


def test_regret_is_what_the_best_estimate_loses() -> None:
    assert regret([1.0, 3.0, 2.0], [5.0, 4.0, 7.0]) == 3.0
    assert regret([1.0, 2.0, 3.0], [5.0, 4.0, 7.0]) == 0.0


def test_rank_correlation() -> None:
    assert rank_correlation([1.0, 2.0, 30.0], [5.0, 6.0, 7.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [9.0, 8.0, -1.0]) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: by the formula of Pearson's correlation of ranks.
    assert rank_correlation([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))
    assert math.isnan(rank_correlation([1.0, 1.0], [1.0, 2.0]))
