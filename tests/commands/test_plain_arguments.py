"""Every argument of every subcommand that takes a callable, or anything at all: no config makes it run a function."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonargparse import ArgumentError
from pytorch_lightning import Callback, LightningDataModule

import callbacks
from commands import collect, compare, doctor, evaluate, evolve, export, publish, reproduce, select, sweep, sync
from commands.class_names import arguments_of_class, walk_subclasses
from commands.function_command import run_function
from commands.jsonargparse_private import arguments_of
from commands.lightning import import_classes
from commands.lightning_cli import ReverieCLI
from commands.parsing import ReadableParser
from modules.agent.agent import Agent
from modules.trust.hints import made_by

NEEDED = {
    "collect": ["--environment=x", "--dataset=x"],
    "compare": ["--runs=[x]"],
    "doctor": [],
    "evaluate": ["--ckpt_path=x"],
    "evolve": ["--fit=x", "--genes.lr={low: 1e-5, high: 1e-3}"],
    "export": ["--ckpt_path=x", "--output=x"],
    "publish": [],
    "reproduce": [],
    "select": [],
    "sweep": ["--config=[x]", "--space=x"],
    "sync": [],
    **{key: ["--model=A2C", "--data=OnlineDataModule", "--data.environment=x"] for key in ("fit", "validate", "test")},
}
"""Arguments that each subcommand cannot be parsed without."""


class Caught(Exception):
    """Carries the parser out of the command that has made it."""


@functools.cache
def parser_of(command: str) -> ReadableParser:
    """The parser of a subcommand as the command itself makes it."""

    def caught(self: ReadableParser, *_: Any, **__: Any) -> None:
        raise Caught(self)

    functions: dict[str, Callable[..., None]] = {
        "collect": collect.collect, "compare": compare.compare, "doctor": doctor.doctor, "evaluate": evaluate.evaluate,
        "evolve": evolve.evolve, "export": export.export, "publish": publish.publish,
        "reproduce": reproduce.reproduce, "select": select.select, "sweep": sweep.sweep, "sync": sync.sync,
    }  # fmt: skip
    import_classes()
    start: Any = (run_function, functions[command]) if command in functions else (ReverieCLI, command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReadableParser, "parse_args", caught)
        with pytest.raises(Caught) as found:
            start[0](start[1], [])
    parser: ReadableParser = found.value.args[0]
    return parser if command in functions else parser.subcommands.choices[command]


def is_open(hint: Any) -> bool:
    """Whether a value with this hint may hold a callable, or anything at all."""
    return hint in (Any, object) or made_by(hint) is not None or any(map(is_open, get_args(hint)))


def open_arguments(parser: ReadableParser) -> dict[str, Any]:
    """Keys of a parser's arguments that are open, and their hints."""
    return {key: argument.hint for key, argument in arguments_of(parser).items() if is_open(argument.hint)}


def values(canary: Path) -> list[Any]:
    """Values that might be called: a function and a class, as the value itself and within lists and names."""
    hostile = {"class_path": "os.system", "init_args": {"command": f"touch {canary}"}}
    popen = {"class_path": "subprocess.Popen", "init_args": {"args": f"touch {canary}"}}
    text = json.dumps(hostile)
    return [hostile, [hostile], {"g": hostile}, {"g": [{"h": hostile}]}, {"g": text}, ["os.system"], {"g": popen}]


def check_refused(parser: ReadableParser, needed: list[str], flags: dict[str, Any], canary: Path, capsys: Any) -> None:
    """Each flag has `VALUE` where something hostile goes, and its hint; `needed` is what the parser wants besides.

    All values are tried with the first flag of a hint, which decides what is taken, and the first ones with each other.
    """
    for number, (flag, hint) in enumerate(flags.items()):
        said, tried = [], values(canary)
        if hint in [*flags.values()][:number]:
            tried = tried[:3]
        for value in tried:
            try:
                parsed = parser.parse_args([*needed, flag.replace("VALUE", json.dumps(value))])
            except (SystemExit, ArgumentError) as error:  # an inner parser raises, the command's own leaves
                said.append(f"{error} {capsys.readouterr().err}")
                continue
            assert "class_path" not in json.dumps(value), (flag, value)  # a name alone is a text
            parser.instantiate_classes(parsed)
        assert any("no class" in line for line in said), (flag, said)
        assert not canary.exists(), flag


