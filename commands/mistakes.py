"""The mistake in what was given to a parser, found by the parser's own arguments and told in one line.

jsonargparse tells its errors as prose alone. After one, what configs and flags say is gone through anew: keys that
nothing takes, names of classes that do not exist, values that are none of the choices or of another type, and what is
missing.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser

from commands.class_names import (
    OFFERED,
    arguments_of_class,
    known_keys,
    nearest_name,
    required_of_class,
    walk_subclasses,
    with_groups,
)
from commands.config_files import ConfigError, ConfigFile, load
from commands.jsonargparse_private import Argument, arguments_of, option_names
from modules.trust.hints import fits, given_by_call, kinds_of, part_of, parts_of, words
from modules.trust.names import OWN, short

SPEC = ("class_path", "init_args", "dict_kwargs")
PLAIN = (int, float, bool, str, types.NoneType)


class Mistake(NamedTuple):
    """A mistake in what was given.

    Attributes:
        text: message of one line.
        word: the wrong name or value, which the parser's message has too if it is about the same mistake.
        nearest: the valid name most like it.
        file: config that says it; None for the command line.
    """

    text: str
    word: str
    nearest: str | None = None
    file: Path | None = None


class Flag(str):
    """A value on the command line, which is read as YAML where the argument is no text."""


class Appended(list[Any]):
    """Items that join those which a list has already, as `--key+` gives them."""


def find_mistake(
    parser: ArgumentParser,
    files: Sequence[ConfigFile],
    arguments: Sequence[str],
    needed: Sequence[str],
    message: str,
) -> Mistake | None:
    """The first mistake that a parser's message is about; None where there is none of the known kinds.

    Args:
        parser: parser with all its arguments.
        files: configs in the order in which they merge.
        arguments: arguments of the command line.
        needed: keys without which nothing can be done, see `required_keys`.
        message: message of the parser.
    """
    search = Search(parser)
    found: list[Mistake] = []
    for file in files:
        found += [mistake._replace(file=file.path) for mistake in search.entries(file.content)]
    for flag, value in flags_of(arguments):
        found += search.flag(flag, value)
    return next((mistake for mistake in [*found, *search.missing(needed)] if mistake.word in message), None)


def flags_of(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Name and value of each flag, without the dashes; None for one that stands alone."""
    for n, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        name, equals, value = argument[2:].partition("=")
        following = arguments[n + 1] if n + 1 < len(arguments) and not arguments[n + 1].startswith("--") else None
        yield name, value if equals else following


