"""Targets of mutation testing: files, functions and tests that are there, by the names that they have now."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator
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


def functions_that_step(tree: ast.Module) -> Iterator[str]:
    """Functions and methods, these with their class, that call `descend`, `descend_clipped` or `descend_parts`."""
    within = [("", node) for node in tree.body]
    within += [
        (f"{group.name}.", node) for group in tree.body if isinstance(group, ast.ClassDef) for node in group.body
    ]
    for prefix, function in within:
        if isinstance(function, ast.FunctionDef):
            called = {node.func.id for node in ast.walk(function) if isinstance(node, ast.Call)
                      and isinstance(node.func, ast.Name)}  # fmt: skip
            if called & {"descend", "descend_clipped", "descend_parts"}:
                yield prefix + function.name


def test_every_formula_and_every_loss_that_an_optimiser_descends_is_a_target(defined: dict[str, Any]) -> None:
    targets = {target.file: target.functions for target in defined["TARGETS"].values()}
    found = set()
    for path in sorted((ROOT / "modules").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        if path.parent.name == "functional" and path.stem != "__init__":
            assert targets[file] == (), file
        for function in functions_that_step(ast.parse(path.read_text())):
            assert function in targets[file], f"{file}: {function}"
            found.add(file)
    assert len(found) >= 6


def test_what_the_tests_of_targets_import_is_in_the_copy_that_is_changed(
    defined: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    parts = runpy.run_path(str(ROOT / "benchmarks" / "mutate.py"))["PARTS"]
    found = set()
    for test in {test.partition("::")[0] for target in defined["TARGETS"].values() for test in target.tests}:
        for node in ast.walk(ast.parse((ROOT / test).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and (ROOT / node.module.partition(".")[0]).is_dir():
                found.add(node.module.partition(".")[0])
    assert "benchmarks" in found
    assert found <= set(parts)


@pytest.mark.parametrize("function", ["MoERegression.update", "learn", "Gone.learn"])
def test_a_function_that_is_not_there_is_named(function: str, defined: dict[str, Any]) -> None:
    file = "modules/algorithms/moe_regression.py"
    target = defined["Target"](file, (), ("MoERegression.learn", function))
    with pytest.raises(ValueError, match=f"{file} has no function {function}$"):
        defined["check_functions"](target)
