"""Settings of a search: what they refuse, by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from jsonargparse import ArgumentParser

from modules.search.rules import PUCT, Gumbel
from modules.search.settings import SearchSettings

REFUSED: list[tuple[str, Callable[[], object]]] = [
    (r"search.simulations must be at least 1, got 0", lambda: SearchSettings(0)),
    (r"search.simulations must lie in \[1, 100000\]", lambda: SearchSettings(10**6)),
    (r"search.max_depth must be at least 1", lambda: SearchSettings(max_depth=0)),
    (r"search.pessimism must lie in", lambda: SearchSettings(pessimism=1e9)),
    (r"search.optimism must be float", lambda: SearchSettings(optimism="much")),  # type: ignore[arg-type]
    (r"search.rule.considered must be at least 1", lambda: Gumbel(considered=0)),
    (r"search.rule.value_scale must be positive", lambda: Gumbel(value_scale=0.0)),
    (r"search.rule.scale must lie in", lambda: Gumbel(scale=-1.0)),
    (r"search.rule.normalisation must be", lambda: PUCT(normalisation="none")),  # type: ignore[arg-type]
    (r"search.rule.dirichlet_alpha must be positive", lambda: PUCT(dirichlet_alpha=0.0)),
    (r"search.rule.dirichlet_share must lie in \[0, 1\]", lambda: PUCT(dirichlet_share=1.5)),
    (r"search.rule.temperature must lie in", lambda: PUCT(temperature=-1.0)),
]


@pytest.mark.parametrize(("words", "make"), REFUSED)
def test_what_no_search_can_use_is_refused(words: str, make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{simulations: 4}", Gumbel()),
        ("{simulations: 4, rule: {considered: 2}}", Gumbel(considered=2)),
        ("{simulations: 4, rule: {class_path: modules.search.rules.PUCT, init_args: {c1: 2.0}}}", PUCT(c1=2.0)),
    ],
)
def test_either_rule_can_be_written_in_yaml(text: str, rule: Gumbel | PUCT) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--search", type=SearchSettings, default=SearchSettings())
    assert parser.instantiate(parser.parse_args(["--search", text])).search == SearchSettings(4, rule=rule)


def test_a_path_has_no_more_edges_than_there_are_simulations() -> None:
    assert [SearchSettings(8, depth).levels for depth in (None, 3, 20)] == [8, 3, 8]
