"""ATAC's phases and roles: warm start, reference and average policies, split roles, and intervals."""

from __future__ import annotations

import pytest
import torch
from atac_agents import make_agent, make_batch, run, same, snapshot
from resumed_agents import resume, saved

from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.warm_start import WarmStart


def test_a_reference_policy_takes_the_place_of_the_data_in_the_pessimism_term() -> None:
    """With beta = 0 only pessimism is left: the critic depends on the reference, no longer on the data's actions."""
    noise, critics = torch.randn(3, 1, 32, 2), []
    for data_action, reference_action in ((0.0, 0.5), (0.9, 0.5), (0.0, -0.5)):
        agent = make_agent(beta=0.0)
        agent.reference = [lambda raw, a=reference_action: torch.full((*raw.shape[:-1], 2), a)]  # type: ignore[list-item]
        agent.update(make_batch()._replace(action=torch.full((32, 2), data_action)), noise)
        critics.append(snapshot(agent.critic))
    assert all(torch.equal(p, q) for p, q in zip(critics[0], critics[1], strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(critics[0], critics[2], strict=True))


def test_warm_start_clones_and_the_switch_resets_policy_and_temperature_only() -> None:
    agent = make_agent(warm_start=WarmStart(150), critic_lr=3e-3, actor_lr=1e-6)
    assert agent.phase == "warm start"
    batch = make_batch()._replace(action=torch.full((32, 2), 0.5))
    for _ in range(150):
        metrics = agent.update(batch).metrics
        agent.advance()
    assert agent.phase == "training"
    assert "cloning_loss" in metrics
    action, _ = agent.act(batch.observation, explore=False)
    torch.testing.assert_close(action, batch.action, atol=0.1, rtol=0)
    assert agent.actor_optimizer.param_groups[0]["lr"] == 1e-6
    assert {int(s["step"]) for s in agent.actor_optimizer.state.values()} == {0}
    assert {int(s["step"]) for s in agent.critic_optimizer.state.values()} == {150}
    assert agent.log_temperature.item() == 0.0
    assert "negative_value" in agent.update(batch).metrics


def test_warm_start_without_critic_leaves_it_untouched() -> None:
    agent = make_agent(warm_start=WarmStart(5, critic=False))
    before = snapshot(agent.critic)
    run(agent, 5)
    assert same(before, agent.critic)


def test_split_roles_train_the_first_critic_without_pessimism() -> None:
    noise = torch.randn(3, 1, 32, 2)
    pessimistic, neutral = (make_agent(critic=CriticUpdates(roles="split"), beta=1.0) for _ in range(2))
    for i in range(3):
        for agent in (pessimistic, neutral):
            agent.temperature.update = lambda entropy: torch.ones_like(entropy)  # type: ignore[method-assign]
            agent.actor_optimizer.param_groups[0]["lr"] = 0.0
        pessimistic.update(make_batch(seed=i), noise)
        # Other policy actions at s: only pessimism sees them.
        neutral.update(make_batch(seed=i), noise + torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1))
    for p, q in zip(pessimistic.critic.parameters(), neutral.critic.parameters(), strict=True):
        torch.testing.assert_close(p[0], q[0], rtol=0, atol=1e-7)
    second = [agent.critic.layers[0].weight[1] for agent in (pessimistic, neutral)]  # type: ignore[union-attr, index]
    assert not torch.allclose(*second, rtol=0, atol=1e-5)


def test_actor_interval() -> None:
    agent = make_agent(actor=ActorUpdates(interval=3))
    changed = []
    for _ in range(6):
        before = snapshot(agent.actor)
        agent.update(make_batch())
        agent.advance()
        changed.append(not same(before, agent.actor))
    assert changed == [True, False, False, True, False, False]


def test_average_policy_acts_and_follows_the_learned_one() -> None:
    agent = make_agent(actor=ActorUpdates(average_rate=0.25), warm_start=WarmStart(5))
    start = agent.actor.network.layers[0].weight.detach().clone()
    expected = start.clone()
    for i in range(10):
        agent.update(make_batch(seed=i))
        agent.advance()
        expected += 0.25 * (agent.actor.network.layers[0].weight.detach() - expected)
    torch.testing.assert_close(agent.acting.network.layers[0].weight, expected)
    assert not torch.allclose(expected, agent.actor.network.layers[0].weight, atol=1e-4)
    observation = torch.randn(5, 4)
    mean, _ = agent.acting(observation[None])
    torch.testing.assert_close(agent.act(observation, explore=False)[0], torch.tanh(mean[0]))
    torch.testing.assert_close(agent.policy()(observation), torch.tanh(mean[0]))


def test_metrics_of_the_policy_are_those_of_its_last_update() -> None:
    agent = make_agent(actor=ActorUpdates(interval=3))
    seen = []
    for index in range(6):
        seen.append(agent.update(make_batch(seed=index)).metrics)
        agent.advance()
    assert all({"negative_value", "temperature", "entropy", "bellman_error"} <= metrics.keys() for metrics in seen)
    values = [metrics["negative_value"].item() for metrics in seen]
    assert values == [values[0]] * 3 + [values[3]] * 3
    assert values[0] != values[3]
    assert seen[0]["bellman_error"] != seen[1]["bellman_error"]  # of each update, as the critics learn in each


def test_a_run_that_goes_on_between_two_updates_of_the_policy_tells_the_metrics_of_the_last_one() -> None:
    settings = {"actor": ActorUpdates(interval=3), "beta": [1.0, 4.0]}
    agent = make_agent(**settings)
    run(agent, 1)
    expected = agent.update(make_batch(seed=1)).metrics
    agent.advance()
    checkpoint = saved(agent)
    again = resume(make_agent(**settings), checkpoint).update(make_batch()).metrics
    assert again.keys() == expected.keys()
    torch.testing.assert_close(again["negative_value"], expected["negative_value"], rtol=0, atol=0)
    assert again["negative_value"].shape == (2,)
    # Older checkpoints do not know them, and what is no metric of two members is refused.
    for kept, known in (({}, False), (expected, True)):
        checkpoint["rank"]["turn_metrics"] = kept
        assert ("negative_value" in resume(make_agent(**settings), checkpoint).update(make_batch()).metrics) == known
    del checkpoint["rank"]["turn_metrics"]
    assert "negative_value" not in resume(make_agent(**settings), checkpoint).update(make_batch()).metrics
    for bad in ({"value": torch.zeros(3)}, {"value": 1.0}, {"a\n": torch.zeros(2)}, [torch.zeros(2)]):
        checkpoint["rank"]["turn_metrics"] = bad
        with pytest.raises(ValueError, match="metrics of the policy's last update are"):
            resume(make_agent(**settings), checkpoint)


def test_the_warm_start_leaves_no_metrics_to_the_game() -> None:
    agent = make_agent(actor=ActorUpdates(interval=2), warm_start=WarmStart(3))
    run(agent, 3)
    assert "cloning_loss" not in agent.update(make_batch()).metrics
