"""Names that a file may give: our own classes, a closed list of harmless ones, and those that the user trusts.

A checkpoint, a dataset or the specification of an environment may come from anyone. Their names are looked at before
anything is imported, and what is imported is looked at before anything is called.
"""

from __future__ import annotations

import importlib
import inspect
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from modules.trust.options import option

OWN = ("modules", "datamodules", "callbacks")
"""Packages whose classes a file may name."""

MOST_VALUES = 100_000
"""Values that a plain argument may hold, however deep; lists that hold each other soon hold more."""

_LAYERS = (
    "linear.Identity", "linear.Linear", "activation.ELU", "activation.GELU", "activation.Hardtanh",
    "activation.LeakyReLU", "activation.Mish", "activation.ReLU", "activation.ReLU6", "activation.SELU",
    "activation.SiLU", "activation.Sigmoid", "activation.Softplus", "activation.Softsign", "activation.Tanh",
    "dropout.Dropout", "flatten.Flatten", "normalization.LayerNorm", "normalization.RMSNorm",
)  # fmt: skip
_WRAPPERS = (
    "atari_preprocessing.AtariPreprocessing", "common.OrderEnforcing", "common.PassiveEnvChecker",
    "common.RecordEpisodeStatistics", "common.TimeLimit", "rendering.AddWhiteNoise", "rendering.ObstructView",
    "stateful_action.RepeatAction", "stateful_action.StickyAction", "stateful_observation.DelayObservation",
    "stateful_observation.FrameStackObservation", "stateful_observation.MaxAndSkipObservation",
    "stateful_observation.NormalizeObservation", "stateful_observation.TimeAwareObservation",
    "stateful_reward.NormalizeReward", "transform_action.ClipAction", "transform_action.DiscretizeAction",
    "transform_action.RescaleAction", "transform_observation.AddRenderObservation",
    "transform_observation.DiscretizeObservation", "transform_observation.DtypeObservation",
    "transform_observation.FilterObservation", "transform_observation.FlattenObservation",
    "transform_observation.GrayscaleObservation", "transform_observation.RescaleObservation",
    "transform_observation.ReshapeObservation", "transform_observation.ResizeObservation",
    "transform_reward.ClipReward",
)  # fmt: skip
HARMLESS = frozenset(
    [f"torch.nn.modules.{name}" for name in _LAYERS] + [f"gymnasium.wrappers.{name}" for name in _WRAPPERS]
)
"""Classes of others that a file may name: they take no callable and no path, and touch neither files nor network."""
PUBLIC = {
    f"{package}.{path.rpartition('.')[2]}": path
    for package in ("torch.nn", "gymnasium.wrappers")
    for path in HARMLESS
    if path.startswith(package)
}
"""The same classes by the names that configs have for them, `torch.nn.Linear`."""

_trusted: list[str] = []
"""Names that the user trusts while a command runs."""


@contextmanager
def trusting(names: Sequence[str]) -> Iterator[None]:
    """Files may name what lies below these modules, or these classes, as long as the context is open."""
    before = list(_trusted)
    _trusted.extend(names)
    try:
        yield
    finally:
        _trusted[:] = before


def trusted_names() -> tuple[str, ...]:
    """All that the user trusts, for processes that a command starts: they read files, too."""
    return tuple(_trusted)


def is_trusted(name: str) -> bool:
    """Whether the user trusts this module or class, or a package that it lies in."""
    return any(name == trusted or name.startswith(f"{trusted}.") for trusted in _trusted)


