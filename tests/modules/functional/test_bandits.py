from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from modules.functional.bandits import successive_halving, upper_confidence_bound

MEANS = [1.0, 5.0, 2.0, 8.0, 3.0]


def noisy(sd: float, seed: int = 0):
    """Arms with known means; episode `e` has the same noise whichever arm it is."""
    noise = np.random.default_rng(seed).normal(0.0, sd, 1000)
    return lambda arm, episode: MEANS[arm] + noise[episode]


def test_halving_gives_each_round_its_share_and_spends_all() -> None:
    spent = successive_halving(noisy(0.0), [0, 1, 2, 3, 4], 30)
    # By hand: three rounds of ten episodes, of five, three and two arms.
    assert Counter(s.arm for s in spent[:10]) == {0: 2, 1: 2, 2: 2, 3: 2, 4: 2}
    assert Counter(s.arm for s in spent[10:20]) == {3: 4, 1: 3, 4: 3}
    assert Counter(s.arm for s in spent[20:]) == {3: 5, 1: 5}
    assert (spent[-1].leader, spent[-1].mean) == (3, 8.0)


def test_the_leader_is_known_from_the_first_episode_on() -> None:
    spent = successive_halving(noisy(0.0), [2, 0, 4, 1, 3], 30)
    assert [s.leader for s in spent[:5]] == [2, 2, 4, 1, 3]
    assert [s.mean for s in spent[:5]] == [2.0, 2.0, 3.0, 5.0, 8.0]


def test_means_are_over_all_rounds() -> None:
    scores = {(0, 0): 10.0, (1, 0): 9.0, (0, 1): 0.0, (1, 1): 9.0}
    spent = successive_halving(lambda arm, episode: scores[arm, episode], [0, 1], 4)
    assert [s.arm for s in spent] == [0, 1, 0, 1]
    assert [(s.leader, s.mean) for s in spent] == [(0, 10.0), (0, 10.0), (1, 9.0), (1, 9.0)]


@pytest.mark.parametrize("spend", [successive_halving, upper_confidence_bound])
def test_the_most_promising_arms_take_part_where_not_all_can(spend) -> None:
    few = spend(noisy(0.0), [4, 2, 0, 3, 1], 2)
    assert {s.arm for s in few} == {4, 2}
    assert few[-1].leader == 4
    assert [s.arm for s in spend(noisy(0.0), [2, 3], 1)] == [2]
    assert [s.arm for s in spend(noisy(0.0), [2], 3)] == [2, 2, 2]


@pytest.mark.parametrize("spend", [successive_halving, upper_confidence_bound])
def test_equal_scores_leave_the_order(spend) -> None:
    spent = spend(lambda arm, episode: 1.0, [3, 1, 2], 12)
    assert {s.leader for s in spent} == {3}
    assert len(spent) == 12


def test_the_bound_is_that_of_ucb1_in_units_of_the_range() -> None:
    spent = upper_confidence_bound(noisy(0.0), [0, 1, 2, 3, 4], 6)
    assert [s.arm for s in spent[:5]] == [0, 1, 2, 3, 4]
    # Equal counts: the highest mean. From then on by hand, range 7.
    assert spent[5].arm == 3
    seventh = upper_confidence_bound(noisy(0.0), [0, 1, 2, 3, 4], 7)[6].arm
    bounds = [m + 7.0 * np.sqrt(2.0 * np.log(6) / (2 if i == 3 else 1)) for i, m in enumerate(MEANS)]
    assert seventh == int(np.argmax(bounds))


@pytest.mark.parametrize("spend", [successive_halving, upper_confidence_bound])
def test_most_episodes_go_to_the_best_arm_and_it_is_found(spend) -> None:
    found = []
    for seed in range(20):
        spent = spend(noisy(1.0, seed), [0, 1, 2, 3, 4], 100)
        counts = Counter(s.arm for s in spent)
        assert len(spent) == 100
        assert counts[3] >= max(counts.values()) - 1  # rounds need not divide
        found.append(spent[-1].leader)
    assert set(found) == {3}
