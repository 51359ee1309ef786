"""TD3+BC: one update as d3rlpy makes it and as it is written plainly, members, turns, resume, and mistakes."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import SPACES, make_batch, run, same, snapshot
from ranks import run_on_ranks
from recorded_updates import Recorded
from td3_bc_agents import make_agent
from torch import Tensor, nn

from modules.agent.actor_critic_updates import CriticUpdates
from modules.algorithms.td3_bc import TD3BC
from modules.batch import Spaces, Transition
from modules.experts.layer import SparseMoE

CRITICS, TARGETS = ("q_funcs.0", "q_funcs.1"), ("targ_q_funcs.0", "targ_q_funcs.1")
MIXTURE = functools.partial(SparseMoE, num_experts=4, hidden=8, noise=False)


# ---------------------------------------------------------------------------------------------------------- one update
@pytest.mark.parametrize("name", ["td3_plus_bc", "td3_plus_bc_noisy"])
def test_two_updates_equal_those_of_d3rlpy(name: str) -> None:
    """The first moves the policy and the targets, the second the critics alone; d3rlpy counts from 0."""
    recorded = Recorded(name)
    settings = recorded.settings
    agent = TD3BC(
        recorded.spaces, settings["alpha"], discount=settings["gamma"], hidden=recorded.hidden,
        critic_lr=settings["critic_learning_rate"], actor_lr=settings["actor_learning_rate"],
        actor_interval=settings["update_actor_interval"], noise_deviation=settings["target_smoothing_sigma"],
        noise_limit=settings["target_smoothing_clip"],
        critic=CriticUpdates(target_rate=settings["tau"], residual_weight=0.0, projection_radius=None),
    )  # fmt: skip
    agent.advance()  # it counts from 1
    networks = [
        (agent.critic, CRITICS), (agent.target_critic, TARGETS), (agent.actor, ("policy",)),
        (agent.target_actor, ("targ_policy",)),
    ]  # fmt: skip
    for network, names in networks:
        recorded.fill(network, "initial", *names)
    for update in (1, 2):
        metrics = agent.update(recorded.batch(update), recorded.draw(update, "target")[None]).metrics
        agent.advance()
        for network, names in networks:
            assert recorded.distance(network, f"after_{update}", *names) < recorded.near, (update, names)
        reported = {"critic_loss": 2.0 * float(metrics["bellman_error"])}
        if update == 1:
            reported["bc_loss"] = float(metrics["cloning_loss"])
            reported["actor_loss"] = float(metrics["value_weight"] * metrics["negative_value"]) + reported["bc_loss"]
        assert reported == pytest.approx(recorded.losses[update - 1], rel=recorded.share)


def q(critic: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
    return critic(torch.cat([observation, action], -1)).squeeze(-1)


def stepped(network: nn.Module, loss: Tensor, lr: float) -> None:
    """One step of a new Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize(("residual", "clip"), [(0.0, "bootstrap"), (0.25, "bootstrap"), (0.25, "backup")])
