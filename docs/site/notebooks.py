"""Notebooks of `docs/notebooks`: their cells run in a folder of their own, and what comes of it is a page.

`NOTEBOOK_SHARE` is read by the notebooks: the share of their updates that they make, by default all.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbformat import NotebookNode
from site_pages import PACKAGES, ROOT

FOLDER = ROOT / "docs/notebooks"
KEPT = ROOT / "build/notebooks"
SECONDS = 1800
"""Of one cell, at most: the longest trains for a minute or two on a core of its own."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def outcome(path: Path) -> NotebookNode:
    """A notebook with its outputs; it runs anew where it, the code, the libraries or the share of updates has changed.

    Raises:
        CellExecutionError: a cell raised; its code and traceback are in the message.
    """
    sources = [path, ROOT / "reverie.py", ROOT / "requirements.lock"]
    for package in (*PACKAGES, "configs"):
        sources += sorted(file for file in (ROOT / package).rglob("*") if file.suffix in {".py", ".yaml"})
    said = hashlib.sha256(os.environ.get("NOTEBOOK_SHARE", "1").encode())
    for file in sources:
        said.update(file.read_bytes())
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = KEPT / f"{path.stem}-{said.hexdigest()[:16]}.ipynb"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            nbformat.write(executed(path), aside := kept.with_suffix(".part"))
            aside.rename(kept)
    return nbformat.read(kept, as_version=4)


def executed(path: Path) -> NotebookNode:
    """A notebook with the outputs of its cells, which run in an empty folder that is gone afterwards.

    Raises:
        CellExecutionError: a cell raised; its code and traceback are in the message.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": folder}})
        places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "REVERIE_CACHE": f"{folder}/cache"})
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [_shown(output, folder) for output in cell.outputs if not _aside(output)]
    return notebook


def page(notebook: NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook that was executed, and its pictures by their names in the page's folder.

    Args:
        notebook: the notebook with its outputs.
        name: its name without the ending.
    """
    resources = {"unique_key": name, "output_files_dir": f"{name}_files"}
    markdown, made = MarkdownExporter().from_notebook_node(notebook, resources)
    download = f'<a href="{name}.ipynb" download>Download this notebook</a>: it runs where reverie is installed.\n'
    title, _, rest = markdown.lstrip().partition("\n")
    return f"{title}\n\n{download}{rest}", made["outputs"]


def _aside(output: NotebookNode) -> bool:
    """Whether an output is what programs say on the side while they work: progress, and libraries about themselves."""
    return bool(output.get("name") == "stderr")


def _shown(output: NotebookNode, folder: str) -> NotebookNode:
    """An output without colours of terminals and without the folder that it was made in; tables of text as text."""
    data: dict[str, Any] = output.get("data", {})
    if "<pre" in data.get("text/html", ""):
        del data["text/html"]
    for place, key in ((output, "text"), (data, "text/plain")):
        if key in place:
            place[key] = COLOURS.sub("", place[key]).replace(f"{folder}/", "")
    return output
