"""CQL: two updates from d3rlpy's weights, batches and draws give d3rlpy's weights."""

from __future__ import annotations

import pytest
import torch
from recorded_updates import Recorded

from modules.agent.multiplier import Constraint
from modules.algorithms.cql import CQL

CRITICS, TARGETS = ("q_funcs.0", "q_funcs.1"), ("targ_q_funcs.0", "targ_q_funcs.1")


def agent_of(recorded: Recorded, threshold: float | None) -> CQL:
    settings = recorded.settings
    agent = CQL(
        recorded.spaces,
        conservative_weight=settings["conservative_weight"],
        hidden=recorded.hidden,
        actor_lr=settings["actor_learning_rate"],
        critic_lr=settings["critic_learning_rate"],
        temperature_lr=settings["temp_learning_rate"],
        multiplier=Constraint(threshold, settings["alpha_learning_rate"]),
        action_samples=settings["n_action_samples"],
        backup="soft" if settings["soft_q_backup"] else "likeliest",
    )
    recorded.fill(agent.actor, "initial", "policy")
    recorded.fill(agent.critic, "initial", *CRITICS)
    recorded.fill(agent.target_critic, "initial", *TARGETS)
    return agent


def noise_of(recorded: Recorded, update: int) -> torch.Tensor:
    """The recorded draws in the order of `CQL.noise_for`; without a sampled backup there is no draw for it."""
    actor = recorded.draw(update, "actor")
    target = recorded.draw(update, "target") if recorded.settings["soft_q_backup"] else torch.zeros_like(actor)
    random = recorded.draw(update, "uniform").unflatten(0, (len(actor), -1)).transpose(0, 1)
    now, ahead = recorded.draw(update, "policy_now"), recorded.draw(update, "policy_next")
    return torch.cat([target[None], actor[None], now, ahead, random])[None]


@pytest.mark.parametrize(("name", "learned"), [("cql", True), ("cql_fixed", False), ("cql_soft", True)])
def test_two_updates_equal_those_of_d3rlpy(name: str, learned: bool) -> None:
    recorded = Recorded(name)
    settings = recorded.settings
    agent = agent_of(recorded, settings["alpha_threshold"] if learned else None)
    for update in (1, 2):
        metrics = {
            key: float(x) for key, x in agent.update(recorded.batch(update), noise_of(recorded, update))[0].items()
        }
        agent.advance()
        when, reported = f"after_{update}", recorded.losses[update - 1]
        assert recorded.distance(agent.critic, when, *CRITICS) < recorded.near
        assert recorded.distance(agent.actor, when, "policy") < recorded.near
        assert recorded.distance(agent.target_critic, when, *TARGETS) < recorded.near
        for ours, theirs in ((agent.temperature, "log_temp"), (agent.multiplier, "log_alpha")):
            assert float(ours.log_value.detach()) == pytest.approx(
                float(recorded.parameter(when, f"{theirs}._parameter")), abs=0.1 * recorded.near
            )
        # What d3rlpy reports: sums over both critics, with the threshold, a constant where nothing is learned.
        allowed = settings["conservative_weight"] * (metrics["gap"] - settings["alpha_threshold"])
        assert 2 * metrics["multiplier"] * allowed == pytest.approx(reported["conservative_loss"], rel=recorded.share)
        critic_loss = 2 * metrics["bellman_error"] + reported["conservative_loss"]
        assert critic_loss == pytest.approx(reported["critic_loss"], rel=recorded.share)
        actor_loss = metrics["negative_value"] - metrics["temperature"] * metrics["entropy"]
        assert actor_loss == pytest.approx(reported["actor_loss"], rel=recorded.share)
