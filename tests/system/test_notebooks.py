"""Notebooks of the documentation: they run as they stand, and are pages of the site with what comes of them."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))

sys.path.append(str(ROOT / "docs/site"))


def cells_of(path: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return cells


@pytest.fixture(scope="module")
def made() -> Any:
    """The module that runs notebooks; it needs libraries of the documentation alone."""
    return importlib.import_module("notebooks")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_is_reviewed_is_text_and_its_links_lead_to_files(path: Path) -> None:
    cells = cells_of(path)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"][0].startswith("# ")
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []


@pytest.mark.long
@pytest.mark.timeout(1500)  # a minute on a core of its own
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_cell_runs_and_holds_what_it_claims(path: Path, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBOOK_SHARE", "0.1")
    notebook = made.outcome(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    markdown, pictures = made.page(notebook, path.stem)
    assert len(pictures) >= 1
    assert all(picture.startswith(b"\x89PNG") and name in markdown for name, picture in pictures.items())
    assert "\x1b" not in markdown


@pytest.mark.long
def test_a_page_has_outputs_without_terminals_and_folders(made: Any, tmp_path: Path) -> None:
    source = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Title\n", "\n", "Text."]},
        *(
            {"cell_type": "code", "id": name, "metadata": {}, "source": [line], "outputs": [], "execution_count": None}
            for name, line in {
                "b": "import os, sys; print('said', os.getcwd() + '/runs'); print('aside', file=sys.stderr)",
                "c": "from rich.console import Console; Console(force_terminal=True).print('[red]table[/red]')",
            }.items()
        ),
    ]
    path = tmp_path / "small.ipynb"
    path.write_text(json.dumps({"cells": source, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    markdown, pictures = made.page(made.executed(path), "small")
    assert pictures == {}
    assert markdown.startswith('# Title\n\n<a href="small.ipynb" download>Download')
    assert "    said runs\n" in markdown
    assert "    table\n" in markdown
    assert "aside" not in markdown.replace("print('aside'", "")


@pytest.mark.long
def test_a_cell_that_raises_is_an_error(made: Any, tmp_path: Path) -> None:
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": ["assert 1 > 2"], "outputs": []}
    path = tmp_path / "wrong.ipynb"
    notebook = {"cells": [cell | {"execution_count": None}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook))
    with pytest.raises(Exception, match="assert 1 > 2"):
        made.executed(path)
