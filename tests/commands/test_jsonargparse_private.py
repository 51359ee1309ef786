"""The private parts of jsonargparse that this project uses do what it relies on; an upgrade may change it and fail."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from commands.jsonargparse_private import (
    Argument,
    HelpOfClasses,
    KeepsDefaults,
    arguments_of,
    let_flags_stand_alone,
    main_words,
    option_names,
    required_keys,
)


class Layer:
    def __init__(self, width: int) -> None:
        if width < 0:
            raise ValueError("width must be positive")


@dataclass
class Clip:
    """A limit.

    Args:
        norm: largest norm.
    """

    norm: float = 1.0


@dataclass
class Bound:
    high: float | None = 1.0


class Bounded:
    def __init__(self, bound: Bound = Bound()) -> None:  # noqa: B008
        """Take a group of arguments."""


def make(layers: Layer | Iterable[Layer] | bool | None, name: str, clip: Clip = Clip(), fast: bool = False) -> None:  # noqa: B008
    """Take arguments of all kinds."""


@pytest.fixture
def parser() -> ArgumentParser:
    made = ArgumentParser(exit_on_error=False, formatter_class=HelpOfClasses)
    made.add_argument("--config", action="config")
    made.add_function_arguments(make, as_positional=False)
    made.add_subclass_arguments(Layer, "last", required=True)
    return made


def test_arguments_are_listed_with_their_hints_and_defaults(parser: ArgumentParser) -> None:
    found = arguments_of(parser)
    assert found.keys() == {"layers", "name", "clip.norm", "fast", "last"}
    assert found["clip.norm"] == Argument(float, 1.0, "largest norm.")
    assert found["layers"].hint == Layer | Iterable[Layer] | bool | None
    assert option_names(parser) >= {*found, "config"}


def test_what_is_required_is_known_of_values_and_of_classes(parser: ArgumentParser) -> None:
    assert required_keys(parser) == ["--layers", "--name", "--last"]
    alone = ArgumentParser()
    alone.add_function_arguments(make, as_positional=True)
    assert required_keys(alone) == ["layers", "name"]


def test_a_boolean_flag_stands_alone(parser: ArgumentParser) -> None:
    needed = ["--name=x", "--layers=false", "--last=Layer", "--last.width=3"]
    with pytest.raises(ArgumentError, match="expected one argument"):
        parser.parse_args([*needed, "--fast"])
    let_flags_stand_alone(parser)
    assert parser.parse_args([*needed, "--fast"]).fast is True
    assert parser.parse_args([*needed, "--fast=false"]).fast is False


def test_a_value_within_a_group_of_a_class_is_handed_on_as_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Bounded, "last")
    for text, value in (("null", None), (".inf", math.inf), ("1e-5", 1e-5), ("2", 2.0)):
        assert parser.parse_args(["--last=Bounded", f"--last.bound.high={text}"]).last.init_args.bound.high == value


def test_the_subclasses_that_help_lists_can_be_chosen(parser: ArgumentParser) -> None:
    class Wide(Layer):
        """Has a path that cannot be imported, and is not listed."""

    seen: list[list[str]] = []

    class Chosen(HelpOfClasses):
        def offered(self, paths: list[str], hint: Any) -> list[str]:
            seen.append(paths)
            return []

    assert f"known subclasses: {__name__}.Layer" in " ".join(parser.format_help().split())
    parser.formatter_class = Chosen
    assert "known subclasses" not in parser.format_help()
    assert [f"{__name__}.Layer"] in seen
    assert issubclass(Chosen, argparse.HelpFormatter)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--name=x", "--layers=Layer", "--layers.width=a"], "layers: Layer: width: Expected a int. Got value: a"),
        (["--name=x", "--layers=Lair"], "layers: Expected a dot import path string: Lair"),
        (["--name=x", "--layers=7.5"], "layers: Unexpected import path format: 7.5"),
        (["--name=x", "--layers=false", "--last.width=a"], "last: "),
        (["--name=x", "--clip.norm=a"], "clip.norm: Expected a float. Got value: a"),
    ],
)
def test_the_main_words_of_real_errors_are_one_line(argv: list[str], said: str, parser: ArgumentParser) -> None:
    with pytest.raises(ArgumentError) as raised:
        parser.parse_args(["--last=Layer", "--last.width=1", *argv])
    words = main_words(str(raised.value))
    assert words.startswith(said)
    assert "NoneType" not in words
    assert "Subtypes" not in words
    assert "\n" not in words


def test_the_main_words_of_a_constructor_among_several_types_are_kept(parser: ArgumentParser) -> None:
    parsed = parser.parse_args(["--name=x", "--layers=Layer", "--layers.width=-1", "--last=Layer", "--last.width=1"])
    with pytest.raises(ValueError, match="width must be positive") as raised:
        parser.instantiate_classes(parsed)
    assert "width must be positive" in main_words(str(raised.value))


def test_defaults_are_worked_out_once_while_the_arguments_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    plain = ArgumentParser.get_defaults
    monkeypatch.setattr(ArgumentParser, "get_defaults", lambda self, **named: asked.append(1) or plain(self, **named))
    made = KeepsDefaults(exit_on_error=False)
    made.add_class_arguments(Bounded, "bounded")
    first = made.get_defaults()
    assert first == plain(made)
    first.bounded.bound.high = 3.0  # the caller's own
    assert made.get_defaults() == plain(made)
    assert len(asked) == 1
    # Another argument, and another default of one.
    made.add_argument("--width", type=int, default=2)
    assert made.get_defaults().width == 2
    made.set_defaults(width=5)
    assert made.get_defaults().width == made.get_default("width") == 5
    assert len(asked) == 3
