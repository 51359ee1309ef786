"""Imports flow one way: the contracts are in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from importlinter.cli import lint_imports


def test_import_contracts(monkeypatch, capsys) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    status = lint_imports(no_cache=True)
    assert status == 0, capsys.readouterr().out
