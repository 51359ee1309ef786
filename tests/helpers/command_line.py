"""The text that the command line prints, in this process."""

from __future__ import annotations

import pytest
import yaml

import reverie


def mistake(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message that a mistake gives; it must be one line on stderr with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        reverie.main(argv)
    printed = capsys.readouterr()
    assert leaving.value.code == 2
    assert printed.err.startswith("reverie: error: ")
    assert len(printed.err.splitlines()) == 1, printed.err
    return printed.err.removeprefix("reverie: error: ").strip()


def print_config(argv: list[str], capsys: pytest.CaptureFixture[str], command: str = "fit") -> dict:
    """The config that a command resolves these arguments to."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        reverie.main([command, *argv, "--print_config"])
    assert leaving.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)
