"""Argument parsing that all subcommands share: configs found by name, and mistakes told in one line."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse.typing import register_type

from commands.class_kinds import check_kinds
from commands.config_files import ConfigError, ConfigFile
from commands.help_text import ReadableHelp
from commands.messages import shorten
from commands.precedence import dropped_arguments, in_order
from modules.trust.beside import find_named


def _number(value: object) -> float:
    """A number as YAML has it.

    Raises:
        ValueError: it is none.
    """
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is no number")
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
        raise ValueError(f"--config needs a file, and {name} is {'a folder' if Path(name).is_dir() else 'none'}")
    names = config_names()
    close = difflib.get_close_matches(name.removesuffix(".yaml"), names, n=3, cutoff=0.6)
    hint = f"close: {', '.join(close)}" if close else f"packaged: {', '.join(names) or 'none'}"
    raise ValueError(f"there is no file and no packaged config '{name}'; {hint}")


def read_badly(error: BaseException | None) -> bool:
    """Whether a text could not be read at all, whatever the parser expects in it."""
    while error is not None and not isinstance(error, ConfigError | yaml.YAMLError):
        error = error.__cause__ or error.__context__
    return error is not None


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
            text = str(error)
            parser.error(f"{path}: {text}" if read_badly(error) and str(path) not in text else text, error)


class ReadableParser(ArgumentParser):
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
        if args is None or self._subcommands_action is not None:
            return super().parse_args(args, *others, **options)
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
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with status 2; a parser inside another one raises instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        text = explain(message, parser)
        file = None if read_badly(ex) else guilty_file(message, parser.config_files)
        if file is not None and str(file) not in text:
            text = f"{text} (in {file})"
        print(f"reverie: error: {text}", file=sys.stderr)
        sys.exit(2)


# How jsonargparse says things, and how we do.
WORDINGS = (
    (r"(arguments are required: --data, --model)", r"\1; start from a config, for example --config atac/pendulum"),
    (r"Neither `tensorboard` nor .*", "it needs TensorBoard: pip install -e '.[tensorboard]'"),
    (
        r"(No module named '(?:modules|datamodules|callbacks|commands)\.\w+')",
        r"\1 among reverie's; rename your package",
    ),
    (r"\s+", " "),
    (r"Call to compute_fn of link .*? failed: ", ""),
    (r" ?in \"<unicode string>\",", " at"),
    (r"Parser key \"config\": ", ""),
    (r"Parser key \"([\w.]+)\":", r"\1:"),
    (r"Problem with given class_path '(?:\w+\.)*(\w+)': ", r"\1: "),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"typing\.Literal\[(.*?)\]", r"one of \1"),
    (
        r"Subclasses are disabled for (\w+), thus '([\w.]+)' is not accepted as class_path.*",
        r"\2 is no class of the kind \1, which is given by its fields",
    ),
    (
        r"(\w+): Unable to load config '([^']*)' or \1: Unable to load config .*",
        r"\1 is given by its fields, not by '\2'",
    ),
    (r"Expected a dot import path string: ", "there is no class "),
    (r"Expected an? ", "expected "),
    (r"\b(?:fit|validate|test)\.(model|data)\b", r"--\1"),
    (r"(required: )(?:check|convert)\.", r"\1"),
    (r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: or ", ""),
    (r"Type collections\.abc\.Callable\[.*?\] expects a function or a callable class: ", ""),
    (r"(?:or )?expected path but \S+ either not accessible or invalid or ", ""),
    (r"(is not accepted)\. Got value: Namespace\(class_path='(?:\w+\.)*(\w+)'.*", r"\1 by \2"),
    (r"\. Got value: Namespace\(.*", ""),
)


def condense(message: str) -> str:
    """What is wrong, out of jsonargparse's many lines: no lists of types, no echo of whole values."""
    text = message
    if "Errors:" in text:
        head, _, errors = text.partition("Errors:")
        errors, _, value = errors.partition("Given value type:")
        _, _, value = value.partition("Given value: ")
        head = re.split(r"Does not validate|Subtypes:|\n\s*- ", head)[0]
        kinds = [kind.strip() for kind in re.split(r"^\s*- ", errors, flags=re.MULTILINE)]
        kinds = [kind for kind in kinds if kind and not kind.startswith(BESIDE_THE_POINT)]
        text = f"{head} {' or '.join(dict.fromkeys(kinds))}"
        if value and not re.match(r"[\[{(]|\w+\(", value) and "Expected a dot import path" not in text:
            text += f". Got value: {value.splitlines()[0]}"
    for theirs, ours in WORDINGS:
        text = re.sub(theirs, ours, text)
    return text.strip()


# Of several types that were tried, these say nothing about the mistake.
BESIDE_THE_POINT = ("Expected a <class 'NoneType'>", "a class path", "a dict with", "...", "Not a valid subclass")


def explain(message: str, parser: ArgumentParser) -> str:
    """Shorten a message of jsonargparse to one line and add the nearest valid name."""
    text = condense(message)
    nearest = suggestion(text, message, parser)
    text = shorten(text)
    return f"{text}; did you mean '{nearest}'?" if nearest else text


WRONG_CLASS = re.compile(
    r"there is no class ([\w.]+)|Unable to import [^']*'([\w.]+)'|has no attribute '(\w+)'"
    r"|No module named .* Got value: ([\w.]+)"
)


