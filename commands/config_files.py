"""YAML read strictly: what would vanish, explode or mean nothing is an error that names file, key and lines.

The same reader is behind config files of every subcommand and behind values that are given as YAML or JSON.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader, set_dumper, set_loader

LARGEST_FILE = 4 << 20
"""Bytes of a config file."""

MOST_ENTRIES = 50_000
"""Keys, values and list items of a config, each alias counted as what it stands for."""

DEEPEST = 64
"""Mappings and lists within each other."""

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ConfigError(ValueError):
    """A fault of a YAML text; no `yaml.YAMLError`, after which jsonargparse would go on with the plain text."""


class ConfigFile(NamedTuple):
    """A config that was read.

    Attributes:
        path: absolute, for the working directory changes while configs are merged.
        text: text as it was written.
        content: top-level mapping.
    """

    path: Path
    text: str
    content: dict[str, Any]

    @staticmethod
    def read(path: Path) -> ConfigFile:
        """Read a file.

        Raises:
            ConfigError: it is no text, holds no mapping, or is refused by `check`.
            yaml.YAMLError: it is no YAML.
            OSError: it cannot be read.
        """
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise ConfigError(f"{path} is no config: it has {size / 1e6:,.0f} MB")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is no YAML file: it is not text in UTF-8") from error
        content = load(text)
        if isinstance(content, dict):
            return ConfigFile(Path(os.path.abspath(path)), text, content)
        found = "is empty" if content is None else f"holds {'a list' if isinstance(content, list) else 'plain text'}"
        raise ConfigError(f"{path} {found}: a config is a mapping such as 'trainer: {{max_epochs: 3}}'")

    def arguments(self, group: str) -> dict[str, Any]:
        """`init_args` of a group, such as `model`; {} where it says nothing of that kind."""
        chosen = self.content.get(group)
        arguments = chosen.get("init_args") if isinstance(chosen, dict) else None
        return arguments if isinstance(arguments, dict) else {}


class Open:
    """A mapping or list whose end was not read yet.

    Args:
        place: its key with those around it, for errors.
        anchor: its name for aliases.
        is_mapping: keys and values take turns.
    """

    def __init__(self, place: str, anchor: str | None, is_mapping: bool) -> None:
        self.place = place
        self.anchor = anchor
        self.is_mapping = is_mapping
        self.entries = 1
        self.lines: dict[str, int] = {}  # by key
        self.key: str | None = None  # whose value comes next

    def inner_place(self) -> str:
        """Place of what comes next."""
        return ".".join(part for part in (self.place, self.key) if part)

    def add(self, event: yaml.Event, entries: int) -> None:
        """Take what was read: a key, a value or an item.

        Raises:
            ConfigError: a key stands twice.
        """
        self.entries += entries
        if not self.is_mapping:
            return
        if self.key is not None:
            self.key = None
            return
        self.key, line = str(getattr(event, "value", "?")), event.start_mark.line + 1
        if self.key in self.lines and isinstance(event, yaml.ScalarEvent):
            first = self.lines[self.key]
            where = f"in line {line}" if first == line else f"in lines {first} and {line}"
            raise ConfigError(f"the key '{self.inner_place()}' stands twice, {where}: keep one")
        self.lines[self.key] = line


def check(text: str) -> None:
    """Refuse a YAML text that says something twice, or that means more than it says.

    Raises:
        ConfigError: a key stands twice in a mapping; aliases that stand for too much or for what they are part of; too
            many entries or levels.
        yaml.YAMLError: it is no YAML.
    """
    entries: dict[str, int] = {}  # by anchor
    opened: list[Open] = []
    for event in yaml.parse(text, Loader=Loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionStartEvent):
            place = opened[-1].inner_place() if opened else ""
            opened.append(Open(place, event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(opened) > DEEPEST:
                raise ConfigError(f"line {line}: more than {DEEPEST} levels within each other")
        elif isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            count = _take(event, opened, entries)
            if count > MOST_ENTRIES:
                raise ConfigError(f"line {line}: more than {MOST_ENTRIES:,} entries, with what its aliases stand for")


def _take(event: yaml.Event, opened: list[Open], entries: dict[str, int]) -> int:
    """Take the end of a node into what it is part of; the number of entries so far of both."""
    if isinstance(event, yaml.CollectionEndEvent):
        closed = opened.pop()
        anchor, count = closed.anchor, closed.entries
    elif isinstance(event, yaml.AliasEvent):
        if any(event.anchor == inner.anchor for inner in opened):
            raise ConfigError(f"line {event.start_mark.line + 1}: *{event.anchor} stands for what it is part of")
        anchor, count = None, entries.get(event.anchor, 1)
    else:
        anchor, count = event.anchor, 1
    if anchor is not None:
        entries[anchor] = count
    if not opened:
        return count
    opened[-1].add(event, count)
    return opened[-1].entries


_plain_loader = get_loader("yaml")


def load(text: str) -> Any:
    """The content of a YAML text, in the dialect of jsonargparse, in which `1e-3` is a number.

    Raises:
        ConfigError: see `check`.
        yaml.YAMLError: it is no YAML.
    """
    check(text)
    return _plain_loader(text)


def yaml_words(error: yaml.YAMLError) -> str:
    """An error of YAML in one line, with the place in the text."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        said = " ".join(part for part in (error.context, error.problem) if part)
        return f"{said} at line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
    return str(error).partition("\n")[0]


class Dumper(yaml.SafeDumper):
    """Writes plain values, and those that constructors of others have as defaults: members of enumerations, paths."""


Dumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))
Dumper.add_multi_representer(PurePath, lambda dumper, value: dumper.represent_data(str(value)))


def dump(content: Any) -> str:
    """A config as YAML.

    Raises:
        ConfigError: it holds what has no plain form.
    """
    try:
        return yaml.dump(content, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    except yaml.representer.RepresenterError as error:
        raise ConfigError(
            f"a config cannot hold {error.args[-1]!r}, which has no form in YAML; give another value"
        ) from error


set_loader("yaml", load, (yaml.YAMLError,))
set_dumper("yaml", dump)
