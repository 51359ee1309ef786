"""Argument parsing that all subcommands share: configs found by name, and mistakes told in one line."""

from __future__ import annotations

import difflib
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml
from jsonargparse import ActionConfigFile, Namespace
from jsonargparse.typing import register_type

from commands.class_kinds import check_kinds
from commands.class_names import nearest_name
from commands.config_files import ConfigError, ConfigFile, yaml_words
from commands.help_text import ReadableHelp
from commands.jsonargparse_private import KeepsDefaults, let_flags_stand_alone, main_words, required_keys
from commands.messages import shorten
from commands.mistakes import find_mistake
from commands.precedence import dropped_arguments, in_order
from modules.trust.beside import find_named
from modules.trust.names import OWN
from modules.trust.options import option


def _number(value: object) -> float:
    """A number as YAML has it.

    Raises:
        TypeError: it is none.
    """
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return value  # type: ignore[return-value]  # an int stays one


# The hints of Gymnasium's wrappers, such as RescaleAction: plain numbers are of these kinds, too, and stay plain.
for _kind in (np.floating, np.integer):
    register_type(_kind, _number, _number, type_check=lambda value, _: type(value) in (int, float))


CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def config_names() -> list[str]:
    """Names of the packaged configs, such as `atac/pendulum`."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """The file that `--config name` means: a file of that name, or a packaged config.

    Raises:
        ValueError: there is no such file and no such packaged config.
    """
    packaged = CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    for path in (Path(name), Path(f"{name}.yaml"), packaged):
        if path.is_file():
            return path
    if Path(name).exists():
        kind = "a folder" if Path(name).is_dir() else "none"
        raise ValueError(f"{option('config')} needs a file, and {name} is {kind}")
    names = config_names()
    close = difflib.get_close_matches(name.removesuffix(".yaml"), names, n=3, cutoff=0.6)
    hint = f"close: {', '.join(close)}" if close else f"packaged: {', '.join(names) or 'none'}"
    raise ValueError(f"there is no file and no packaged config '{name}'; {hint}")


def read_badly(error: BaseException | None) -> bool:
    """Whether a text could not be read at all, whatever the parser expects in it."""
    while error is not None and not isinstance(error, ConfigError | yaml.YAMLError):
        error = error.__cause__ or error.__context__
    return error is not None


def own_words(error: BaseException) -> str | None:
    """The message of the innermost `ValueError` that our own code has raised; None where there is none."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    for found in reversed(chain):
        frames = [frame for frame, _ in traceback.walk_tb(found.__traceback__)]
        package = str(frames[-1].f_globals.get("__name__")).partition(".")[0] if frames else ""
        if isinstance(found, ValueError) and package in (*OWN, "commands"):
            return str(found)
    return None


class NamedConfig(ActionConfigFile):
    """`--config`: a YAML file, or a packaged config by its name from any folder; several merge, the later wins."""

    @staticmethod
    def apply_config(parser: Any, cfg: Namespace, dest: str, value: str) -> None:
        """Merge one config into what was parsed so far."""
        path = None
        try:
            path = find_config(value)
            config = ConfigFile.read(path)
            find_named(config.text)
            parser.config_files.append(config)
            parser.config_names.append(value)
            ActionConfigFile.apply_config(parser, cfg, dest, str(path))
        except (TypeError, ValueError, KeyError, yaml.YAMLError) as error:
            text = yaml_words(error) if isinstance(error, yaml.YAMLError) else str(error)
            parser.error(f"{path}: {text}" if read_badly(error) and str(path) not in text else text, error)


class ReadableParser(KeepsDefaults):
    """An ArgumentParser whose errors are one line: what is wrong, in which file, and the nearest valid name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # an abbreviation would hide a typo such as `--trainer.max_epoch`
        kwargs.setdefault(
            "epilog", "--trust PACKAGE.MODULE: files may name classes and environments of it; repeatable."
        )
        kwargs.setdefault("formatter_class", ReadableHelp)
        super().__init__(*args, **kwargs)
        self.config_files: list[ConfigFile] = []
        self.config_names: list[str] = []
        self.given: list[str] = []
        self.needed: list[str] = []
        self.subcommands: Any = None
        self.is_subcommand = False

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Add subcommands, whose parsers are the `choices` of what is returned and kept."""
        self.subcommands = super().add_subcommands(*args, **kwargs)
        return self.subcommands

    def add_config_argument(self) -> None:
        """Add `--config`, repeatable, with packaged names."""
        self.add_argument(
            "-c", "--config", action=NamedConfig, help="YAML file or name of a packaged config; several merge."
        )

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument; `--config` finds packaged names whoever adds it."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = NamedConfig
        return super().add_argument(*args, **kwargs)

    def parse_args(  # type: ignore[override]  # argparse has overloads for namespaces of other kinds
        self, args: Sequence[str] | None = None, *others: Any, **options: Any
    ) -> Namespace:
        """Parse; flags win over configs wherever they stand, and what a change of class drops is said."""
        self.given = list(sys.argv[1:] if args is None else args)
        chosen = () if self.subcommands is None else self.subcommands.choices.values()
        for parser in (self, *chosen):
            parser.needed = parser.needed or required_keys(parser)  # while it parses, none of them says so
            parser.is_subcommand = parser.is_subcommand or parser is not self
        if self.subcommands is not None:
            # That of the subcommand adds the defaults; adding them to its result again would check all classes again.
            return super().parse_args(args, *others, **options | {"defaults": False})
        if args is None:
            return super().parse_args(args, *others, **options)
        if self.is_subcommand:
            options["defaults"] = True
        result = super().parse_args(in_order(args), *others, **options)
        try:
            check_kinds(self, result)
        except ValueError as error:
            self.error(str(error), error)
        for message in dropped_arguments(self.config_files, args, result):
            warnings.warn(shorten(message), stacklevel=1)
        return result

    def add_function_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add an argument for each parameter of a function; `--flag` alone means `--flag true`."""
        kwargs.pop("linked_targets", None)  # given for a function in a class's place, which `check_kinds` refuses
        added: list[str] = super().add_function_arguments(*args, **kwargs)
        let_flags_stand_alone(self)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with status 2; a parser inside another one raises instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"reverie: error: {self.explain(message, ex)}", file=sys.stderr)
        sys.exit(2)

    def explain(self, message: str, ex: Exception | None) -> str:
        """One line about the mistake that a message is about: what is wrong, the nearest valid name, and the file."""
        # The parser that knows the arguments: that of the subcommand.
        parser, given = self, self.given
        if self.subcommands is not None:
            known = self.subcommands.choices
            chosen = next((word for word in given if not word.startswith("-")), None)
            if chosen is not None and chosen not in known:
                nearest = nearest_name(chosen, known)
                hint = f"did you mean '{nearest}'?" if nearest else f"known: {', '.join(known)}"
                return f"there is no subcommand '{shorten(chosen, 80)}'; {hint}"
            if chosen is not None:
                parser, given = known[chosen], given[given.index(chosen) + 1 :]
        # A text that could not be read says so itself; errors of our own code have their words.
        if read_badly(ex):
            return shorten(main_words(message))
        own = None if ex is None else own_words(ex)
        if own is not None:
            return shorten(own)
        # All others are looked for in what was given.
        mistake = find_mistake(parser, parser.config_files, in_order(given), parser.needed, message)
        if mistake is None:
            return shorten(main_words(message))
        text = shorten(mistake.text)
        if mistake.nearest is not None:
            text = f"{text}; did you mean '{mistake.nearest}'?"
        if mistake.file is not None:
            text = f"{text} (in {mistake.file})"
        return text
