"""Small agents for tests of SAC; batches are those of `atac_agents`."""

from __future__ import annotations

from atac_agents import SPACES
from grouped import grouped

from modules.algorithms.sac import SAC
from modules.batch import Spaces

GRADIENTS = ("expectation", "straight_through", "gumbel_softmax", "straight_through_gumbel")


def make_agent(spaces: Spaces = SPACES, **arguments: object) -> SAC:
    """Names with a dot are fields of a group of arguments, such as `critic.target_rate`."""
    settings: dict = {"hidden": [16, 16]}
    return SAC(spaces, **grouped(SAC, settings, arguments))
