"""The picture of a population: families and the panels."""

from __future__ import annotations

from pathlib import Path

from callbacks.population import numbered
from callbacks.population_figure import ancestors, draw_population


def test_a_family_is_all_that_descend_from_one_of_the_first_members() -> None:
    assert ancestors([[None, 0, None], [2, None, 1]], 3) == [[0, 1, 2], [0, 0, 2], [2, 0, 0]]


def test_genes_of_a_list_are_numbered() -> None:
    assert numbered({"lr": 0.5, "w": [1, 2.0]}) == {"genes/lr": 0.5, "genes/w/0": 1.0, "genes/w/1": 2.0}


def test_it_is_drawn_also_where_a_member_has_failed(tmp_path: Path) -> None:
    first = [{"lr": 0.1, "passes": 3}, {"lr": 0.001, "passes": 5}]
    history = [
        {"genes": first, "returns": [[1.0, 0.1, 5], [float("-inf"), 0.0, 0]], "ratings": [0.0, float("-inf")],
         "copied": [None, 0]},
        {"genes": [first[0], {"lr": 0.12, "passes": 2}], "returns": [[1.0, 0.1, 5]] * 2, "ratings": [-30.0, 30.0],
         "copied": [None, None]},
    ]  # fmt: skip
    draw_population(history, tmp_path / "x" / "p.png")
    with_ratings = (tmp_path / "x" / "p.png").stat().st_size
    draw_population([generation | {"ratings": None} for generation in history], tmp_path / "p.png")
    assert with_ratings > (tmp_path / "p.png").stat().st_size > 5_000  # a panel more
