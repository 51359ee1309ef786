"""Pictures of figures, which are whole or absent under their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from callbacks.files.written_aside import written_aside


def save_picture(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure of matplotlib's as PNG, and make its folder.

    Args:
        figure: the figure.
        path: path of the file.
        dpi: dots per inch.

    Raises:
        OSError: the disk is full; it names the file.
    """
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=dpi, format="png")  # whose name has another ending
