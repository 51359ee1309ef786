"""Fuzzing finds what it looks for, and finds nothing in a few files of each kind; `make fuzz` reads many more."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import guarded as watch
from fuzz import fuzz
from guarded import Hang, guarded
from readers import CHECKS, converted, good


@pytest.mark.parametrize("name", CHECKS)
def test_files_that_were_changed_at_random_are_read_or_refused(name: str) -> None:
    fuzz(CHECKS[name], 3 if name == "config_tree" else 12, 0, None)


def asked_for_memory() -> None:
    bytearray(8 << 30)


def works_without_end() -> None:
    while True:
        pass


def said(text: str) -> Callable[[], object]:
    def read() -> None:
        raise ValueError(text)

    return read


def left(status: int) -> Callable[[], object]:
    def read() -> None:
        print("reverie: error: no", file=sys.stderr)
        sys.exit(status)

    return read


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda: [] + 1, TypeError),
        (lambda: time.sleep(5), Hang),
        (works_without_end, Hang),
        (asked_for_memory, MemoryError),
        (lambda: os.system("true"), AssertionError),
        (said("one\ntwo"), AssertionError),
        (said("cursor \x1b[2J"), AssertionError),
        (said("x" * 800), AssertionError),
        (said(""), AssertionError),
        (left(1), AssertionError),
    ],
    ids=["traceback", "waits", "works", "memory", "code", "two lines", "escape", "long", "silent", "status"],
)
def test_what_no_reader_may_do_is_seen(
    read: Callable[[], object], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SECONDS", 0.2)
    with pytest.raises(error):
        guarded(read, 1000)


def test_a_refusal_is_its_line() -> None:
    assert guarded(said("x.npz is damaged"), 10) == "x.npz is damaged"
    assert guarded(left(2), 10) == "reverie: error: no"
    assert guarded(left(0), 10) is None
    assert guarded(lambda: 3, 10) is None


@pytest.mark.parametrize("steps", [[4], "4", 4.5, None])
def test_steps_of_an_episode_that_are_no_number_are_refused(steps: object, tmp_path: Path) -> None:
    for name, content in good("arrow").items():
        path = tmp_path / "minari" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    file = tmp_path / "minari/data/0/metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"total_steps": steps}))
    assert "episode 0 cannot be read" in str(guarded(lambda: converted(tmp_path / "minari", tmp_path), 10_000))
