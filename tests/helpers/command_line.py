"""The text that the command line prints, in this process."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

import reverie
from modules.agent.agent import Agent


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


def trained(config: str, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[Agent, str]:
    """Train below the working directory, four epochs and without a warning.

    Returns:
        The last agent, and what an evaluation of it over three episodes prints.
    """
    reverie.main(["fit", "--config", config, *arguments])
    assert "reverie: warning" not in capsys.readouterr().err
    (run,) = Path("runs", config.replace("/", "-")).iterdir()
    with (run / "evaluation.csv").open() as file:
        assert [row["kind"] for row in csv.DictReader(file)].count("curve") == 4
    last = run / "checkpoints/last.ckpt"
    reverie.main(["evaluate", "--ckpt_path", str(last), "--episodes", "3"])
    return Agent.from_checkpoint(last), capsys.readouterr().out


def refused(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """See that a fit is refused by one line, before anything is played or kept below the working directory."""
    with pytest.raises(SystemExit):
        reverie.main(["fit", *arguments])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if message in line]
    assert line.startswith("reverie: ")
    assert not [*Path.cwd().glob("**/*.ckpt"), *Path.cwd().glob("**/evaluation.csv")]
