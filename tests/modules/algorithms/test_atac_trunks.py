"""ATAC with other layers as its trunk: members, noise, balancing losses, compiled updates."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import pytest
import torch
from atac_agents import make_agent, make_batch, run, same, snapshot
from torch import nn

from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces, Transition
from modules.experts.layer import SparseMoE, sparse_layers
from modules.experts.residual_stack import ResidualStack
from modules.functional.distributions import tanh_normal_sample

MIXTURE = functools.partial(SparseMoE, num_experts=4, hidden=8)
STACK = functools.partial(ResidualStack, width=8, depth=2, experts=MIXTURE, placement="last")


# ------------------------------------------------------------------------------------------------------------- networks
def test_a_dense_trunk_learns_what_the_stacked_network_learns() -> None:
    """The trunk `Linear, ReLU` with the stacked network's own weights: the same run, up to rounding."""

    class Layer(nn.Sequential):
        def __init__(self, d_in: int, features: int) -> None:
            super().__init__(nn.Linear(d_in, features), nn.ReLU())

    stacked = make_agent(hidden=[16])
    Layer.__qualname__ = "Layer"  # a class that a checkpoint could name
    plain = make_agent(hidden=[16], trunk=Layer)
    pairs = [(plain.actor.network, stacked.actor.network)]
    pairs += [(plain.critic, stacked.critic), (plain.target_critic, stacked.target_critic)]
    with torch.no_grad():
        for mine, other in pairs:
            for index, trunk in enumerate(mine.trunks):  # type: ignore[arg-type, union-attr]
                first = other.member(index)[0]
                trunk[0].weight.copy_(first.weight)  # type: ignore[operator, union-attr]
                trunk[0].bias.copy_(first.bias)  # type: ignore[operator, union-attr]
            mine.output.weight.copy_(other.layers[-1].weight)  # type: ignore[operator, union-attr]
            mine.output.bias.copy_(other.layers[-1].bias)  # type: ignore[operator, union-attr]
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    for i in range(10):
        found, expected = (agent.update(make_batch(seed=i), noise).metrics for agent in (plain, stacked))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trunk", [MIXTURE, STACK], ids=["mixture", "stack"])
def test_a_member_equals_the_same_run_done_alone(trunk: Any) -> None:
    population = make_agent(beta=[0.5, 4.0], seeds=2, warm_start=WarmStart(10), trunk=trunk)
    alone = make_agent(beta=4.0, seeds=1, seed=1, warm_start=WarmStart(10), trunk=trunk)
    index = population.member_names.index("beta=4/seed=1")
    for i in range(15):
        mine, other = make_batch(seed=2 * i), make_batch(seed=2 * i + 1)
        joined = Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True)))  # type: ignore[arg-type]
        theirs = population.update(joined).metrics
        population.advance()
        own = alone.update(mine).metrics
        alone.advance()
    for name, value in own.items():
        torch.testing.assert_close(theirs[name][index], value[0], rtol=1e-4, atol=1e-6)
    rows = ((population.actor.network, alone.actor.network, index, 0), (population.critic, alone.critic, 4 + index, 1))
    for stacked, plain, mine, other in rows:  # type: ignore[assignment]
        pairs = zip(stacked.member(mine).parameters(), plain.member(other).parameters(), strict=True)  # type: ignore[arg-type]
        for p, q in pairs:
            torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_act_and_policy_are_the_same_for_every_member() -> None:
    agent = make_agent(seeds=2, trunk=STACK, actor=ActorUpdates(average_rate=0.1))
    run(agent, 3, rows=64)
    observation = torch.randn(7, 4)
    action, _ = agent.act(observation.repeat(2, 1), explore=False)
    for member in range(2):
        torch.testing.assert_close(agent.policy(member)(observation), action.view(2, 7, 2)[member])