def test_one_update_equals_the_paper_written_plainly(residual: float, clip: str) -> None:
    agent = make_agent(
        alpha=1.5, actor_interval=1, noise_deviation=0.4, noise_limit=0.3, discount=0.9, actor_lr=1e-3,
        **{"critic.target_rate": 0.1, "critic.residual_weight": residual, "critic.value_range": (-0.1, 0.2),
           "critic.clip": clip},
    )  # fmt: skip
    with torch.no_grad():  # targets start elsewhere, so that it matters who is asked
        for network in (agent.target_actor, agent.target_critic):
            for p in network.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    batch, noise = make_batch(), torch.randn(1, 32, 2, generator=torch.Generator().manual_seed(1))
    policy, slow = agent.actor.network.member(0), agent.target_actor.network.member(0)
    critics = [agent.critic.member(i) for i in range(2)]
    targets = [agent.target_critic.member(i) for i in range(2)]

    s, a, s2, live = batch.observation, batch.action, batch.next_observation, 1.0 - batch.terminated.float()
    with torch.no_grad():
        a2 = (torch.tanh(slow(s2)) + (0.4 * noise[0]).clamp(-0.3, 0.3)).clamp(-1.0, 1.0)
        smaller = torch.min(q(targets[0], s2, a2), q(targets[1], s2, a2))
        bootstrap = smaller.clamp(-0.1, 0.2) if clip == "bootstrap" else smaller
        y = batch.reward + 0.9 * live * bootstrap
        y = y.clamp(-0.1, 0.2) if clip == "backup" else y
    errors, values = [], []
    for critic in critics:
        value = q(critic, s, a)
        values.append(value.mean().item())
        back = batch.reward + 0.9 * live * q(critic, s2, a2)
        if clip == "backup":  # a gradient passes where it binds, too
            back = back + (back.clamp(-0.1, 0.2) - back).detach()
        errors.append(((1.0 - residual) * (value - y).square() + residual * (value - back).square()).mean())
        stepped(critic, errors[-1], 3e-4)
    action = torch.tanh(policy(s))
    value = q(critics[0], s, action)
    cloning = (action - a).square().mean()
    stepped(policy, cloning - 1.5 * value.mean() / value.abs().mean().detach(), 1e-3)
    with torch.no_grad():
        for target, online in zip([*targets, slow], [*critics, policy], strict=True):
            for t, p in zip(target.parameters(), online.parameters(), strict=True):
                t.lerp_(p, 0.1)

    metrics = agent.update(batch, noise).metrics
    assert metrics["bellman_error"].item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert metrics["value"].item() == pytest.approx(sum(values) / 2, rel=1e-5)
    assert metrics["target"].item() == pytest.approx(y.mean().item(), rel=1e-5)
    assert metrics["cloning_loss"].item() == pytest.approx(cloning.item(), rel=1e-5)
    pairs = [(agent.actor.network, 0, policy), (agent.target_actor.network, 0, slow)]
    pairs += [(agent.critic, i, critics[i]) for i in range(2)]
    pairs += [(agent.target_critic, i, targets[i]) for i in range(2)]
    for stacked, index, plain in pairs:
        for p, expected in zip(stacked.member(index).parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=1e-4, atol=2e-6)


def test_policy_and_targets_move_with_the_last_update_of_an_interval() -> None:
    agent = make_agent(actor_interval=3)
    moved = []
    for i in range(6):
        before = [snapshot(x) for x in (agent.critic, agent.actor, agent.target_critic, agent.target_actor)]
        metrics = agent.update(make_batch(seed=i)).metrics
        agent.advance()
        networks = (agent.critic, agent.actor, agent.target_critic, agent.target_actor)
        moved.append([not same(b, x) for b, x in zip(before, networks, strict=True)])
        assert ("cloning_loss" in metrics) == moved[-1][1]
    assert moved == 2 * [[True, False, False, False], [True, False, False, False], [True, True, True, True]]


def test_with_alpha_zero_the_policy_clones_whatever_the_rewards() -> None:
    batch = make_batch()
    batch = batch._replace(action=torch.tanh(batch.observation[:, :2]))
    agents = [make_agent(alpha=0.0, actor_interval=1, actor_lr=1e-2) for _ in range(2)]
    for agent, shift in zip(agents, (0.0, 100.0), strict=True):
        for _ in range(100):
            agent.update(batch._replace(reward=batch.reward + shift))
    assert same(snapshot(agents[0].actor), agents[1].actor)
    assert agents[0].evaluate_losses(batch)["cloning_loss"].item() < 0.02


def test_settings_of_the_critics_bind() -> None:
    agent = make_agent(**{"critic.projection_radius": 0.5, "critic.value_range": (-1.0, 1.0), "critic.clip": "backup"})
    with torch.no_grad():
        agent.target_critic.layers[-1].bias.fill_(500.0)  # type: ignore[union-attr, operator]
    batch = make_batch()._replace(terminated=torch.zeros(32, dtype=torch.bool))
    assert agent.update(batch).metrics["target"].item() == 1.0
    norms = [torch.linalg.matrix_norm(layer.weight).max().item() for layer in agent.critic.layers]  # type: ignore[arg-type]
    assert max(norms) <= 0.5 + 1e-6
    assert make_agent(**{"critic.layer_norm": True}).critic.layer_norm


