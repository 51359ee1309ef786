"""Every packaged config parses against the classes that it names."""

from __future__ import annotations

import dataclasses
import pkgutil
import re

import pytest
import yaml

import reverie
from commands.parsing import CONFIGS, config_names


def commands_in_header(name: str) -> list[str]:
    """`--config` names of the first command with this one that the comment above a config recommends."""
    comment = "".join(line for line in (CONFIGS / f"{name}.yaml").open() if line.startswith("#"))
    commands = [re.findall(r"--config ([\w/-]+)", line) for line in comment.splitlines()]
    return next((names for names in commands if name in names), [])


def assert_kept(own: dict, resolved: dict, where: str) -> None:
    """Every value of a config is in the resolved one, which holds more: the defaults of every class, however deep."""
    if "class_path" in own and "class_path" not in resolved:  # one of several dataclasses is resolved to its fields
        kind = pkgutil.resolve_name(own["class_path"])
        assert resolved.keys() == {field.name for field in dataclasses.fields(kind)}, where
        own = own.get("init_args", {})
    for key, expected in own.items():
        if isinstance(expected, dict):
            assert_kept(expected, resolved[key], f"{where}.{key}")
        elif isinstance(expected, list) and all(isinstance(item, dict) for item in expected):
            assert len(expected) == len(resolved[key]), f"{where}.{key}"
            for index, (item, found) in enumerate(zip(expected, resolved[key], strict=True)):
                assert_kept(item, found, f"{where}.{key}.{index}")
        else:
            assert resolved[key] == expected, f"{where}.{key}"


@pytest.mark.parametrize("name", [name for name in config_names() if not name.startswith("spaces/")])
def test_config_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    subcommand = name.split("/")[0] if name.split("/")[0] in reverie.COMMANDS else "fit"
    whole = subcommand != "fit" or {"class_path"} <= own.get("model", {}).keys()
    names = [name] if whole else commands_in_header(name)
    assert name in names, f"{name} is a part of a config; its first comment must show a command that uses it"
    argv = [part for config in names for part in ("--config", config)]
    if subcommand == "fit" and not any("data" in yaml.safe_load((CONFIGS / f"{n}.yaml").read_text()) for n in names):
        argv += ["--data", "OfflineDataModule", "--data.source", "x"]
    with pytest.raises(SystemExit) as leaving:
        reverie.main([subcommand, *argv, "--print_config"])
    printed = capsys.readouterr()
    assert leaving.value.code == 0, printed.err
    resolved = yaml.safe_load(printed.out)
    for group, value in own.items():
        if isinstance(value, dict) and "init_args" in value:
            assert_kept(value["init_args"], resolved[group]["init_args"], group)