class Search:
    """Goes through what was given in the order in which it merges, and keeps track of the classes that were chosen.

    Args:
        parser: parser with all its arguments.
    """

    def __init__(self, parser: ArgumentParser) -> None:
        self.parser = parser
        self.known = arguments_of(parser)
        self.classes: dict[str, type] = {}  # by place, such as `model.trunk`, or `trainer.callbacks[0]`
        self.by_call: dict[str, int] = {}  # number of arguments that whoever makes the class gives, by place
        self.given: dict[str, set[str]] = {"": set()}  # names of arguments by place

    def flag(self, name: str, value: str | None) -> Iterator[Mistake]:
        """Mistakes in a flag, whose name has dots between the keys within each other."""
        appended = name.endswith("+")
        keys = [key for key in name.removesuffix("+").split(".") if key not in ("init_args", "dict_kwargs")]
        content: Any = None if value is None else Flag(value)
        for key in reversed(keys):
            content = {key: Appended([content]) if appended and key is keys[-1] else content}
        for mistake in self.entries(content):
            own = mistake.text.startswith("Option") and " by " not in mistake.text
            text = f"unrecognized arguments: --{name} {value or ''}".strip() if own else mistake.text
            nearest = f"--{mistake.nearest}" if own and mistake.nearest else mistake.nearest
            yield mistake._replace(text=text, nearest=nearest)

    def entries(
        self, content: Mapping[str, Any], place: str = "", cls: type | None = None, group: str = ""
    ) -> Iterator[Mistake]:
        """Mistakes in arguments by their names.

        Args:
            content: names and values.
            place: place of the class whose arguments they are; empty for the parser's own.
            cls: the class.
            group: beginning that their keys have in common, with a dot behind it, such as `trainer.`.
        """
        known = self.known if cls is None else arguments_of_class(cls, self.by_call.get(place, 0))
        for name, value in content.items():
            key = f"{group}{name}"
            self.given.setdefault(place, set()).add(key)
            if key in known:
                yield from self.value(value, known[key], f"{place}.{key}".lstrip("."))
            elif any(other.startswith(f"{key}.") for other in known):
                yield from self.group(value, key, place, cls)
            elif cls is not None or key not in option_names(self.parser):
                yield self.unknown(key, value, place, cls)

    def group(self, value: Any, key: str, place: str, cls: type | None) -> Iterator[Mistake]:
        """Mistakes in a group of arguments, which is given by its fields."""
        here = f"{place}.{key}".lstrip(".")
        inner = read(value)
        if isinstance(inner, Mapping) and "class_path" in inner:
            kind = next(iter(kinds_of(inspect.get_annotations(cls.__init__, eval_str=True).get(key))), None)  # type: ignore[misc]
            asked = f" of the kind {kind.__name__}, which" if kind is not None else ":"
            named = short(inner["class_path"])
            yield Mistake(f"{here}: {named} is no class{asked} is given by its fields", named)
        elif isinstance(inner, Mapping):
            yield from self.entries(inner, place, cls, f"{key}.")
        elif value is not None and not Path(str(value)).is_file():
            yield Mistake(f"{here} is given by its fields, not by {short(value)!r}", short(value))

    def unknown(self, key: str, value: Any, place: str, cls: type | None) -> Mistake:
        """A key that nothing takes, with those within it as far as there is one alone."""
        while isinstance(value, Mapping) and value:
            inner, value = next(iter(value.items()))
            key = f"{key}.{inner}"
        names = (
            known_keys(self.parser) if cls is None else with_groups(arguments_of_class(cls, self.by_call.get(place, 0)))
        )
        nearest = nearest_name(key, names)
        word = key.rpartition(".")[2]
        if cls is None:
            return Mistake(f"Option '{key}' is not accepted", word, nearest)
        return Mistake(f"{place}: Option '{key}' is not accepted by {cls.__name__}", word, nearest)

    def value(self, value: Any, argument: Argument, place: str) -> Iterator[Mistake]:
        """Mistakes in the value of an argument, however deep."""
        hint, plain = argument.hint, read(value)
        kinds = kinds_of(hint)
        choices = [choice for part in parts_of(hint) if get_origin(part) is Literal for choice in get_args(part)]
        if isinstance(plain, list) and (fits([], hint) or part_of(hint, 0) is not Any):
            yield from self.items(plain, part_of(hint, 0), place)
        elif isinstance(plain, Mapping) and (kinds or place in self.classes):
            yield from self.spec(plain, hint, argument.default, place)
        elif isinstance(plain, str) and kinds and not fits(value, hint):
            yield from self.spec({"class_path": plain}, hint, None, place)
        elif isinstance(plain, str) and not fits(value, hint) and not choices and kinds_of(part_of(hint, 0)):
            example = f"'[{{class_path: {short(plain)}}}]'"
            yield Mistake(f"{place}: expected a list of classes, such as {example}", short(plain))
        elif not (fits(plain, hint) or fits(value, hint)):
            if not is_plain(hint) and (kinds or not choices):
                return  # it may be read in ways that are not known here
            nearest = nearest_name(str(value), map(str, choices)) if choices else None
            said, word = ("null", "None") if plain is None else (short(value),) * 2
            yield Mistake(f"{place}: expected {words(hint)}. Got value: {said}", word, nearest)

    def items(self, given: list[Any], hint: Any, place: str) -> Iterator[Mistake]:
        """Mistakes in the items of a list, each at a place of its own; keys that follow are of the last one."""
        earlier = [other for other in self.classes if other.startswith(f"{place}[")]
        if not isinstance(given, Appended):
            for other in earlier:
                del self.classes[other]
            earlier = []
        elif place in self.classes and not earlier:  # a single class, which is now the first of a list
            self._same(f"{place}[0]", place)
            earlier = [f"{place}[0]"]
        for n, item in enumerate(given, len(earlier)):
            here = f"{place}[{n}]"
            yield from self.value(item, Argument(hint, None), here)
            if here in self.classes:
                self._same(place, here)

    def _same(self, place: str, other: str) -> None:
        """Let two places stand for one class and its arguments."""
        self.classes[place] = self.classes[other]
        self.by_call[place] = self.by_call[other]
        self.given[place] = self.given[other]

    def spec(self, given: Mapping[str, Any], hint: Any, default: Any, place: str) -> Iterator[Mistake]:
        """Mistakes in a class with its arguments, or in arguments of the class that was chosen before."""
        kinds = kinds_of(hint)
        if isinstance(default, Mapping) and "class_path" not in given and place not in self.classes:
            yield from self.spec(default, hint, None, place)  # chosen as long as no other class is
        named, cls = given.get("class_path"), self.classes.get(place)
        fields = next((kind for kind in kinds if is_dataclass(kind)), None)
        if fields is not None and named is None:
            yield from self.entries(given, place, fields)
            return
        if isinstance(named, str):
            found = find_class(str(named), kinds, place)
            if isinstance(found, Mistake):
                yield found
                return
            self.classes[place] = cls = found
            self.by_call[place] = given_by_call(hint)
            self.given[place] = set()
        elif cls is None and isinstance(default, type):
            cls = default
        if cls is not None:
            inner = read(given.get("init_args"))
            more = {name: value for name, value in given.items() if name not in SPEC}
            yield from self.entries({**(inner if isinstance(inner, Mapping) else {}), **more}, place, cls)
        elif kinds and "init_args" in given:
            text = f"{place}: there are arguments, and no class that takes them; a config that changes some arguments"
            yield Mistake(f"{text} goes behind one that names the class, such as that of a task", "is not accepted")

    def missing(self, needed: Sequence[str]) -> Iterator[Mistake]:
        """Needed arguments that were not given: arguments of the parser, then those of each class."""
        lacking = [key for key in needed if key.removeprefix("--") not in self.given[""]]
        if lacking:
            text = f"the following arguments are required: {', '.join(lacking)}"
            if {"--model", "--data"} <= set(lacking):
                text += "; start from a config, for example --config atac/pendulum"
            yield Mistake(text, "are required")
        for place, cls in self.classes.items():
            if f"{place}[0]" in self.classes:
                continue  # a list, of which every item stands at a place of its own
            own = required_of_class(cls, self.by_call[place])
            lacking = [name for name in own if name not in {*self.given[place], "spaces"}]
            if lacking:
                text = f"{place}: {cls.__name__}: the following arguments are required: {', '.join(lacking)}"
                yield Mistake(f"{text}; {how_to_give(place, cls, lacking)}", f"are required: {lacking[0]}")