def test_held_out_losses_are_means_over_rows_without_noise() -> None:
    agent, batch = make_agent(**{"critic.value_range": (-0.1, 0.1)}), make_batch(seed=7)
    run(agent, 5)
    policy, slow = agent.actor.network.member(0), agent.target_actor.network.member(0)
    critics = [agent.critic.member(i) for i in range(2)]
    targets = [agent.target_critic.member(i) for i in range(2)]
    s, a, s2 = batch.observation, batch.action, batch.next_observation
    with torch.no_grad():
        smaller = torch.stack([q(t, s2, torch.tanh(slow(s2))) for t in targets]).amin(0).clamp(-0.1, 0.1)
        y = batch.reward + 0.99 * (1.0 - batch.terminated.float()) * smaller
        gaps = torch.stack([q(c, s, torch.tanh(policy(s))) - q(c, s, a) for c in critics])
        td = torch.stack([q(c, s, a) - y for c in critics])
        expected = {"td_error": td.square().mean(), "pessimism": gaps.mean()}
        expected["cloning_loss"] = (torch.tanh(policy(s)) - a).square().mean()
    before = snapshot(agent)
    found = agent.evaluate_losses(batch)
    assert {k: x.item() for k, x in found.items()} == pytest.approx(
        {k: x.item() for k, x in expected.items()}, rel=1e-4
    )
    assert same(before, agent)