def test_a_diverged_member_is_masked_and_the_other_goes_on() -> None:
    agent, alone = make_agent(seeds=2, trunk=STACK), make_agent(seed=1, trunk=STACK)
    with torch.no_grad():
        agent.critic.trunks[0].input.weight.fill_(float("nan"))  # type: ignore[index, union-attr, operator]
    sample = torch.randn(3, 2, 32, 2)
    for i in range(3):
        batch = make_batch(seed=i)
        joined = Transition(*(torch.cat([x, x]) for x in batch))  # type: ignore[arg-type, list-item]
        metrics = agent.update(joined, sample).metrics
        agent.advance()
        expected = alone.update(batch, sample[:, 1:]).metrics
        alone.advance()
    with pytest.warns(UserWarning, match="member beta=4/seed=0 is not finite"):
        agent.read_back(metrics)
    assert agent.alive == [False, True]
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name][1], value[0], rtol=1e-4, atol=1e-6)
    action, _ = agent.act(torch.randn(6, 4), explore=False)
    assert action[3:].isfinite().all()
    with pytest.raises(ValueError, match="tokens of width"):  # a mistake stays one
        agent.critic.trunks[1].blocks[1](torch.randn(3, 5))  # type: ignore[index, union-attr, operator]


def test_projection_reaches_every_expert_of_the_critics() -> None:
    agent = make_agent(critic=CriticUpdates(projection_radius=0.5), trunk=MIXTURE)
    agent.update(make_batch())
    for layer in sparse_layers(agent.critic).values():
        for weight in (layer.experts.first.weight, layer.experts.second.weight):
            norms = torch.linalg.matrix_norm(weight)
            assert norms.shape == (4,)
            assert norms.max() <= 0.5 + 1e-6
    assert torch.linalg.matrix_norm(agent.actor.network.trunks[0].experts.first.weight).max() > 0.5  # type: ignore[union-attr, index]


# ---------------------------------------------------------------------------------------------------------------- noise
def noisy(agent: ATAC) -> None:
    """Make routing noise so large that nobody could overlook it."""
    with torch.no_grad():
        for layer in sparse_layers(agent).values():
            layer.router.weight[:, layer.num_experts :] = 20.0


class Log:
    """Stands for a trainer: `training_step` counts with it."""

    log_every_n_steps = 10**9
    max_steps, max_epochs, world_size = 1, None, 1

    def __getattr__(self, name: str) -> Any:
        return self if not name.startswith("increment") else lambda: None


@pytest.mark.parametrize("training", [True, False])
def test_log_probabilities_agree_between_acting_and_an_update(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(trunk=MIXTURE).train(training)
    noisy(agent)
    monkeypatch.setattr(ATAC, "trainer", Log())
    batch, seen = make_batch(), []
    sample = torch.randn(3, 1, 32, 2)

    def record(mean: torch.Tensor, log_std: torch.Tensor, noise: torch.Tensor) -> Any:
        seen.append((mean.detach().clone(), log_std.detach().clone()))
        return tanh_normal_sample(mean, log_std, noise)

    for module in ("agent.action_kinds", "networks.policies"):
        monkeypatch.setattr(f"modules.{module}.tanh_normal_sample", record)
    with torch.no_grad():
        mean, log_std = agent.actor(batch.observation[None])
        acted = [agent.act(batch.observation, explore=False)[0] for _ in range(2)]
    assert torch.equal(acted[0], acted[1])
    update = agent.update
    agent.update = lambda batch: update(batch, sample)  # type: ignore[method-assign]
    agent.training_step(batch, 0)
    assert torch.equal(seen[0][0], mean)
    assert torch.equal(seen[0][1], log_std)
    assert len(seen) == 2  # and the second is at the next observations, of the same silent policy


def test_critics_draw_noise_in_updates_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ATAC, "trainer", Log())
    sample, batch = torch.randn(3, 1, 32, 2), make_batch()
    values = []
    for seed in (0, 1):
        agent = make_agent(trunk=MIXTURE, actor=ActorUpdates(average_rate=0.5))
        noisy(agent)
        update = agent.update
        agent.update = lambda batch, update=update: values.append(update(batch, sample)) or values[-1]  # type: ignore[method-assign, func-returns-value, misc]
        torch.manual_seed(seed)
        agent.training_step(batch, 0)
        assert not any(layer.noise for layer in sparse_layers(agent).values())
        first, again = (agent.evaluate_losses(batch) for _ in range(2))
        assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(values[0].metrics["target"], values[1].metrics["target"])  # policy and target critics
    assert torch.equal(values[0].metrics["entropy"], values[1].metrics["entropy"])
    assert not torch.equal(values[0].metrics["value"], values[1].metrics["value"])


