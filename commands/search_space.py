"""Search spaces: keys of a config that a sweep varies, and the values that each may take, as a YAML file has them."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from commands.class_names import nearest_name
from commands.config_files import ConfigError, ConfigFile, yaml_words
from commands.parsing import find_config
from modules.trust.files import finite
from modules.trust.names import short

WORDS = ("low", "high", "log", "step", "choices")
"""Words that may be said of a key."""

GROUPS = ("model", "data", "trainer", "checkpoint")
"""First parts of keys that a sweep may vary."""

KEPT = {
    "model.seed": "seeds of the sweep are --seeds",
    "model.seeds": "seeds of the sweep are --seeds",
    "data.seed": "seeds of the sweep are --seeds",
    "trainer.logger": "all trials are logged to one place",
    "trainer.max_epochs": "trials of different lengths do not compare; give it once, behind --",
    "trainer.max_steps": "trials of different lengths do not compare; give it once, behind --",
    "trainer.max_time": "trials of different lengths do not compare; give it once, behind --",
    "trainer.devices": "a trial trains in one process; --workers trains several trials at once",
}
"""Keys that a sweep cannot vary, and why."""

MOST_CHOICES = 1000


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both among them.

    Attributes:
        low: smallest number.
        high: largest number.
        log: whether equal factors are equally probable, not equal distances.
        step: distance of neighbours; None where all numbers in between are meant.
        whole: whether they are integers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def distribution(self) -> BaseDistribution:
        """The distribution that a sampler draws from."""
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def points(self) -> list[Any] | None:
        """All values, where there are finitely many; None else."""
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return None
        values = [self.low + n * step for n in range(round((self.high - self.low) / step) + 1)]
        return [int(value) for value in values] if self.whole else values

    def value(self, drawn: Any) -> Any:
        """The value of the argument for what was drawn."""
        return drawn

    def probes(self) -> list[Any]:
        """Values that tell whether the argument takes all others."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Choices:
    """One of these values, in no order: numbers, words, lists, classes with their arguments.

    Attributes:
        values: the values.
    """

    values: tuple[Any, ...]

    @property
    def labels(self) -> list[Any]:
        """How a sampler and tables call them: numbers by themselves, all else by its text."""
        return [v if type(v) in (int, float) else v if isinstance(v, str) else json.dumps(v) for v in self.values]

    def distribution(self) -> BaseDistribution:
        """The distribution that a sampler draws from."""
        return CategoricalDistribution(self.labels)

    def points(self) -> list[Any] | None:
        """All labels."""
        return self.labels

    def value(self, drawn: Any) -> Any:
        """The value with this label."""
        return self.values[self.labels.index(drawn)]

    def probes(self) -> list[Any]:
        """Values that tell whether the argument takes all others."""
        return list(self.values)


@dataclass(frozen=True)
class SearchSpace:
    """Keys with the values that they may take.

    Attributes:
        path: file that says so.
        keys: values by key, such as `model.lr`.
        axis: key whose choices are members of one process in each trial, and are not drawn; None without.
    """

    path: str
    keys: Mapping[str, Range | Choices]
    axis: str | None = None

    @staticmethod
    def read(name: str) -> SearchSpace:
        """Read a file, or a packaged space by its name.

        Raises:
            ValueError: it is none, or says of a key what cannot be.
        """
        path = find_config(name)
        try:
            content = ConfigFile.read(path).content
        except (yaml.YAMLError, ConfigError) as error:
            text = yaml_words(error) if isinstance(error, yaml.YAMLError) else str(error)
            raise ValueError(text if str(path) in text else f"{path}: {text}") from error
        keys: dict[str, Range | Choices] = {}
        for key, said in _leaves(content, "", path):
            plain = bare(key)
            if plain in map(bare, keys):
                raise ValueError(f"{path}: {key} stands twice, with init_args and without: keep one")
            _check_key(key, path)
            keys[key] = _choices(said, key, path) if "choices" in said else _range(said, key, path)
        return SearchSpace(str(path), keys)

    @property
    def drawn(self) -> dict[str, Range | Choices]:
        """The keys whose values a sampler draws."""
        return {key: values for key, values in self.keys.items() if key != self.axis}

    @property
    def axis_labels(self) -> list[Any]:
        """Labels of the choices that are members of one process; [None] without such."""
        values = None if self.axis is None else self.keys[self.axis]
        return values.labels if isinstance(values, Choices) else [None]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Distributions that a sampler draws from, by key."""
        return {key: values.distribution() for key, values in self.drawn.items()}

    def arguments(self, drawn: Mapping[str, Any]) -> list[str]:
        """Arguments of `reverie fit` for what was drawn, and for all choices of the axis."""
        given = {key: self.keys[key].value(value) for key, value in drawn.items()}
        if self.axis is not None:
            given[self.axis] = list(self.keys[self.axis].probes())
        return [argument(key, value) for key, value in given.items()]

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of what can be drawn, the last key changing first.

        Raises:
            ValueError: a key has infinitely many values.
        """
        points = {key: values.points() for key, values in self.drawn.items()}
        for key, values in points.items():
            if values is None:
                raise ValueError(f"{self.path}: {key} has infinitely many values: give it choices or a step for a grid")
        combinations = itertools.product(*(values or [] for values in points.values()))
        return [dict(zip(points, combination, strict=True)) for combination in combinations]

    def with_floats(self, keys: Sequence[str]) -> SearchSpace:
        """The space with all numbers in between for these keys, whose ends are written as integers."""
        changed = {key: replace(values, whole=False) for key, values in self.keys.items()
                   if key in keys and isinstance(values, Range)}  # fmt: skip
        return replace(self, keys={**self.keys, **changed})


