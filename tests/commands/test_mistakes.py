"""Mistakes are found by what a parser knows of its arguments, whatever words the parser has for them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from commands.config_files import ConfigFile
from commands.mistakes import find_mistake, flags_of


class Layer:
    def __init__(self, width: int, form: Literal["plain", "gated"] = "plain", inner: Layer | None = None) -> None: ...


@pytest.fixture
def parser() -> ArgumentParser:
    made = ArgumentParser()
    made.add_argument("--depth", type=int | list[float], default=1)
    made.add_argument("--rest.rate", type=float, default=1.0)
    made.add_argument("--name", type=str, default="x")
    made.add_subclass_arguments(Layer, "layer")
    return made


LAYER = f"{__name__}.Layer"


@pytest.mark.parametrize(
    ("argv", "text", "nearest"),
    [
        (["--dept", "3"], "unrecognized arguments: --dept 3", "--depth"),
        (["--rest.rat=3"], "unrecognized arguments: --rest.rat 3", "--rest.rate"),
        (["--depth", "three"], "depth: expected int or list. Got value: three", None),
        (["--depth", "[1, x]"], "depth[1]: expected float. Got value: x", None),
        (["--rest", "3"], "rest is given by its fields, not by '3'", None),
        (["--layer", LAYER, "--layer.widht", "3"], "layer: Option 'widht' is not accepted by Layer", "width"),
        (["--layer", LAYER, "--layer.form", "gatd"], "layer.form: expected one of 'plain', 'gated'", "gated"),
        (
            ["--layer", LAYER],
            "layer: Layer: the following arguments are required: width; give --layer.width VALUE",
            None,
        ),
        (["--layer", "no.where.Layer"], "layer: there is no class no.where.Layer: No module named 'no'", None),
        (["--layer", "pathlib.Path"], "layer: pathlib.Path is no class of the kind Layer", None),
        (
            ["--layer", f"{{class_path: {LAYER}, init_args: {{inner: {{class_path: {LAYER}, init_args: {{w: 1}}}}}}}}"],
            "layer.inner: Option 'w' is not accepted by Layer",
            None,
        ),
    ],
)
def test_the_mistake_on_a_command_line(argv: list[str], text: str, nearest: str | None, parser: ArgumentParser) -> None:
    said = " ".join(["are required: width" if "required" in text else "", *argv])
    found = find_mistake(parser, [], argv, [], said)
    assert found is not None
    assert found.text.startswith(text)
    assert found.nearest == nearest or nearest is None
    assert found.file is None
    assert find_mistake(parser, [], argv, [], "about something else") is None


def test_the_file_that_says_it_is_the_mistakes(parser: ArgumentParser) -> None:
    good = ConfigFile(Path("good.yaml"), "", {"depth": 3, "rest": {"rate": 2}})
    bad = ConfigFile(Path("bad.yaml"), "", {"layer": {"class_path": LAYER, "init_args": {"width": "wide"}}})
    found = find_mistake(parser, [good, bad, good], [], [], "wide")
    assert found is not None
    assert (found.text, found.file) == ("layer.width: expected int. Got value: wide", Path("bad.yaml"))


def test_arguments_without_a_class_ask_for_the_config_before_theirs(parser: ArgumentParser) -> None:
    on_top = ConfigFile(Path("top.yaml"), "", {"layer": {"init_args": {"width": 3}}})
    found = find_mistake(parser, [on_top], [], [], "Option 'width' is not accepted")
    assert found is not None
    assert found.text.startswith("layer: there are arguments, and no class that takes them")
    assert found.file == Path("top.yaml")
    task = ConfigFile(Path("task.yaml"), "", {"layer": {"class_path": LAYER, "init_args": {"width": 2}}})
    assert find_mistake(parser, [task, on_top], [], [], "Option 'width' is not accepted") is None


def test_what_is_right_is_no_mistake(parser: ArgumentParser) -> None:
    argv = ["--depth", "[1, 2.5]", "--depth=3", "--rest.rate", "1e-3", "--name", "3", "--layer", LAYER]
    argv += ["--layer.width=3", "--layer.init_args.form=gated", "--layer.inner=null"]
    parser.parse_args(argv)
    message = f"{' '.join(argv)} are required: "
    assert find_mistake(parser, [], argv, [], message) is None
    lacking = find_mistake(parser, [], argv, ["--other", "--depth"], message)
    assert lacking is not None
    assert lacking.text == "the following arguments are required: --other"


def test_flags_have_their_values_behind_them_or_none() -> None:
    argv = ["word", "--a", "1", "--b=2", "--c", "--d.e+", "x y"]
    assert list(flags_of(argv)) == [("a", "1"), ("b", "2"), ("c", None), ("d.e+", "x y")]