def class_from_file(path: Any, kind: type, where: str) -> type:
    """The class that a file names.

    Args:
        path: its class path.
        kind: a class that it must be, or inherit from.
        where: file that names it, and its purpose; for errors.

    Raises:
        ValueError: it is neither our own, nor harmless, nor trusted, and nothing was imported; or there is no such
            class, or it is not of this kind.
    """
    if is_class_path(path) and is_trusted(path):
        return class_by_path(path, kind, where)
    path = PUBLIC.get(path, path) if isinstance(path, str) else path
    if is_class_path(path) and path.split(".")[0] not in OWN and path not in HARMLESS:
        module = path.rpartition(".")[0]
        raise ValueError(
            f"{where} names {short(path)}, which is not reverie's own; nothing was imported. If you trust its code, "
            f"add {option('trust', module, f'[{module!r}]')}"
        )
    found = class_by_path(path, kind, where)
    if f"{found.__module__}.{found.__qualname__}" != path:  # what a module of ours imports is not ours
        raise ValueError(f"{where} names {short(path)}, and there is no such class{_of_ours(path)}")
    return found


def class_by_path(path: Any, kind: type, where: str) -> type:
    """The class at a path that the user's own process or command names; the arguments are those of `class_from_file`.

    Raises:
        ValueError: there is no such class, or it is not of this kind.
    """
    if not is_class_path(path):
        raise ValueError(f"{where} should name a class, but says {short(path)}")
    parts = path.split(".")
    module, count = None, len(parts)
    while module is None and count > 1:
        count -= 1
        module = _module(".".join(parts[:count]), where)
    found: Any = module
    for part in parts[count:]:
        # Not `getattr` of a module: some import others when they are asked for a name.
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    if not inspect.isclass(found):
        raise ValueError(f"{where} names {short(path)}, and there is no such class{_of_ours(path)}")
    if not issubclass(found, kind):
        raise ValueError(f"{where} names {short(path)}, which is no {kind.__name__}")
    return found


def _of_ours(path: str) -> str:
    """End of a message that a class is missing: one of reverie's own is that of another version."""
    return " in this version of reverie" if path.partition(".")[0] in OWN else ""


def is_class_path(path: Any) -> bool:
    """Whether this is a text of names with dots between them, which may lead to a class."""
    parts = path.split(".") if isinstance(path, str) else []
    return len(parts) > 1 and len(path) <= 200 and all(part.isidentifier() for part in parts)


def _module(name: str, where: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ValueError(f"{where} needs a package that is not installed: {error}") from error
        return None
    except ImportError as error:
        raise ValueError(f"{where} names {name}, which cannot be imported: {error}") from error


def check_plain(value: Any, where: str, also: tuple[type, ...] = ()) -> None:
    """Refuse an argument from a file that is not made of numbers, strings, booleans, None, lists and dicts by string.

    Args:
        value: the argument.
        where: file that holds it, and place in it; for errors.
        also: further types that it may be made of.

    Raises:
        ValueError: it is something else, or holds too many values.
    """
    rest, seen = [value], 0
    while rest:
        item = rest.pop()
        seen += 1
        if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
            rest.extend(item.values())
        elif isinstance(item, list | tuple):
            rest.extend(item)
        elif not isinstance(item, (bool, int, float, str, type(None), *also)):
            raise ValueError(f"{where} should hold plain values, but holds a {type(item).__name__}: {short(item)}")
        if seen + len(rest) > MOST_VALUES:
            raise ValueError(f"{where} holds more than {MOST_VALUES:,} values; the file is damaged")


def printable(text: str) -> str:
    """The text in one line, with an escape for each character that does more on a terminal than to be seen."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def cut(text: str, limit: int = 84) -> str:
    """The text in one printable line; where that is longer than the limit, `...` stands for the rest."""
    line = printable(text)
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


def short(value: Any, limit: int = 84) -> str:
    """The text of a value, which may be from anyone, in one printable line of at most so many characters.

    Of an error it is what the error says, without its type.
    """
    value = str(value) if isinstance(value, BaseException) else value
    return cut(value if isinstance(value, str) and value.isprintable() else _REPR.repr(value), limit)


_REPR = reprlib.Repr()  # `repr` would walk all of a value that holds itself many times over
_REPR.maxlevel = 3
_REPR.maxstring = 400
_REPR.maxother = 400
