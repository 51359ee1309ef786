"""Population based training: who copies whom, and how genes change, with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from modules.functional.evolution import (
    first_gene,
    perturbed_gene,
    rated_tournament,
    student_tail,
    tournament,
    truncation,
)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_worst_copy_one_of_the_best() -> None:
    means = [5.0, 1.0, 9.0, 3.0, 8.0, 2.0, 4.0, 6.0, 7.0, 0.0]
    seen = set()
    for seed in range(40):
        chosen = truncation(means, 0.2, random(seed))
        assert [member for member, donor in enumerate(chosen) if donor is not None] == [1, 9]
        seen |= {chosen[1], chosen[9]}
    assert seen == {2, 4}


def test_a_small_share_is_one_member_and_equals_copy_nobody() -> None:
    assert truncation([0.0, 2.0, 1.0], 0.2, random()) == [1, None, None]
    assert truncation([1.0, 1.0, 1.0, 1.0], 0.5, random()) == [None] * 4
    assert truncation([-math.inf, 0.5, 0.5], 0.3, random()) == [1, None, None]


def test_a_failed_member_copies_another_one_in_either_way() -> None:
    means = [-math.inf, 0.0, 1.0]
    assert truncation(means, 0.34, random())[0] == 2
    for seed in range(10):
        assert tournament(means, [0.0, 1.0, 1.0], [0, 10, 10], 0.05, random(seed))[0] in (1, 2)


def test_a_member_copies_what_is_better_by_the_test() -> None:
    # Welch's t of 10 returns each, deviations 1: (1.0 - 0.0) / sqrt(0.2) = 2.236, p = 0.0191 one-sided (18 degrees).
    for level, donor in ((0.02, 1), (0.019, None)):
        assert tournament([0.0, 1.0], [1.0, 1.0], [10, 10], level, random()) == [donor, None]
    assert tournament([0.0, 1.0], [0.0, 0.0], [10, 10], 1e-9, random()) == [1, None]  # nothing is left to chance
    assert tournament([0.0, 1.0], [5.0, 5.0], [1, 1], 1e-9, random()) == [1, None]  # nothing is known of the spread


def test_a_member_copies_who_would_win_often_enough() -> None:
    # 400 log10(0.7 / 0.3) = 147.19 points are a chance of 0.7.
    for ahead, donor in ((147.2, 1), (147.1, None)):
        assert rated_tournament([-20.0, ahead - 20.0], 0.7, random()) == [donor, None]
    assert rated_tournament([0.0, 190.9], 0.75, random()) == [1, None]
    assert rated_tournament([0.0, 190.8], 0.75, random()) == [None, None]
    assert rated_tournament([0.0, 1e-6], 0.5, random()) == [1, None]
    assert rated_tournament([3.0, 3.0], 0.5, random()) == [None, None]  # equals copy nobody
    assert rated_tournament([0.0, 300.0], 1.0, random()) == [None, None]


def test_who_has_failed_copies_who_has_not() -> None:
    for threshold in (0.5, 0.7, 1.0):
        assert rated_tournament([-math.inf, 0.0], threshold, random()) == [1, None]
        assert rated_tournament([-math.inf, -math.inf], threshold, random()) == [None, None]


def test_each_looks_at_one_other_member() -> None:
    seen: list[set[int | None]] = [set(), set(), set(), set()]
    for seed in range(80):
        for member, donor in enumerate(rated_tournament([0.0, 150.0, 320.0, 320.0], 0.7, random(seed))):
            seen[member].add(donor)
    assert seen == [{1, 2, 3}, {None, 2, 3}, {None}, {None}]


@pytest.mark.parametrize("t", [0.0, 0.3, 1.7, 4.0])
@pytest.mark.parametrize("freedom", [1.0, 2.5, 18.0, 400.0])
def test_the_tail_of_students_distribution(t: float, freedom: float) -> None:
    assert student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-7)


def test_the_test_is_welchs() -> None:
    means, deviations, counts = [1.0, 1.9], [0.7, 2.0], [12, 9]
    one, other = [(means[i], deviations[i], counts[i]) for i in (1, 0)]
    found = stats.ttest_ind_from_stats(*one, *other, equal_var=False, alternative="greater").pvalue
    for level, donor in ((found * 1.0001, 1), (found * 0.9999, None)):
        assert tournament(means, deviations, counts, level, random())[0] == donor


def test_opponents_are_drawn_among_the_others_alone() -> None:
    seen: list[set[int | None]] = [set(), set(), set()]
    for seed in range(60):
        for member, donor in enumerate(tournament([0.0, 0.0, 1.0], [0.0] * 3, [5] * 3, 0.5, random(seed))):
            seen[member].add(donor)
    assert seen == [{None, 2}, {None, 2}, {None}]


def test_a_positive_gene_is_multiplied_within_its_bounds() -> None:
    found = {perturbed_gene("scale", 0.5, 0.1, 0.55, (0.8, 1.2), random(seed)) for seed in range(20)}
    assert found == {0.4, 0.55}


def test_the_distance_from_1_of_a_horizon_is_multiplied() -> None:
    found = {round(perturbed_gene("horizon", 0.99, 0.9, 0.991, (0.5, 1.2), random(seed)), 9) for seed in range(20)}
    assert found == {0.988, 0.991}


def test_integers_are_drawn_anew() -> None:
    found = {perturbed_gene("whole", 7, 2, 5, (0.8, 1.2), random(seed)) for seed in range(60)}
    assert found == {2, 3, 4, 5}
    assert all(isinstance(value, int) for value in found)


@pytest.mark.parametrize(
    ("change", "low", "high", "middle"),
    [("scale", 1e-4, 1e-2, 1e-3), ("horizon", 0.9, 0.999, 0.99)],
)
def test_new_genes_are_uniform_in_their_logarithm(change: str, low: float, high: float, middle: float) -> None:
    generator = random()
    drawn = np.array([first_gene(change, low, high, generator) for _ in range(4000)])  # type: ignore[arg-type]
    assert low <= drawn.min()
    assert drawn.max() <= high
    assert np.mean(drawn < middle) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))
    quarter = low * (high / low) ** 0.25 if change == "scale" else 1.0 - (1.0 - low) * ((1 - high) / (1 - low)) ** 0.25
    assert np.mean(drawn < quarter) == pytest.approx(0.25, abs=4 * 0.43 / math.sqrt(4000))
