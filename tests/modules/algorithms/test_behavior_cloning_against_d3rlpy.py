from __future__ import annotations

import pytest
from recorded_updates import Recorded

from modules.algorithms.behavior_cloning import BehaviorCloning


def test_two_updates_on_numbered_actions_equal_those_of_d3rlpy() -> None:
    recorded = Recorded("discrete_bc_plain")
    rate = recorded.settings["learning_rate"]
    agent = BehaviorCloning(recorded.spaces, hidden=recorded.hidden, lr=rate, patience=None)
    agent.configure_optimizers()
    recorded.fill(agent.actor.network, "initial", "imitator")
    for update in (1, 2):
        metrics, _ = agent.update(recorded.batch(update))
        agent.advance()
        assert metrics["cloning_loss"].item() == pytest.approx(recorded.losses[update - 1]["loss"], rel=recorded.share)
        assert recorded.distance(agent.actor.network, f"after_{update}", "imitator") < recorded.near
