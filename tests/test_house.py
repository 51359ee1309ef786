"""Pages about the house name every room and every file beside them, and the picture has the linter's layers."""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("commands", "callbacks", "datamodules", "modules")

sys.path.append(str(ROOT / "benchmarks"))
import house  # noqa: E402 - a script beside the package


def table(page: str, header: str) -> set[str]:
    """Names between backticks in the first column of the table with this header."""
    text = (ROOT / page).read_text()
    rows = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


@pytest.mark.parametrize(
    ("page", "header"),
    [("docs/architecture.md", "Folder | Holds | Begin"), ("CONTRIBUTING.md", "Folder | Holds | May")],
)
def test_a_page_names_every_room_and_every_file_beside_the_rooms(page: str, header: str) -> None:
    named = table(page, header)
    rooms = {f"{path.parent.relative_to(ROOT)}/" for p in PACKAGES for path in (ROOT / p).glob("*/__init__.py")}
    beside = {str(path.relative_to(ROOT)) for path in (ROOT / "modules").glob("*.py") if path.name != "__init__.py"}
    missing = {x for x in rooms | beside if x not in named and x.rstrip("/") not in named}
    assert missing == set()
    gone = {name for name in named if "*" not in name and not (ROOT / name).exists()}
    assert gone == set()


def test_the_picture_has_the_layers_of_the_linter() -> None:
    data = (ROOT / "docs/figures/rooms.png").read_bytes()
    place, found = 8, ""
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        if kind == b"tEXt" and data[place + 8 :].startswith(b"Description\0"):
            found = data[place + 20 : place + 8 + size].decode()
        place += 12 + size
    assert json.loads(found) == house.layers_of(ROOT), "draw it again: python benchmarks/house.py --draw"


def test_no_two_files_are_imported_by_the_same_name() -> None:
    """Tests put these folders on one path, where the first file of a name hides the others."""
    names = [
        path.stem for folder in ("benchmarks", "docs/site", "tests/helpers") for path in (ROOT / folder).glob("*.py")
    ]
    names += [*PACKAGES, "reverie"]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
