"""Tests that compile say so, for they have a time limit of their own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(TESTS.rglob("*.py")):
        yield path.relative_to(TESTS).as_posix(), ast.parse(path.read_text())


def compiles(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.compile" for node in ast.walk(function))


def test_tests_that_compile_are_marked() -> None:
    functions = [
        (f"{file}::{node.name}", node)
        for file, tree in trees()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and compiles(node)
    ]
    assert len(functions) > 10
    for name, function in functions:
        marks = {ast.unparse(decorator) for decorator in function.decorator_list}
        assert "pytest.mark.compile" in marks, f"{name} needs @pytest.mark.compile"
