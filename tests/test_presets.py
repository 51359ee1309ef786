"""Presets that follow a source have its numbers, see `preset_sources.SOURCES`."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from preset_sources import ABSENT, CONSTANTS, SOURCES

from commands.parsing import CONFIGS, config_names


def merged(names: tuple[str, ...]) -> dict[str, Any]:
    """The configs merged, later ones over earlier ones."""

    def over(old: Any, new: Any) -> Any:
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if new.get("class_path", old.get("class_path")) != old.get("class_path"):
                return new
            return {key: over(old.get(key), new[key]) if key in new else old[key] for key in {**old, **new}}
        return new

    whole: Any = {}
    for name in names:
        whole = over(whole, yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))
    return whole


def default_of(node: Mapping[str, Any], name: str) -> Any:
    """The default of an argument of the class that a config names."""
    module, _, cls = node["class_path"].rpartition(".")
    return inspect.signature(getattr(importlib.import_module(module), cls)).parameters[name].default


def find(node: Any, path: list[str]) -> Any:
    """The value at a path through classes and their arguments, with defaults."""
    if not path:
        return node
    name, rest = path[0], path[1:]
    if isinstance(node, list):
        return find(node[int(name)], rest)
    if inspect.isclass(node):
        node = {"class_path": f"{node.__module__}.{node.__qualname__}"}
    if "class_path" not in node:
        return find(node[name], rest) if name in node else ABSENT
    if name in node.get("init_args", {}):
        given, default = node["init_args"][name], default_of(node, name)
        return find(dataclasses.asdict(default) | given if dataclasses.is_dataclass(default) else given, rest)
    default = default_of(node, name)
    if dataclasses.is_dataclass(default):
        default = dataclasses.asdict(default)
    if isinstance(default, functools.partial):
        default = {
            "class_path": f"{default.func.__module__}.{default.func.__qualname__}",
            "init_args": default.keywords,
        }
    return find(default, rest)


@pytest.mark.parametrize("name", SOURCES)
def test_a_preset_has_the_numbers_of_its_source(name: str) -> None:
    preset = SOURCES[name]
    config = merged(preset.configs)
    wrong = {}
    for key, number in preset.numbers.items():
        group, _, rest = key.partition(".") if key.startswith(("data.", ".")) else ("model", "", key)
        found = find(config if not group else config[group], rest.split("."))
        found = list(found) if isinstance(found, tuple) else found
        pairs = [*zip(found, number, strict=False)] if isinstance(number, list) else [(found, number)]
        exact = [isinstance(theirs, str | bool) or theirs is None for _, theirs in pairs]
        same = [a == (b if plain else pytest.approx(b)) for (a, b), plain in zip(pairs, exact, strict=True)]
        if not all(same) or (isinstance(number, list) and len(found) != len(number)):
            wrong[key] = (found, number)
    assert not wrong, f"{preset.source}: ours, theirs"


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_that_of_its_source(name: str) -> None:
    ours, theirs = CONSTANTS[name]
    assert ours == pytest.approx(theirs)


def test_every_preset_that_claims_a_source_is_held_to_it() -> None:
    held = {config for preset in SOURCES.values() for config in preset.configs}
    claims = ("paper", "authors", "author's", "official", "Differences", "DreamerV3")
    for name in config_names():
        comment = "".join(line for line in (CONFIGS / f"{name}.yaml").open() if line.startswith("#"))
        own = "faster than the paper's" in comment  # says how it differs
        assert own or name in held or not any(claim in comment for claim in claims), name


def test_armor_has_the_numbers_of_atac_where_it_does_the_same() -> None:
    armor, atac = (merged((f"{name}/mujoco",)) for name in ("armor", "atac"))
    mine, theirs = ({**config["model"]["init_args"]} for config in (armor, atac))
    assert {mine.pop(name) is not None for name in ("reference_policy", "dynamics", "rollouts")} == {True}
    assert mine == theirs
    assert 2 * armor["data"]["init_args"].pop("batch_size") == atac["data"]["init_args"].pop("batch_size")
    assert [armor[part] for part in ("data", "trainer", "evaluation")] == [
        atac[part] for part in ("data", "trainer", "evaluation")
    ]
