"""Tests use public names; those that compile say so, for they have a time limit of their own."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent


PUBLIC = {"_replace", "_asdict", "_fields", "_exit", "_dynamo"}
"""Private in form alone: of named tuples, of `os`, and the name under which torch keeps its compiler's settings."""

ALLOWED = {
    ("callbacks/mlflow/test_mlflow_page.py", "_engine_map"): "MLflow keeps stores open; a new process would have none",
    ("callbacks/mlflow/test_mlflow_page.py", "_get_store_with_resolved_uri"): "the same",
    (
        "commands/test_evaluate_command.py",
        "_io",
    ): "where imageio looks for ffmpeg: a machine without one is not at hand",
    ("datamodules/replay/test_torchrl_parts.py", "_mutation_revision"): "what a private name of TorchRL's counts up",
    ("datamodules/test_online.py", "_collecting"): "how many steps this rank took, of which only the sum is shown",
    ("datamodules/test_synthetic.py", "_statistics"): "the scale of targets, whose units nobody else needs",
    ("modules/arguments/test_changed.py", "_non_persistent_buffers_set"): "files of earlier versions held more",
    ("helpers/resumed_agents.py", "_set_learning_rate"): "what starts with a trainer, without one",
    ("modules/algorithms/test_dreamer.py", "_model_losses"): "which loss reaches which weights, before they are summed",
    ("modules/algorithms/test_dreamer.py", "_reward"): "actor and critic are trained on it without the world model",
    ("modules/algorithms/test_dreamer.py", "_discount"): "the same",
    ("modules/world_model/test_actor_critic.py", "_scale"): "a divisor of returns that no metric shows",
}
"""File and name, and why no public one would do."""


@cache
def trees() -> list[tuple[str, ast.Module]]:
    return [(path.relative_to(TESTS).as_posix(), ast.parse(path.read_text())) for path in sorted(TESTS.rglob("*.py"))]


def private_names(tree: ast.Module) -> set[str]:
    """Attributes with a leading underscore of what is not the class's own."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not own and node.attr not in PUBLIC:
                found.add(node.attr)
    return found


def test_tests_reach_for_no_private_name_but_those_with_a_reason() -> None:
    found = {(file, name) for file, tree in trees() for name in private_names(tree)}
    assert not found - ALLOWED.keys(), "use a public name, or give the reason in ALLOWED"
    assert not ALLOWED.keys() - found, "no test needs it any more"


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
