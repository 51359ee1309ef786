"""Small agents for tests of TD3+BC; batches are those of `atac_agents`."""

from __future__ import annotations

from atac_agents import SPACES
from grouped import grouped

from modules.algorithms.td3_bc import TD3BC


def make_agent(**arguments: object) -> TD3BC:
    """Names with a dot are fields of a group of arguments, such as `critic.target_rate`."""
    settings: dict = {"hidden": [16, 16]}
    return TD3BC(SPACES, **grouped(TD3BC, settings, arguments))
