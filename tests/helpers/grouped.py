"""Agents whose arguments stand in groups."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def grouped(make: Callable[..., Any], settings: Mapping[str, Any], arguments: Mapping[str, object]) -> dict[str, Any]:
    """Settings with these arguments, where names with a dot are fields of a group, such as `critic.target_rate`."""
    found = dict(settings)
    for name, value in arguments.items():
        group, _, field = name.partition(".")
        before = found.get(group, inspect.signature(make).parameters[group].default)
        found[group] = dataclasses.replace(before, **{field: value}) if field else value
    return found
