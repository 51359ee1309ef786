"""The schedule of sequential halving, and that its whole budget is spent."""

from __future__ import annotations

import pytest

from modules.search.halving import considered_visits


def test_known_rows() -> None:
    table = considered_visits(4, 8)
    assert table[0] == table[1] == tuple(range(9))
    assert table[2] == (0, 0, 1, 1, 2, 2, 3, 3, 4)
    assert table[4] == (0, 0, 0, 0, 1, 1, 2, 2, 3)


@pytest.mark.parametrize("considered", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("simulations", [1, 4, 50])
def test_every_simulation_finds_a_slot(considered: int, simulations: int) -> None:
    visits = [0] * considered
    for wanted in considered_visits(16, simulations)[considered][:simulations]:
        visits[visits.index(wanted)] += 1
    assert sum(visits) == simulations
