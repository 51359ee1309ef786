"""A C++ compiler that is missing or does not work is told in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.compiler import compiler_name, why_no_compiler


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (None, "there is no {name}"),
        ("exit 0", None),
        (
            "echo one; echo 'x: fatal error: omp.h: No such file' >&2; exit 1",
            "{name}: x: fatal error: omp.h: No such file",
        ),
        ("exit 1", "{name}: it fails"),
    ],
)
def test_the_reason_is_a_line(
    script: str | None, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path / "compiler"
    monkeypatch.setenv("CXX", str(name))
    if script is not None:
        name.write_text(f"#!/bin/sh\n{script}\n")
        name.chmod(0o755)
    assert why_no_compiler() == (told and told.format(name=name))


def test_a_file_that_is_no_program_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = tmp_path / "compiler"
    name.write_bytes(b"\x00\x01")
    name.chmod(0o755)
    monkeypatch.setenv("CXX", str(name))
    assert str(why_no_compiler()).startswith(f"{name} does not run: ")


def test_without_a_choice_it_is_that_of_gnu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert compiler_name() == "g++"