EXPECTED = {
    "collect": {"environment_arguments", "wrappers"},
    "evaluate": {"environment_arguments", "wrappers"},
    **{
        key: set()
        for key in ("compare", "doctor", "evolve", "export", "publish", "reproduce", "select", "sweep", "sync")
    },
    **{key: {"evaluation.environment_arguments"} for key in ("fit", "validate", "test")},
}
"""Some of what is found."""


@pytest.mark.parametrize("command", EXPECTED)
def test_no_argument_of_a_command_runs_a_function(command: str, tmp_path: Path, capsys: Any) -> None:
    parser = parser_of(command)
    found = open_arguments(parser)
    assert set(found) >= EXPECTED[command]
    flags = {f"--{key}=VALUE": hint for key, hint in found.items()}
    check_refused(parser, NEEDED[command], flags, tmp_path / "canary", capsys)


def test_no_config_of_collect_runs_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = {"class_path": "os.system", "init_args": {"command": "touch canary"}}
    for given, said in (
        ({"wrappers": [hostile]}, "wrappers[0]: os.system is no class of the kind Env"),
        ({"environment_arguments": {"g": hostile}}, "environment_arguments.g takes plain values and no class"),
    ):
        Path("c.yaml").write_text(json.dumps(given))
        with pytest.raises(SystemExit):
            collect.main(["--config", "c.yaml", *NEEDED["collect"]])
        assert said in capsys.readouterr().err
    assert not Path("canary").exists()


@pytest.mark.parametrize("flag", ["--exploit=VALUE", "--genes.clip_norm=VALUE", "--explore=VALUE"])
def test_no_rule_or_gene_of_a_population_runs_a_function(flag: str, tmp_path: Path, capsys: Any) -> None:
    parser, said = parser_of("evolve"), []
    for value in values(tmp_path / "canary"):
        with pytest.raises((SystemExit, ArgumentError)) as error:
            parser.parse_args([*NEEDED["evolve"], flag.replace("VALUE", json.dumps(value))])
        said.append(f"{error.value} {capsys.readouterr().err}")
    assert flag.partition("=")[0].strip("-").partition(".")[0] in said[0]
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(("kind", "expected"), [
    (Agent, {"ATAC.trunk", "A2C.encoder", "R2D2.network"}),
    (LightningDataModule, {"OnlineDataModule.environment_arguments", "OfflineDataModule.wrappers"}),
    (Callback, {"Evaluation.environment_arguments"}),
])  # fmt: skip
def test_no_argument_of_a_class_runs_a_function(kind: type, expected: set[str], tmp_path: Path, capsys: Any) -> None:
    import_classes()
    for module in pkgutil.walk_packages(
        callbacks.__path__, "callbacks."
    ):  # whatever a config can name, imported or not
        importlib.import_module(module.name)
    parser = ReadableParser(prog="reverie class")
    parser.add_argument("--made", type=kind)
    found = {
        f"{cls.__name__}.{name}": (json.dumps({"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": {
            **{key: "x" for key in ("source", "environment") if key in arguments and key != name}, name: "HERE"}}),
            arguments[name].hint)
        for cls in sorted({*walk_subclasses(kind)}, key=str) if not inspect.isabstract(cls)
        for arguments in [arguments_of_class(cls)] for name in arguments if is_open(arguments[name].hint)
    }  # fmt: skip
    assert found.keys() >= expected
    flags = {"--made=" + value.replace('"HERE"', "VALUE"): hint for value, hint in found.values()}
    check_refused(parser, [], flags, tmp_path / "canary", capsys)
