"""Files, functions, constructors and docstrings keep the forms that CONTRIBUTING.md promises to readers."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHIPPED = ("modules", "datamodules", "callbacks", "commands", "reverie.py")
LONGEST_FILE, LONGEST_FUNCTION = 350, 60
LONGEST_SILENCE = 25
"""Lines of code that a function may have without a line of comment at any of its phases."""


@cache
def files(*names: str) -> tuple[Path, ...]:
    found = [[ROOT / name] if name.endswith(".py") else sorted((ROOT / name).rglob("*.py")) for name in names]
    return tuple(path for paths in found for path in paths)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(*names: str) -> Iterator[tuple[str, Path, ast.FunctionDef]]:
    """All functions below these folders, those within others too, with their place."""
    for path in files(*names):
        for node in statements(tree(path)):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", path, node


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those within simple statements and expressions, which are most, and hold no functions."""
    yield tree
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        below = getattr(tree, field, [])
        for node in below if isinstance(below, list) else []:
            yield from statements(node)


def length(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@cache
def comments(path: Path) -> frozenset[int]:
    """Numbers of the lines that are nothing but a comment that speaks to people."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    to_tools = ("# type:", "# noqa", "# fmt:")
    return frozenset(
        t.start[0]
        for t in tokens
        if t.type == tokenize.COMMENT and t.line.lstrip().startswith("#") and not t.string.startswith(to_tools)
    )


def test_no_file_and_no_function_is_too_long() -> None:
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in files(*SHIPPED, "tests")}
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE} == {}
    lengths = {where: length(node) for where, _, node in functions(*SHIPPED, "tests")}
    assert {where: count for where, count in lengths.items() if count > LONGEST_FUNCTION} == {}


def test_no_two_files_of_tests_have_one_name() -> None:
    """Pytest imports them by their base names, as their folders are no packages."""
    names = Counter(path.name for path in files("tests") if path.name != "conftest.py")
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_long_functions_have_a_line_of_comment() -> None:
    silent = {}
    for where, path, node in functions(*SHIPPED):
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        count = sum(map(length, body))
        if count > LONGEST_SILENCE and not comments(path) & {*range(node.lineno, node.lineno + length(node))}:
            silent[where] = count
    assert silent == {}


def test_constructors_assign_one_attribute_a_line() -> None:
    crowded = [
        f"{where}: line {statement.lineno}"
        for where, _, node in functions(*SHIPPED)
        if node.name == "__init__"
        for statement in ast.walk(node)
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Tuple)
        for target in statement.targets
        if isinstance(target, ast.Tuple) and any(isinstance(part, ast.Attribute) for part in target.elts)
    ]
    assert crowded == []


def test_no_docstring_opens_with_what() -> None:
    opened = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for path in files(*SHIPPED, "tests", "benchmarks")
        for node in statements(tree(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for text in [node.value.value.strip()]
        if text.startswith("What ")
    ]
    assert opened == []
