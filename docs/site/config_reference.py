"""The reference of configs: every class of ours that a config may name, with its arguments, read off the code.

Which they are is found as the command line finds it: from the four places where every config begins, model, data,
callbacks and loggers, the hints of arguments lead to the classes that fit them, and on to their arguments.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import types
from collections import abc, defaultdict, deque
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from site_pages import PACKAGES, ROOT, api_place

ROOTS = {"agents": "model", "data": "data", "callbacks": "trainer.callbacks", "loggers": "trainer.logger"}
"""Places where a config begins to name classes."""
INTRODUCTION = """# Configs

A config is a YAML file. It names classes by `class_path`, which is the path of a file and a class in it, and gives
arguments by `init_args`; values of an argument that takes a class are again of this form. These pages have every class
of reverie's own that may stand in a config, found by types of arguments from the four places where a config begins:

Place | Takes | Page
--- | --- | ---
`model` | an algorithm | [agents](agents.md)
`data` | what batches are drawn from | [data](data.md)
`trainer.callbacks` | a list of what happens around updates | [callbacks](callbacks.md)
`trainer.logger` | where metrics go | [loggers](loggers.md)

`trainer` has the arguments of Lightning's `Trainer`, `reverie fit --trainer.help` lists them. The example below is
`a2c/cartpole` of the [packaged configs](../index.md#the-house):

```yaml
{example}
```

An argument with a dot is a field of a group: `critic.target_rate` is written `critic: {{target_rate: 0.005}}`. Where a
type says `Callable[[int, int], Module]`, a config names a class with `class_path`, and reverie makes it with those
arguments, as of widths, when it knows them; they are left out of the tables. `reverie fit --model.help CLASS` prints a
table in the terminal.

Classes that arguments of these take, by where they lie:

Page | Classes
--- | ---
{rooms}
"""


class Named(NamedTuple):
    """A class that a config may name."""

    cls: type
    by_call: int
    """Number of first arguments that reverie gives."""


class Found(NamedTuple):
    """All classes that a config may name."""

    places: dict[type, dict[str, set[str]]]
    """Where each may stand: names of arguments, and the classes that have them; no class for where a config begins."""
    by_call: dict[type, int]


@functools.cache
def config_pages() -> dict[str, str]:
    """Pages of the reference by their places on the site."""
    for package in PACKAGES[:3]:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            importlib.import_module(module.name)
    found = classes()

    # The four beginnings have pages of their own, other classes lie with their neighbours.
    rooms: dict[str, list[type]] = defaultdict(list)
    for cls in sorted(found.places, key=lambda cls: (cls.__module__, cls.__name__)):
        roots = [page for page, place in ROOTS.items() if place in found.places[cls] and not found.places[cls][place]]
        room = "-".join(cls.__module__.split(".")[:2])
        rooms[roots[0] if roots else room].append(cls)
    pages = {f"config/{room}.md": page(room, members, found) for room, members in rooms.items()}
    rows = [
        f"[{title(room)}]({room}.md) | {', '.join(f'[{c.__name__}]({room}.md#{anchor(c)})' for c in rooms[room])}"
        for room in rooms
        if room not in ROOTS
    ]
    example = (ROOT / "configs/a2c/cartpole.yaml").read_text().rstrip()
    return {"config/index.md": INTRODUCTION.format(example=example, rooms="\n".join(sorted(rows))), **pages}


def classes() -> Found:
    """Follow hints from the four beginnings; every module of ours has been imported, as subclasses are asked for."""
    from pytorch_lightning import Callback, LightningDataModule
    from pytorch_lightning.loggers import Logger

    from commands.class_names import arguments_of_class
    from modules.agent.agent import Agent

    found = Found(defaultdict(lambda: defaultdict(set)), {})
    waiting: deque[Named] = deque()

    def note(hint: Any, argument: str, owner: str) -> None:
        for named in fitting(hint):
            found.places[named.cls][argument] |= {owner} if owner else set()
            if named.cls not in found.by_call:
                found.by_call[named.cls] = named.by_call
                waiting.append(named)

    for root, place in zip((Agent, LightningDataModule, Callback, Logger), ROOTS.values(), strict=True):
        note(root, place, "")
    while waiting:
        cls, by_call = waiting.popleft()
        for name, argument in arguments_of_class(cls, by_call).items():
            if name != "spaces":  # which the data announce
                note(argument.hint, name, cls.__name__)
    return found


def fitting(hint: Any) -> Iterable[Named]:
    """Classes of ours that a value with this hint may name, however deep within lists and dicts."""
    from commands.class_names import walk_subclasses
    from commands.help_text import takes_call
    from modules.agent.agent import Agent
    from modules.trust.hints import given_by_call, kinds_of

    for kind in kinds_of(hint):
        for cls in dict.fromkeys([kind, *walk_subclasses(kind)]):
            own = cls.__module__.split(".")[0] in PACKAGES and not cls.__name__.startswith("_")
            written = "__init__" in dir(cls) and not inspect.isabstract(cls) and not getattr(cls, "_is_protocol", False)
            path = f"{cls.__module__}.{cls.__qualname__}"
            usable = kind is not Agent or cls.__module__.startswith("modules.algorithms.")  # and no base of algorithms
            if own and written and usable and "<locals>" not in path and takes_call(path, hint):
                yield Named(cls, given_by_call(hint))
    if get_origin(hint) is not abc.Callable:
        for part in get_args(hint):
            if not isinstance(part, list):
                yield from fitting(part)


def page(room: str, members: list[type], found: Found) -> str:
    """A page about classes, each with a table of its arguments."""
    return "\n\n".join([f"# {title(room)}", *(section(cls, found) for cls in members)]) + "\n"


def section(cls: type, found: Found) -> str:
    """One class: its path, where it may stand, the beginning of its docstring, and its arguments."""
    from commands.class_names import arguments_of_class, required_of_class

    module = cls.__module__
    path = f"{module}.{cls.__name__}"
    link = f"[`{path}`](../{api_place(module.replace('.', '/') + '.py')}#{path})"
    places = [
        f"`{argument}` of {', '.join(sorted(owners))}" if owners else f"`{argument}`"
        for argument, owners in sorted(found.places[cls].items())
    ]
    by_call = found.by_call[cls]
    required = set(required_of_class(cls, by_call))
    lines = [f"## {cls.__name__}", "", link, "", summary(cls), "", f"Stands at {'; '.join(places)}.", ""]

    # The table.
    arguments = arguments_of_class(cls, by_call)
    if arguments:
        lines += ["Argument | Type | Default | Meaning", "--- | --- | --- | ---"]
    for name, argument in arguments.items():
        default = "*needed*" if name in required else f"`{plain(argument.default)}`"
        lines.append(f"`{name}` | `{type_words(argument.hint)}` | {default} | {cell(argument.help)} ")
    return "\n".join(lines)


def summary(cls: type) -> str:
    """The docstring of a class up to its arguments."""
    text = inspect.getdoc(cls) or ""
    return re.split(r"^(?:Args|Attributes|Raises|Returns|Example)s?:$", text, maxsplit=1, flags=re.MULTILINE)[0].strip()


def type_words(hint: Any) -> str:
    """A hint as a person writes it, without the modules of its classes."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(type_words(part) for part in inner)
    if origin is Literal:
        return " | ".join(repr(choice) for choice in inner)
    if hint in (None, type(None)):
        return "None"
    if hint is Ellipsis:
        return "..."
    if isinstance(hint, list):
        return f"[{', '.join(map(type_words, hint))}]"
    name = getattr(origin or hint, "__name__", str(hint))
    return f"{name}[{', '.join(map(type_words, inner))}]" if inner else name


def plain(value: Any) -> str:
    """A default as YAML has it, as far as it is plain."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return " ".join(str(value).split())


def cell(text: str) -> str:
    """A text of a docstring as a cell of a table, which a bar outside of code would end."""
    return re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or "\\|", " ".join(text.split()))


def title(room: str) -> str:
    """The title of a page: the folder of its classes, or where a config begins."""
    return room.replace("-", "/") if "-" in room else room.capitalize()


def beginnings_first(place: str) -> tuple[int, str]:
    """A key by which pages are in the order of `ROOTS`, the others behind them."""
    order = ["config/index.md", *(f"config/{root}.md" for root in ROOTS)]
    return order.index(place) if place in order else len(order), place


def anchor(cls: type) -> str:
    """The part of its page that is about a class."""
    return cls.__name__.lower()
