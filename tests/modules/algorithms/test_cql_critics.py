"""CQL's critics: their settings, where they are asked, and mixtures as their trunks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from atac_agents import make_batch, same, snapshot
from cql_agents import make_agent

from modules.agent.actor_critic_updates import CriticUpdates
from modules.experts.layer import SparseMoE
from modules.networks.auxiliary_losses import collecting
from modules.networks.trunks import losses_by_member


def test_balancing_losses_enter_the_loss_of_their_own_network_and_are_logged_for_each_member() -> None:
    routed = functools.partial(SparseMoE, num_experts=4, hidden=8, routing="top_k")
    trunks = [functools.partial(routed, loss_weights={"load_balance": 0.0, "router_z": x}) for x in (0.0, 10.0)]
    settings: dict[str, Any] = {"conservative_weight": [1.0, 2.0], "action_samples": 1, "seed": 3}
    both, batch = [make_agent(trunk=trunk, **settings) for trunk in trunks], make_batch()
    still = [make_agent(trunk=trunk, critic_lr=0.0, **settings) for trunk in trunks]
    with torch.no_grad():
        for p in still[0].critic.trunks[1].parameters():  # type: ignore[union-attr]
            p.mul_(2.0)  # of the second member's first critic
    asked: list[torch.Tensor] = []
    still[0].critic.register_forward_hook(lambda _, arguments, __: asked.append(arguments[0]))
    noise = both[0].noise_for(batch)
    metrics = [agent.update(batch, noise).metrics for agent in both + still]
    for name in ("critic/router_z", "actor/router_z"):
        assert torch.equal(metrics[0][name], metrics[1][name])  # before the step, whatever its weight
        assert metrics[0][name].shape == (2,)
    with collecting(still[0].critic) as auxiliary:
        still[0].critic(asked[0])
    expected = losses_by_member(still[0].critic, auxiliary)[0]["router_z"].detach().view(2, 2).mean(0)
    torch.testing.assert_close(metrics[2]["critic/router_z"], expected)
    assert expected[0] != expected[1]
    assert not same(snapshot(both[0].critic), both[1].critic)
    assert not same(snapshot(still[0].actor), still[1].actor)


@pytest.mark.parametrize(("weight", "rows"), [(0.0, 16 * 6), (0.5, 17 * 6)])
def test_the_next_action_is_valued_where_the_residual_asks_for_it(weight: float, rows: int) -> None:
    agent = make_agent(critic=CriticUpdates(residual_weight=weight, projection_radius=None), action_samples=5)
    seen: list[int] = []
    agent.critic.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0].shape[1]))
    agent.update(make_batch(6))
    assert seen == [rows, 6]  # of the critics' update: the data's action and 3 kinds; then of the policy's


@pytest.mark.parametrize("name", ["value_range", "projection_radius", "target_rate", "layer_norm"])
def test_settings_of_the_critics_take_effect(name: str) -> None:
    values = {"value_range": (5.0, 6.0), "projection_radius": 0.5, "target_rate": 1.0, "layer_norm": True}
    agent = make_agent(critic=CriticUpdates(**{"residual_weight": 0.0, "projection_radius": None, name: values[name]}))
    batch = make_batch()._replace(terminated=torch.zeros(32, dtype=torch.bool))
    metrics = agent.update(batch).metrics
    if name == "value_range":
        assert 5.0 * 0.99 <= float(metrics["target"] - batch.reward.mean()) + 1e-5 <= 6.0 * 0.99
    elif name == "projection_radius":
        norms = [float(torch.linalg.matrix_norm(x.weight.detach()).max()) for x in agent.critic.layers]  # type: ignore[union-attr]
        assert max(norms) == pytest.approx(0.5, rel=1e-4)
    elif name == "target_rate":
        torch.testing.assert_close(agent.target_critic.state_dict(), agent.critic.state_dict())
    else:
        assert agent.critic.layer_norm