# ----------------------------------------------------------------------------------------------------- balancing losses
def test_balancing_losses_enter_the_loss_of_their_own_network_alone() -> None:
    """A weight on the policies' load changes the policy's step and nothing of the critics."""

    none = {"importance": 0.0, "load": 0.0}
    first = make_agent(trunk=functools.partial(MIXTURE, loss_weights=none), critic_lr=0.0)
    second = make_agent(trunk=functools.partial(MIXTURE, loss_weights=none | {"load": 10.0}), critic_lr=0.0)
    before = snapshot(first.critic)
    noise = torch.randn(3, 1, 32, 2)
    first.update(make_batch(), noise)
    metrics = second.update(make_batch(), noise).metrics
    assert same(before, first.critic)
    assert same(before, second.critic)  # the policy's step leaves the critics alone, their balance too
    assert not same(snapshot(first.actor), second.actor)
    assert metrics["actor/load"].shape == (1,)


def test_balancing_losses_of_the_critics_enter_the_loss_of_the_critics() -> None:
    none = {"importance": 0.0, "load": 0.0}
    noise = torch.randn(3, 1, 32, 2)
    agents = [make_agent(trunk=functools.partial(MIXTURE, loss_weights=none | {"load": x})) for x in (0.0, 10.0)]
    metrics = [agent.update(make_batch(), noise).metrics for agent in agents]
    assert metrics[0]["critic/load"] == metrics[1]["critic/load"] > 0.0  # before the step, whatever its weight
    assert not same(snapshot(agents[0].critic), agents[1].critic)


def test_balancing_evens_out_the_load_of_policy_and_critics() -> None:
    variation = {}
    for weight in (0.0, 1.0):
        trunk = functools.partial(MIXTURE, num_experts=8, loss_weights={"importance": weight, "load": weight})
        agent = make_agent(trunk=trunk, warm_start=WarmStart(60), critic_lr=1e-2)
        run(agent, 60)
        metrics = agent.update(make_batch()).metrics
        assert {"critic/importance", "critic/load", "actor/importance", "actor/load"} <= metrics.keys()
        variation[weight] = [metrics[f"{network}/importance"].item() for network in ("actor", "critic")]
    for even, left_alone in zip(variation[1.0], variation[0.0], strict=True):
        assert even < 0.5 * left_alone


# ------------------------------------------------------------------------------------------------------------- compiled
@pytest.mark.long
@pytest.mark.compile
@pytest.mark.usefixtures("backend")
def test_compiled_update_with_mixtures_is_one_graph_and_equals_eager() -> None:
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    eager, compiled = (make_agent(trunk=MIXTURE, compile=c) for c in (False, True))
    for agent in (eager, compiled):  # gates that have an opinion: near a tie, the last bit would choose the expert
        g = torch.Generator().manual_seed(2)
        for layer in sparse_layers(agent).values():
            layer.router.weight.data.normal_(generator=g)
    for i in range(3):
        eager.update(make_batch(seed=i), noise)
        compiled.update(make_batch(seed=i), noise)
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
    for mine, other in zip(sparse_layers(eager).values(), sparse_layers(compiled).values(), strict=True):
        assert torch.equal(mine.expert_counts, other.expert_counts)


# ------------------------------------------------------------------------------------------------------------- learning
@pytest.mark.long
def test_one_step_problem_is_solved_with_mixtures() -> None:
    """The reward is -(a - s / 2)^2, then all is over; as without a trunk."""
    g = torch.Generator().manual_seed(0)
    observation = 2 * torch.rand(4096, 1, generator=g) - 1
    action = 2 * torch.rand(4096, 1, generator=g) - 1
    done = torch.ones(4096, dtype=torch.bool)
    reward = -(action - 0.5 * observation).square().squeeze(1)
    data = Transition(observation, action, reward, observation, done, ~done)
    spaces = Spaces(gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-1, 1, (1,)))
    trunk = functools.partial(SparseMoE, num_experts=4, hidden=16)
    agent = ATAC(spaces, beta=64.0, hidden=[32], trunk=trunk, critic_lr=5e-3, actor_lr=3e-3, warm_start=WarmStart(100))
    for _ in range(300):
        rows = torch.randint(4096, (128,), generator=g)
        agent.update(Transition(*(x[rows] for x in data[:6])))  # type: ignore[index]
        agent.advance()
    states = torch.linspace(-1, 1, 101)[:, None]
    acted, _ = agent.act(states, explore=False)
    assert (acted - 0.5 * states).abs().mean().item() < 0.1
