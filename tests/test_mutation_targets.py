"""Targets of mutation testing: files, functions and tests that are there, by the names that they have now."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def defined() -> dict[str, Any]:
    """The names of `benchmarks/mutation_targets.py`, which no package holds."""
    return runpy.run_path(str(ROOT / "benchmarks" / "mutation_targets.py"))


def test_every_target_names_what_is_there(defined: dict[str, Any]) -> None:
    for target in defined["TARGETS"].values():
        defined["check_functions"](target)
        for test in target.tests:
            file, _, function = test.partition("::")
            assert f"def {function or 'test_'}" in (ROOT / file).read_text(), test


@pytest.mark.parametrize("function", ["MoERegression.update", "learn", "Gone.learn"])
def test_a_function_that_is_not_there_is_named(function: str, defined: dict[str, Any]) -> None:
    file = "modules/algorithms/moe_regression.py"
    target = defined["Target"](file, (), ("MoERegression.learn", function))
    with pytest.raises(ValueError, match=f"{file} has no function {function}$"):
        defined["check_functions"](target)
