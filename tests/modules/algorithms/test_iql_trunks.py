"""IQL with mixtures of experts as trunks: whose loss their balance enters, and what is logged of it."""

from __future__ import annotations

import functools

import torch
from atac_agents import SPACES, make_batch, same, snapshot

from modules.algorithms.iql import IQL
from modules.experts.layer import SparseMoE
from modules.networks.auxiliary_losses import collecting
from modules.networks.trunks import losses_by_member, twin_values


def make(**arguments: object) -> IQL:
    settings: dict = {"hidden": [16], "actor_lr": 1e-3, "critic_lr": 1e-3}
    return IQL(SPACES, **settings | arguments)


def test_balancing_losses_enter_the_loss_of_their_own_network() -> None:
    routed = functools.partial(SparseMoE, num_experts=4, hidden=8, routing="top_k")
    weights = [{"load_balance": 0.0, "router_z": x} for x in (0.0, 10.0)]
    trunks = [functools.partial(routed, loss_weights=x) for x in weights]
    both, batch = [make(trunk=trunk) for trunk in trunks], make_batch()
    still = [make(trunk=trunk, critic_lr=0.0) for trunk in trunks]
    metrics = [agent.update(batch).metrics for agent in both + still]
    for name in ("critic/router_z", "state_value/router_z", "actor/router_z"):
        assert metrics[0][name] == metrics[1][name] > 0.0  # before the step, whatever its weight
    assert not same(snapshot(both[0].critic), both[1].critic)
    assert not same(snapshot(both[0].state_value), both[1].state_value)
    assert same(snapshot(still[0].critic), still[1].critic)
    assert not same(snapshot(still[0].actor), still[1].actor)


def test_balancing_losses_of_the_critics_are_logged_as_their_mean_for_each_member() -> None:
    trunk = functools.partial(
        SparseMoE, num_experts=4, hidden=8, routing="top_k", loss_weights={"load_balance": 0.0, "router_z": 1.0}
    )
    agent, batch = make(trunk=trunk, expectile=[0.6, 0.9]), make_batch()
    with torch.no_grad():
        for name, p in agent.critic.named_parameters():
            p.mul_(1.0 + float(name.split(".")[1] == "1"))  # one of the first critics
    with collecting(agent.critic) as auxiliary:
        twin_values(agent.critic, *(x.expand(2, -1, -1) for x in (batch.observation, batch.action)))
    balance = losses_by_member(agent.critic, auxiliary)[0]["router_z"].detach().view(2, 2)
    found = agent.update(batch).metrics["critic/router_z"]
    torch.testing.assert_close(found, balance.mean(0))
    assert found[0] != found[1]
