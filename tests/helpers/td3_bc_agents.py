"""Small agents for tests of TD3+BC; batches are those of `atac_agents`."""

from __future__ import annotations

import dataclasses
import inspect

from atac_agents import SPACES

from modules.algorithms.td3_bc import TD3BC


def make_agent(**arguments: object) -> TD3BC:
    """Names with a dot are fields of a group of arguments, such as `critic.target_rate`."""
    settings: dict = {"hidden": [16, 16]}
    for name, value in arguments.items():
        group, _, field = name.partition(".")
        before = settings.get(group, inspect.signature(TD3BC).parameters[group].default)
        settings[group] = dataclasses.replace(before, **{field: value}) if field else value
    return TD3BC(SPACES, **settings)