def how_to_give(place: str, cls: type, names: Sequence[str]) -> str:
    """Advice on arguments of a class that are missing: flags, and for an item of a list its place in a config."""
    if "[" not in place:
        return f"give {' '.join(f'--{place}.{name} VALUE' for name in names[:3])}, or init_args in a config"
    values = ", ".join(f"{name}: VALUE" for name in names)
    return f"give {{class_path: {cls.__module__}.{cls.__qualname__}, init_args: {{{values}}}}}"


def find_class(name: str, kinds: list[type], place: str) -> Any:
    """The class that a name means at a place, by its path, or alone where only one has it; a `Mistake` for none."""
    offered = {cls for kind in kinds for cls in (kind, *walk_subclasses(kind, OFFERED))}
    last = name.rpartition(".")[2]
    same = sorted(f"{cls.__module__}.{cls.__qualname__}" for cls in offered if cls.__name__ == last)
    nearest = same[0] if same else nearest_name(last, sorted(cls.__name__ for cls in offered))
    found: Any
    if "." in name:
        try:
            found = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            return Mistake(f"{place}: there is no class {short(name)}: {_why(name, error, bool(same))}", name, nearest)
    else:
        alike = sorted({f"{c.__module__}.{c.__qualname__}" for c in everything(kinds) if c.__name__ == name})
        if len(alike) != 1:
            if alike:
                return Mistake(f"{place}: several classes are named {name}: give {' or '.join(alike)}", name)
            return Mistake(f"{place}: there is no class {short(name)}", name, nearest)
        found = pkgutil.resolve_name(alike[0])
    if not inspect.isclass(found) or not any(issubclass(found, kind) for kind in kinds):
        asked = " or ".join(kind.__name__ for kind in kinds)
        more = ", which is given by its fields" if any(map(is_dataclass, kinds)) else ""
        return Mistake(f"{place}: {short(name)} is no class of the kind {asked}{more}", name)
    return found


def _why(name: str, error: Exception, moved: bool) -> str:
    """The reason that a path leads nowhere: the module that is missing, if one is; `moved` is a class of that name."""
    try:
        importlib.import_module(name.rpartition(".")[0])
    except ModuleNotFoundError as missing:
        own = " among reverie's" if name.split(".")[0] in OWN else ""
        return f"{missing}{own}{'; rename your package' if own and not moved else ''}"
    except ImportError as failed:
        return str(failed)
    return str(error)


def everything(kinds: list[type]) -> Iterator[type]:
    """These classes and all classes below them, of whatever package, that can be found by their path."""
    for kind in kinds:
        if "<locals>" not in kind.__qualname__:
            yield kind
        yield from everything(type.__subclasses__(kind))


def read(value: Any) -> Any:
    """A value as YAML has it, if it is from the command line and YAML; else as it is."""
    if not isinstance(value, Flag):
        return value
    try:
        return load(str(value))
    except (ConfigError, yaml.YAMLError):
        return str(value)


def is_plain(hint: Any) -> bool:
    """Whether a hint is of numbers, texts, booleans, None, choices, and lists and mappings of such alone."""
    if get_origin(hint) is Literal:
        return True
    if get_origin(hint) in (Union, types.UnionType, list, tuple, dict):
        return all(is_plain(part) for part in get_args(hint) if part is not Ellipsis)
    return hint in PLAIN or hint is Any