def suggestion(text: str, message: str, parser: ArgumentParser) -> str | None:
    """The valid key or class name nearest to the one that the message complains about."""
    if wrong_class := WRONG_CLASS.search(text):
        wrong = next(group for group in wrong_class.groups() if group)
        within = re.match(r"model: \w+: \w+: ", text)
        key = "layer" if within else text.partition(":")[0]
        return nearest_name(wrong.rpartition(".")[2], class_names(parser, key))
    if choice := re.search(r"one of ('[^']*'(?:, '[^']*')*).*Got value: (\w+)", text):
        return nearest_name(choice[2], re.findall(r"'(.*?)'", choice[1]))
    if choice := re.search(r"invalid choice: '(\w+)' \(choose from (.*?)\)", text):
        return nearest_name(choice[1], re.findall(r"'(.*?)'", choice[2]))
    wrong_key = re.search(r"arguments: ([^\s=]+)|'([\w.]+)' is not accepted|does not accept option '([\w.]+)'", text)
    if wrong_key is None:
        return None
    wrong = next(group for group in wrong_key.groups() if group)
    if classes := re.findall(r"class_path[ =]'([\w.]+)'", message):
        by = re.search(r"accepted by (\w+)", text)  # of several classes within each other
        meant = [name for name in classes if by and name.rpartition(".")[2] == by[1]]
        return nearest_name(wrong, argument_names((meant or classes)[-1]))
    if not wrong.startswith("--") and wrong_key[1]:
        return None  # a stray word, not a misspelt option
    found = nearest_name(wrong.removeprefix("--"), known_keys(parser))
    return f"--{found}" if found and wrong_key[1] else found


def nearest_name(wrong: str, names: Iterable[str]) -> str | None:
    """The name most like `wrong`, if any is alike."""
    close = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.5)
    return close[0] if close else None


def known_keys(parser: ArgumentParser) -> set[str]:
    """All keys of a parser with their groups (`trainer`, `trainer.max_epochs`), and arguments of chosen classes."""
    keys: set[str] = set()
    for action in parser._actions:
        if not action.option_strings:
            continue
        parts = action.dest.split(".")
        keys.update(".".join(parts[: n + 1]) for n in range(len(parts)))
    for group in {"model", "data"} & keys:
        keys.update((f"{group}.class_path", f"{group}.init_args"))
        for cls in subclasses_of(parser, group):
            keys.update(f"{group}.{name}" for name in argument_names(cls))
            keys.update(f"{group}.init_args.{name}" for name in argument_names(cls))
    return keys


def subclasses_of(parser: ArgumentParser, group: str) -> list[type]:
    """Imported classes that may stand at this key of the parser."""
    hint = next((a._typehint for a in parser._actions if a.dest == group and hasattr(a, "_typehint")), None)
    bases: list[type] = [base for base in (get_args(hint) or (hint,)) if inspect.isclass(base)]
    return [cls for base in bases for cls in walk_subclasses(base)]


def walk_subclasses(base: type) -> Iterable[type]:
    """All subclasses of a class, however deep, that live in our own packages."""
    children: list[type] = base.__subclasses__()
    for cls in children:
        if cls.__module__.split(".")[0] in ("modules", "datamodules", "callbacks"):
            yield cls
        yield from walk_subclasses(cls)


def class_names(parser: ArgumentParser, key: str) -> set[str]:
    """Short names of the classes that may be chosen as model or data, as a layer, or else as callback or logger."""
    if key in ("model", "data"):
        return {cls.__name__ for cls in subclasses_of(parser, key)}
    if key == "layer":
        return {cls.__name__ for cls in walk_subclasses(sys.modules["torch"].nn.Module)}
    lightning = sys.modules.get("pytorch_lightning")
    if lightning is None:
        return set()
    names = {cls.__name__ for cls in walk_subclasses(lightning.Callback)} | {"MLflowLogger"}
    return names | {*lightning.callbacks.__all__, *lightning.loggers.__all__}


def argument_names(cls: Any) -> list[str]:
    """Names of a constructor's arguments, and of the fields of those that are groups, such as `critic.target_rate`; the
    class may be given by the import path of one that is imported.
    """
    if isinstance(cls, str):
        module, _, name = cls.rpartition(".")
        cls = getattr(sys.modules[module], name)
    names = []
    for name, parameter in inspect.signature(cls).parameters.items():
        names += [] if name in ("args", "kwargs") else [name]
        if dataclasses.is_dataclass(parameter.default):
            names += [f"{name}.{field.name}" for field in dataclasses.fields(parameter.default)]
    return names


def guilty_file(message: str, files: list[ConfigFile]) -> Path | None:
    """The last of the given config files that sets the key which the message complains about."""
    if "NestedArg(" in message:
        return None  # given on the command line
    named = re.findall(r"'([\w.]+)' is not accepted|accept option '([\w.]+)'|Parser key \"([\w.]+)\"", message)
    value = re.search(r"Got value: (\w+)|Given value: (\w+)", message)
    if not named:
        return None
    leaf = next(name for name in named[-1] if name).removesuffix(".class_path").rpartition(".")[2]
    found = (file.path for file in reversed(files) if holds(file.content, leaf, value and (value[1] or value[2])))
    return next(found, None)


def holds(content: Any, key: str, value: str | None) -> bool:
    """Whether a config has such a key, however deep, and there the value, if one is given."""
    if isinstance(content, list):
        return any(holds(item, key, value) for item in content)
    if not isinstance(content, Mapping):
        return False
    if key in content and (value is None or value in str(content[key])):
        return True
    return any(holds(item, key, value) for item in content.values())
