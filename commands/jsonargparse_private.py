"""Everything private of jsonargparse that this project uses, with the reason; no other file names any of it.

tests/commands/test_jsonargparse_private.py fails where an upgrade of jsonargparse changes what it relies on.
"""

from __future__ import annotations

import argparse
import math
import re
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, _typehints


class Argument(NamedTuple):
    """An argument of a parser: the hint that its values are checked by, and the value where nobody gives one."""

    hint: Any
    default: Any
    help: str = ""
    """The words of its docstring."""


def arguments_of(parser: ArgumentParser) -> dict[str, Argument]:
    """All arguments of a parser that have a hint, by their keys with dots between, `trainer.callbacks`.

    Nothing public lists them: the signatures of classes say less, as a parser adds those of bases and of groups.
    """
    return {
        action.dest: Argument(action._typehint, action.default, action.help or "")
        for action in parser._actions
        if hasattr(action, "_typehint") and not action.dest.endswith(".help")
    }


def required_keys(parser: ArgumentParser) -> list[str]:
    """Keys of the arguments that a parser cannot do without, as a person gives them: `--model`, or `source`.

    Single ones say so themselves; of those that take a class, only the parser knows.
    """
    own = [f"{'--' if a.option_strings else ''}{a.dest}" for a in parser._actions if a.required]
    return own + [f"--{key}" for key in sorted(parser._extra_required_keys)]


def option_names(parser: ArgumentParser) -> set[str]:
    """Keys of all arguments that are given as options, also of those without a hint, such as `config`."""
    return {action.dest for action in parser._actions if action.option_strings}


def let_flags_stand_alone(parser: ArgumentParser) -> None:
    """Let `--flag` alone mean `--flag true`, for all booleans that were added to a parser by signature.

    What is added by signature takes no settings of single arguments.
    """
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:
            action.nargs = "?"
            action.const = True


class KeepsDefaults(ArgumentParser):
    """A parser that works out its defaults once, as long as its arguments and what they are given stay the same.

    Parsers of classes are kept by jsonargparse, and asked for their defaults again at every value within the class:
    a third of the time of parsing. Only the private list of arguments tells whether one has changed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._made_of: list[Any] = []
        self._known: dict[bool, Namespace] = {}
        super().__init__(*args, **kwargs)

    def get_defaults(self, skip_validation: bool = False, **kwargs: Any) -> Namespace:
        """The defaults of all arguments, whose branches are the caller's own; checked ones are kept apart."""
        made_of = [part for action in self._actions for part in (action, action.default)]
        if [*map(id, self._made_of)] != [*map(id, made_of)]:
            self._made_of, self._known = made_of, {}
        if skip_validation not in self._known:
            self._known[skip_validation] = super().get_defaults(skip_validation=skip_validation, **kwargs)
        return self._known[skip_validation].clone()


class HelpOfClasses(DefaultHelpFormatter):
    """Help that lists, of the known subclasses of an argument, those that `offered` leaves.

    argparse documents its formatters by name alone; jsonargparse writes the list into the text about the argument,
    which comes together in one private method.
    """

    def _expand_help(self, action: argparse.Action) -> str:
        hint = getattr(action, "_typehint", None)

        def listed(found: re.Match[str]) -> str:
            kept = self.offered(found[1].split(", "), hint)
            return f", known subclasses: {', '.join(kept)}" if kept else ""

        return re.sub(r",? known subclasses: ([\w.]+(?:, [\w.]+)*)", listed, super()._expand_help(action))

    def offered(self, paths: list[str], hint: Any) -> list[str]:
        """The import paths that are listed, of all that are known for an argument with this hint."""
        return paths


_adapt_class_type = _typehints.adapt_class_type


def _with_text_of_yaml(value: Any, *others: Any, **options: Any) -> Any:
    """Give a class its arguments, `_adapt_class_type`, of which one that has a dot in its name is written as YAML.

    A value within an argument of a class, `--model.critic.value_range null`, is read, and handed as text to the parser
    of that class, which reads it again: Python's text of it, `None`, would come back as a word.
    """
    inner = getattr(value, "init_args", None)
    if isinstance(inner, _typehints.NestedArg) and not isinstance(inner.val, str):
        written = yaml.safe_dump([inner.val], default_flow_style=True, width=math.inf)
        value.init_args = inner._replace(val=written.strip()[1:-1])
    return _adapt_class_type(value, *others, **options)


_typehints.adapt_class_type = _with_text_of_yaml


def main_words(message: str) -> str:
    """An error of jsonargparse in one line: keys, and what is wrong with the value; no lists of types, no echoes.

    An error of a type among several is kept as prose alone, in lines that tell the others too. Mistakes that can be
    found without it are told by `commands.mistakes`.
    """
    text = message
    if "Errors:" in text:  # a value is none of several types
        head, _, errors = text.partition("Errors:")
        kinds = re.split(r"^\s*- ", errors.partition("Given value type:")[0], flags=re.MULTILINE)
        told = [kind.strip() for kind in kinds if kind.strip() and not kind.strip().startswith(BESIDE_THE_POINT)]
        head = head.partition("Does not validate")[0].partition("Problem with given")[0]
        text = f"{head} {' or '.join(dict.fromkeys(told))}"
    text = text.partition(". Got value: Namespace(")[0]
    text = re.sub(r"Parser key \"([\w.]+)\":", r"\1:", text)
    text = re.sub(r"Problem with given class_path '(?:\w+\.)*(\w+)':", r"\1:", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    return " ".join(text.split())


BESIDE_THE_POINT = ("Expected a <class 'NoneType'>", "a class path", "a dict with", "...", "Not a valid subclass")
"""Beginnings of lines about types that a value was never meant to be of."""