def bare(key: str) -> str:
    """The key without `init_args`, which arguments may leave out: `model.lr`."""
    return ".".join(part for part in key.split(".") if part != "init_args")


def argument(key: str, value: Any) -> str:
    """An argument of `reverie fit` that gives a key this value."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def _leaves(content: Mapping[str, Any], above: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Keys with dots, and what is said of each; keys may stand within each other as in a config."""
    for name, inner in content.items():
        key = f"{above}{name}"
        if not re.fullmatch(r"\w+(\.\w+)*", str(name)):
            raise ValueError(f"{path}: {short(key)} is no key of a config, such as model.lr")
        if not isinstance(inner, Mapping) or not inner:
            raise ValueError(f"{path}: {key} needs {{low: ..., high: ...}} or {{choices: [...]}}, got {short(inner)}")
        if any(word in WORDS for word in inner):
            unknown = next((word for word in inner if word not in WORDS), None)
            if unknown is not None:
                near = nearest_name(str(unknown), WORDS)
                hint = f"did you mean '{near}'?" if near else f"known: {', '.join(WORDS)}"
                raise ValueError(f"{path}: {key} has no '{short(unknown)}'; {hint}")
            yield key, inner
        else:
            yield from _leaves(inner, f"{key}.", path)


def _check_key(key: str, path: Path) -> None:
    """Refuse keys that a sweep cannot vary."""
    plain = bare(key)
    for kept, why in KEPT.items():
        if plain == kept or plain.startswith(f"{kept}."):
            raise ValueError(f"{path}: {key} cannot differ between trials: {why}")
    if plain.partition(".")[0] not in GROUPS or "." not in plain:
        why = "what decides must be the same for all" if plain.startswith("evaluation") else "it is no setting of a run"
        raise ValueError(f"{path}: {key} cannot differ between trials: {why}; keys begin with {', '.join(GROUPS)}")


def _choices(said: Mapping[str, Any], key: str, path: Path) -> Choices:
    others = [word for word in said if word != "choices"]
    values = said["choices"]
    if others:
        raise ValueError(f"{path}: {key} has choices and {others[0]}: keep one of them")
    if not isinstance(values, list) or not 0 < len(values) <= MOST_CHOICES:
        raise ValueError(f"{path}: {key}.choices must be a list of 1 to {MOST_CHOICES} values, got {short(values)}")
    found = Choices(tuple(values))
    for number, label in enumerate(found.labels):
        if type(label) is float and not math.isfinite(label):
            raise ValueError(f"{path}: {key}.choices: {label} is no finite number")
        if label in found.labels[:number]:
            raise ValueError(f"{path}: {key}.choices has {short(label)} twice: keep one")
    return found


def _range(said: Mapping[str, Any], key: str, path: Path) -> Range:
    """The range of a key, if there is one."""
    place = f"{path}: {key}"
    for word in ("low", "high", "step"):
        if word in said and not finite(said[word]):
            raise ValueError(f"{place}.{word} must be a finite number, got {short(said[word])}")
    for word in ("low", "high"):
        if word not in said:
            raise ValueError(f"{place} needs {word}, or choices in the place of both")
    low, high, step = said["low"], said["high"], said.get("step")
    if low >= high:
        raise ValueError(f"{place}: low must be below high, got {low:g} and {high:g}")
    _check_log(said, place)
    if step is not None:
        steps = (high - low) / step if step > 0 else 0.0
        if steps < 1 or abs(steps - round(steps)) > 1e-6:
            raise ValueError(f"{place}: high must be low and whole steps more, got {low:g}, {high:g} and step {step:g}")
    whole = type(low) is type(high) is int and type(step) in (int, type(None))
    return Range(low, high, said.get("log", False), step, whole)


def _check_log(said: Mapping[str, Any], place: str) -> None:
    log = said.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"{place}.log must be true or false, got {short(log)}")
    if log and said["low"] <= 0:
        raise ValueError(f"{place}: low must be above 0 with log, got {said['low']:g}")
    if log and "step" in said:
        raise ValueError(f"{place}: log and step do not go together: keep one, or list the values as choices")