# ------------------------------------------------------------------------------------------------------------- members
@pytest.mark.parametrize("trunk", [None, MIXTURE])
def test_a_member_equals_the_same_run_done_alone(trunk: Any) -> None:
    """Weights and metrics, those of balancing losses too."""
    population = make_agent(alpha=[0.5, 2.5], seeds=2, trunk=trunk)
    alone = make_agent(alpha=2.5, seed=1, trunk=trunk)
    index = population.member_names.index("alpha=2.5/seed=1")
    for i in range(10):
        mine, other = make_batch(seed=2 * i), make_batch(seed=2 * i + 1)
        metrics = population.update(Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True)))).metrics  # type: ignore[arg-type]
        population.advance()
        expected = alone.update(mine).metrics
        alone.advance()
        found = {name: x[index].item() for name, x in metrics.items()}
        assert found == pytest.approx({name: x.item() for name, x in expected.items()}, rel=1e-3, abs=1e-5)
    assert ("critic/load" in found) == ("actor/load" in found) == (trunk is not None)
    pairs = [(population.actor.network, index, alone.actor.network, 0)]
    pairs += [(population.target_critic, 4 * c + index, alone.target_critic, c) for c in range(2)]
    for stacked, row, plain, own in pairs:
        for p, q in zip(stacked.member(row).parameters(), plain.member(own).parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_balancing_losses_enter_the_loss_of_their_own_network() -> None:
    trunks = [functools.partial(MIXTURE, loss_weights={"importance": 0.0, "load": x}) for x in (0.0, 10.0)]
    noise = torch.randn(1, 32, 2)
    both = [make_agent(trunk=trunk, actor_interval=1) for trunk in trunks]
    still = [make_agent(trunk=trunk, actor_interval=1, critic_lr=0.0) for trunk in trunks]
    metrics = [agent.update(make_batch(), noise).metrics for agent in both + still]
    assert metrics[0]["critic/load"] == metrics[1]["critic/load"] > 0.0  # before the step, whatever its weight
    assert not same(snapshot(both[0].critic), both[1].critic)
    assert same(snapshot(still[0].critic), still[1].critic)
    assert not same(snapshot(still[0].actor), still[1].actor)


def test_acting_is_in_environment_units_and_equals_the_exported_policy() -> None:
    box = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    agent = TD3BC(Spaces(SPACES.observation, box, np.full(4, 3.0), np.full(4, 2.0)), alpha=[0.5, 2.5], hidden=[8])
    observation = torch.randn(3, 4)
    action, _ = agent.act(observation.repeat(2, 1), explore=False)
    raw = torch.tanh(agent.actor.network.member(1)((observation - 3.0) / 2.0))
    torch.testing.assert_close(action[3:], torch.stack([2.0 * raw[:, 0], 5.0 * raw[:, 1] + 5.0], 1))
    for member in range(2):
        torch.testing.assert_close(agent.policy(member)(observation), action[3 * member : 3 * member + 3])


# ------------------------------------------------------------------------------------------------ resume, ranks, graph
@pytest.mark.parametrize("updates", [4, 5])
def test_a_resumed_run_equals_one_that_was_never_stopped(updates: int) -> None:
    """At both phases of an interval, with weights, moments and noise as a file brings them back."""
    whole, resumed = make_agent(), make_agent(seed=0)
    run(whole, updates)
    file = io.BytesIO()
    optimizers = [x.state_dict() for x in whole.configure_optimizers()]
    checkpoint: dict = {}
    whole.on_save_checkpoint(checkpoint)
    parts = {"state": whole.state_dict(), "optimizers": optimizers, "ranks": whole.rank_state()}
    torch.save(parts | {"checkpoint": checkpoint}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    resumed.on_load_checkpoint({**saved["checkpoint"], "state_dict": saved["state"]})
    resumed.load_state_dict(saved["state"])
    for optimizer, state in zip(resumed.configure_optimizers(), saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    resumed.load_rank_state(saved["ranks"])
    assert resumed.updates == updates
    for i in range(3):
        for agent in (whole, resumed):
            agent.update(make_batch(seed=100 + i))
            agent.advance()
    for (name, x), (_, y) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(x, y), name


def half_updates(rank: int) -> dict[str, Tensor]:
    agent = make_agent(actor_interval=1, actor_lr=1e-2)
    noise = torch.randn(1, 32, 2, generator=torch.Generator().manual_seed(1))
    for i in range(3):
        rows = Transition(*(x.chunk(2)[rank] for x in make_batch(seed=i)))  # type: ignore[arg-type, union-attr]
        agent.update(rows, noise.chunk(2, 1)[rank])
        agent.advance()
    return agent.state_dict()


@pytest.mark.long
def test_two_ranks_equal_each_other_and_one_on_the_joined_batches(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path / "ranks", half_updates)
    agent = make_agent(actor_interval=1, actor_lr=1e-2)
    for i in range(3):
        agent.update(make_batch(seed=i), torch.randn(1, 32, 2, generator=torch.Generator().manual_seed(1)))
        agent.advance()
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-7)
        torch.testing.assert_close(first[name], value, rtol=0, atol=2e-5)


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.usefixtures("backend")
def test_compiled_updates_are_graphs_and_equal_eager() -> None:
    eager, compiled = (make_agent(compile=c) for c in (False, True))
    for i in range(4):
        for agent in (eager, compiled):
            agent.update(make_batch(seed=i))
            agent.advance()
    for p, expected in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": [1.0, 1.0]}, "distinct"),
        ({"alpha": []}, "alpha must hold"),
        ({"seeds": 0}, "seeds"),
        ({"discount": 1.5}, "discount"),
        ({"critic_lr": -1.0}, "critic_lr"),
        ({"actor_lr": float("inf")}, "actor_lr"),
        ({"actor_interval": 0}, "actor_interval"),
        ({"noise_deviation": -0.1}, "noise_deviation"),
        ({"noise_limit": 2.5}, "noise_limit"),
        ({"hidden": [16, 0]}, "hidden"),
        ({"initializer": "xavier"}, "initializer"),
        ({"critic": {"target_rate": 0.1}}, "critic"),
        ({"critic.target_rate": 2.0}, r"critic\.target_rate"),
        ({"critic.roles": "split"}, r"critic\.roles must be twin for TD3BC.*got split"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)


def test_spaces_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="Discrete"):
        TD3BC(Spaces(SPACES.observation, gym.spaces.Discrete(3)))
    with pytest.raises(ValueError, match="bounded"):
        TD3BC(Spaces(SPACES.observation, gym.spaces.Box(-np.inf, np.inf, (2,))))
