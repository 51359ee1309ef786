"""SAC: updates as stable-baselines3 makes them and as they are written plainly, members, resume, ranks, and mistakes."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import NUMBERED, SPACES, make_batch, make_numbered_batch, same, snapshot
from ranks import run_on_ranks
from recorded_updates import SPACES as RECORDED_SPACES
from recorded_updates import RecordedOfStableBaselines3
from sac_agents import make_agent
from torch import Tensor

from modules.agent.actor_critic_updates import CriticUpdates
from modules.agent.entropy_floor import EntropyFloor
from modules.algorithms.sac import SAC
from modules.batch import Spaces, Transition

CRITICS, TARGETS = ("critic.qf0", "critic.qf1"), ("critic_target.qf0", "critic_target.qf1")
GRADIENTS = ("expectation", "straight_through", "gumbel_softmax", "straight_through_gumbel")


# ---------------------------------------------------------------------------------------------------------- one update
@pytest.mark.parametrize("name", ["sac", "sac_fixed"])
def test_two_updates_equal_those_of_stable_baselines3(name: str) -> None:
    """With a temperature that is learned, and with one that is given."""
    recorded = RecordedOfStableBaselines3(name)
    settings = recorded.settings
    learned, rate = settings["ent_coef"] == "auto", settings["learning_rate"]
    agent = SAC(
        RECORDED_SPACES, discount=settings["gamma"], hidden=[16, 16], actor_lr=rate, critic_lr=rate,
        temperature_lr=rate if learned else 0.0,
        critic=CriticUpdates(target_rate=settings["tau"], residual_weight=0.0, projection_radius=None),
        entropy=EntropyFloor(initial_temperature=1.0 if learned else settings["ent_coef"]),
    )  # fmt: skip
    networks = [(agent.critic, CRITICS), (agent.target_critic, TARGETS), (agent.actor, ("actor",))]
    for network, names in networks:
        recorded.fill(network, "initial", *names)
    for update in (1, 2):
        noise = torch.cat([recorded.draw(update, "target"), recorded.draw(update, "actor")], -1)[None]
        found = {key: float(x) for key, x in agent.update(recorded.batch(update), noise).metrics.items()}
        agent.advance()
        for network, names in networks:
            assert recorded.distance(network, f"after_{update}", *names) < 1e-5, (update, names)
        if learned:
            log_temperature = recorded.parameter(f"after_{update}", "temperature.log")
            torch.testing.assert_close(agent.log_temperature.detach(), log_temperature, rtol=0, atol=1e-6)
        reported = {"ent_coef": found["temperature"], "critic_loss": found["bellman_error"]}
        reported["actor_loss"] = found["negative_value"] - found["temperature"] * found["entropy"]
        assert reported == pytest.approx(recorded.losses[update - 1], rel=1e-5)
