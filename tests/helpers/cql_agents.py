"""Small agents for tests of CQL; the batches are those of ATAC's tests."""

from __future__ import annotations

from atac_agents import SPACES

from modules.algorithms.cql import CQL


def make_agent(**arguments: object) -> CQL:
    settings: dict = {"hidden": [16, 16], "action_samples": 3, "actor_lr": 1e-3, "critic_lr": 1e-3}
    return CQL(SPACES, **settings | arguments)
