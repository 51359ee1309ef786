"""CQL: one update by plain loops, members, what the penalty does, and mistakes in arguments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import make_batch
from cql_agents import make_agent
from ranks import run_on_ranks

from modules.agent.actor_critic_updates import CriticUpdates
from modules.agent.multiplier import Constraint
from modules.agent.warm_start import WarmStart
from modules.algorithms.cql import CQL
from modules.batch import Spaces, Transition


def q(critic: torch.nn.Module, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return critic(torch.cat([observation, action], -1)).squeeze(-1)


class Plain:
    """The networks of an agent of one member before an update, one module each, and what they say row by row."""

    def __init__(self, agent: CQL) -> None:
        self.actor = agent.actor.network.member(0)
        self.critics = [agent.critic.member(i) for i in range(2)]
        self.targets = [agent.target_critic.member(i) for i in range(2)]

    def sample(self, observation: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.actor(observation).chunk(2, -1)
        base = torch.distributions.Normal(mean, log_std.clamp(-20.0, 2.0).exp())
        u = mean + base.scale * eps
        return torch.tanh(u), (base.log_prob(u) - torch.log1p(-torch.tanh(u).square())).sum(-1)

    def target(self, batch: Transition, row: int, eps: torch.Tensor, backup: str) -> torch.Tensor:
        s2 = batch.next_observation[row]
        action, log_prob = self.sample(s2, eps if backup != "likeliest" else torch.zeros_like(eps))
        value = torch.min(q(self.targets[0], s2, action), q(self.targets[1], s2, action))
        if backup == "soft":
            value = value - 0.5 * log_prob  # the temperature of these agents
        return batch.reward[row] + 0.99 * (1.0 - batch.terminated[row].float()) * value

    def gap(self, batch: Transition, critic: int, row: int, noise: torch.Tensor) -> torch.Tensor:
        """With draws `[2 + 3 n, B, A]` of the agent."""
        s, terms = batch.observation[row], []
        for eps in noise[2:5, row]:
            action, log_prob = self.sample(s, eps)
            terms.append(q(self.critics[critic], s, action.detach()) - log_prob.detach())
        for eps in noise[5:8, row]:
            action, log_prob = self.sample(batch.next_observation[row], eps)
            terms.append(q(self.critics[critic], s, action.detach()) - log_prob.detach())
        terms += [q(self.critics[critic], s, action) + 2 * math.log(2.0) for action in noise[8:11, row]]
        return torch.logsumexp(torch.stack(terms), 0) - q(self.critics[critic], s, batch.action[row])


@pytest.mark.parametrize("backup", ["likeliest", "sampled", "soft"])
def test_one_update_equals_plain_loops_over_critics_and_rows(backup: str) -> None:
    """Separate critics, separate Adams, torch's distributions: critics, temperature, policy, targets."""
    rows = 6
    agent = make_agent(backup=backup, conservative_weight=2.0, initial_temperature=0.5, temperature_lr=0.01)
    batch, plain = make_batch(rows), Plain(agent)
    assert batch.terminated.any()
    noise = agent.noise_for(batch)
    assert noise.shape == (1, 11, rows, 2)
    assert float(noise[:, 8:].abs().max()) <= 1.0
    with torch.no_grad():
        target = [plain.target(batch, row, noise[0, 0, row], backup) for row in range(rows)]
    gaps, errors, values = [], [], []
    for c in range(2):
        optimizer = torch.optim.Adam(plain.critics[c].parameters(), lr=1e-3)
        gaps.append(torch.stack([plain.gap(batch, c, row, noise[0]) for row in range(rows)]).mean())
        found = [q(plain.critics[c], batch.observation[row], batch.action[row]) for row in range(rows)]
        errors.append(torch.stack([(x - y).square() for x, y in zip(found, target, strict=True)]).mean())
        values.append(float(torch.stack(found).detach().mean()))
        (errors[-1] + 2.0 * gaps[-1]).backward()
        optimizer.step()
    action, log_prob = plain.sample(batch.observation, noise[0, 1])
    log_temperature = torch.tensor(math.log(0.5), requires_grad=True)
    temperature_optimizer = torch.optim.Adam([log_temperature], lr=0.01)
    (-log_temperature.exp() * (log_prob.detach() - 2.0).mean()).backward()
    temperature_optimizer.step()
    optimizer = torch.optim.Adam(plain.actor.parameters(), lr=1e-3)
    optimizer.zero_grad()
    value = torch.min(q(plain.critics[0], batch.observation, action), q(plain.critics[1], batch.observation, action))
    (log_temperature.exp().detach() * log_prob - value).mean().backward()
    optimizer.step()

    metrics = {name: float(x) for name, x in agent.update(batch, noise).metrics.items()}
    expected = {
        "gap": float(sum(gaps).detach()) / 2,  # type: ignore[union-attr]
        "bellman_error": float(sum(errors).detach()) / 2,  # type: ignore[union-attr]
        "value": sum(values) / 2,
        "target": float(torch.stack(target).mean()),
        "entropy": -float(log_prob.detach().mean()),
        "negative_value": -float(value.detach().mean()),
        "temperature": float(log_temperature.detach().exp()),
        "multiplier": 1.0,
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    pairs: list[Any] = [(agent.actor.network.member(0), plain.actor)]
    pairs += [(agent.critic.member(c), plain.critics[c]) for c in range(2)]
    for c in range(2):
        for p, t in zip(plain.critics[c].parameters(), plain.targets[c].parameters(), strict=True):
            t.data.lerp_(p.data, 0.005)
        pairs.append((agent.target_critic.member(c), plain.targets[c]))
    for ours, theirs in pairs:
        for p, expected_p in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, expected_p, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("backup", ["likeliest", "soft"])
def test_the_bellman_residual_is_of_the_online_critic_at_the_next_action(backup: str) -> None:
    agent = make_agent(critic=CriticUpdates(residual_weight=1.0, projection_radius=None), backup=backup)
    batch, plain = make_batch(6), Plain(agent)
    noise, soft = agent.noise_for(batch), float(backup == "soft")
    errors = []
    with torch.no_grad():
        ahead, log_prob = plain.sample(batch.next_observation, soft * noise[0, 0])
        for critic in plain.critics:
            kept = 0.99 * (1.0 - batch.terminated.float())
            value = q(critic, batch.next_observation, ahead) - soft * log_prob  # of a temperature of 1
            errors.append((q(critic, batch.observation, batch.action) - batch.reward - kept * value).square().mean())
    found = agent.update(batch, noise).metrics["bellman_error"]
    torch.testing.assert_close(found[0], torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


def test_a_clipped_backup_is_clipped_in_target_and_residual() -> None:
    settings = CriticUpdates(residual_weight=0.5, projection_radius=None, value_range=(-0.2, 0.3), clip="backup")
    agent = make_agent(critic=settings)
    batch, plain = make_batch(6), Plain(agent)
    with torch.no_grad():
        ahead, _ = plain.sample(batch.next_observation, torch.zeros(6, 2))
        kept = 0.99 * (1.0 - batch.terminated.float())
        targets = torch.stack([q(net, batch.next_observation, ahead) for net in plain.targets]).amin(0)
        errors = []
        for net in plain.critics:
            value = q(net, batch.observation, batch.action)
            for following in (targets, q(net, batch.next_observation, ahead)):
                backup = (batch.reward + kept * following).clamp(-0.2, 0.3)
                errors.append((value - backup).square().mean())
    torch.testing.assert_close(agent.update(batch).metrics["bellman_error"][0], torch.stack(errors).mean())


# ------------------------------------------------------------------------------------------------------------- members
def test_a_member_equals_the_same_run_done_alone() -> None:
    settings: dict[str, Any] = {"multiplier": Constraint(1.0, 1e-2), "backup": "soft"}
    population = make_agent(conservative_weight=[0.5, 4.0], seeds=2, **settings)
    alone = make_agent(conservative_weight=4.0, seed=1, **settings)
    index = population.member_names.index("conservative_weight=4/seed=1")
    for i in range(20):
        mine, other = make_batch(seed=2 * i), make_batch(seed=2 * i + 1)
        joined = Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True)))  # type: ignore[arg-type]
        many, one = population.update(joined).metrics, alone.update(mine).metrics
        for name, value in one.items():
            torch.testing.assert_close(many[name][index], value[0], rtol=1e-4, atol=1e-5)
        population.advance()
        alone.advance()
    pairs = [(population.actor.network, index, alone.actor.network, 0)]
    pairs += [(population.critic, 4 * c + index, alone.critic, c) for c in range(2)]
    for stacked, row, plain, own in pairs:
        for p, expected in zip(stacked.member(row).parameters(), plain.member(own).parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=0, atol=2e-6)
    assert float(alone.multiplier.log_value.detach().abs()) > 0.05
    torch.testing.assert_close(population.multiplier.log_value[index], alone.multiplier.log_value[0])


def test_a_shared_batch_gives_every_seed_the_same_rows() -> None:
    metrics = make_agent(seeds=2, shared_batch=True).update(make_batch()).metrics
    alone = [make_agent(seed=seed).update(make_batch()).metrics for seed in (0, 1)]
    for name, value in metrics.items():
        torch.testing.assert_close(value, torch.cat([one[name] for one in alone]), rtol=1e-4, atol=1e-6)


def test_acting_takes_member_major_rows_and_environment_units() -> None:
    high = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    spaces = Spaces(gym.spaces.Box(-np.inf, np.inf, (4,)), high, np.full(4, 3.0), np.full(4, 2.0))
    agent = CQL(spaces, conservative_weight=[0.5, 4.0], hidden=[8])
    with torch.no_grad():
        agent.actor.network.layers[-1].bias[1, :, :2] = 50.0  # type: ignore[union-attr, index, operator]
    observation = torch.randn(3, 4)
    action, _ = agent.act(observation.repeat(2, 1), explore=False)
    torch.testing.assert_close(action[3:], torch.tensor([[2.0, 10.0]]).expand(3, 2))
    for member in range(2):
        torch.testing.assert_close(agent.policy(member)(observation), action[3 * member : 3 * member + 3])


def test_a_run_goes_on_bit_for_bit_from_its_state() -> None:
    def trained(updates: range, agent: CQL) -> CQL:
        for i in updates:
            agent.update(make_batch(seed=i))
            agent.advance()
        return agent

    settings: dict[str, Any] = {"multiplier": Constraint(1.0), "seeds": 2, "shared_batch": True}
    whole = trained(range(8), make_agent(**settings))
    half, resumed = trained(range(5), make_agent(**settings)), make_agent(**settings)
    resumed.load_state_dict(half.state_dict())
    resumed.load_rank_state(half.rank_state())
    optimizers = [agent.configure_optimizers() for agent in (half, resumed)]
    assert len(optimizers[0]) == 4  # policy, critics, temperature, multiplier
    for old, new in zip(*optimizers, strict=True):
        new.load_state_dict(old.state_dict())
    trained(range(5, 8), resumed)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def half_updates(rank: int) -> dict[str, torch.Tensor]:
    """The state after three updates, each on one rank's half of the rows and draws."""
    agent, half = make_agent(multiplier=Constraint(1.0)), slice(16 * rank, 16 * rank + 16)
    for i in range(3):
        noise = torch.rand(1, 11, 32, 2, generator=torch.Generator().manual_seed(i))
        rows = Transition(*(x[half] for x in make_batch(seed=i)))  # type: ignore[index, arg-type]
        agent.update(rows, noise[:, :, half])
        agent.advance()
    return agent.state_dict()


def test_two_ranks_equal_each_other_and_one_on_the_joined_batches(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path / "ranks", half_updates)
    agent = make_agent(multiplier=Constraint(1.0))
    for i in range(3):
        agent.update(make_batch(seed=i), torch.rand(1, 11, 32, 2, generator=torch.Generator().manual_seed(i)))
        agent.advance()
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-7)
        torch.testing.assert_close(first[name], value, rtol=0, atol=2e-5)


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.usefixtures("backend")
def test_compiled_updates_equal_eager_ones() -> None:
    eager, compiled = (make_agent(compile=c, multiplier=Constraint(1.0)) for c in (False, True))
    for i in range(3):
        for agent in (eager, compiled):
            agent.update(make_batch(seed=i))
            agent.advance()
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- what it is about
def test_the_penalty_lowers_values_of_actions_that_the_data_do_not_hold() -> None:
    """Two members on the same rows, whose actions lie in one corner: the gap is far smaller with the larger weight."""
    agent = make_agent(conservative_weight=[0.0, 5.0], critic_lr=3e-3)
    batch = make_batch(64)._replace(action=torch.full((64, 2), 0.8))
    for _ in range(100):
        metrics = agent.update(batch).metrics
        agent.advance()
    free, bound = metrics["gap"].tolist()
    assert bound < free - 2.0
    lower = agent.evaluate_losses(batch)["pessimism"]
    assert lower[1] < lower[0]


def test_it_learns_the_best_of_the_actions_that_the_data_hold() -> None:
    """One-step episodes with reward `1 - |a - 0.5|^2`, actions of all sizes: the policy ends near 0.5."""
    agent = make_agent(conservative_weight=0.5, actor_lr=3e-3, critic_lr=3e-3, initial_temperature=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        action = 2.0 * torch.rand(128, 2, generator=generator) - 1.0
        state = torch.randn(128, 4, generator=generator)
        reward = 4.0 * (1.0 - (action - 0.5).square().sum(-1))
        ends = torch.ones(128, dtype=torch.bool)
        agent.update(Transition(state, action, reward, state, ends, ~ends))
        agent.advance()
    chosen, _ = agent.act(torch.randn(200, 4, generator=generator), explore=False)
    assert float((chosen.detach() - 0.5).abs().mean()) < 0.2


@pytest.mark.parametrize(("threshold", "grows"), [(-100.0, True), (100.0, False)])
def test_the_multiplier_grows_while_the_gap_is_above_the_threshold(threshold: float, grows: bool) -> None:
    agent = make_agent(multiplier=Constraint(threshold, 0.1))
    found = float(agent.update(make_batch()).metrics["multiplier"])
    assert found == pytest.approx(math.exp(0.1 if grows else -0.1), rel=1e-4)


def test_held_out_losses_are_those_of_plain_loops_and_change_nothing() -> None:
    agent, batch = make_agent(), make_batch(6)
    plain, before = Plain(agent), {name: x.clone() for name, x in agent.state_dict().items()}
    found = {name: float(x) for name, x in agent.evaluate_losses(batch).items()}
    td, pessimism, likelihood, distance = [], [], [], []
    with torch.no_grad():
        for row in range(6):
            s, action = batch.observation[row], batch.action[row]
            target = plain.target(batch, row, torch.zeros(2), "likeliest")
            mean, log_std = plain.actor(s).chunk(2, -1)
            base = torch.distributions.Normal(mean, log_std.exp())
            density = base.log_prob(torch.atanh(action)) - torch.log1p(-action.square())
            likelihood.append(-float(density.sum()))
            distance.append(float((torch.tanh(mean) - action).square().sum()))
            for critic in plain.critics:
                value = q(critic, s, action)
                td.append(float((value - target).square()))
                pessimism.append(float(q(critic, s, torch.tanh(mean)) - value))
    expected = {"td_error": td, "pessimism": pessimism, "negative_log_likelihood": likelihood, "action_error": distance}
    assert found == pytest.approx({name: sum(x) / len(x) for name, x in expected.items()}, rel=1e-4)
    torch.testing.assert_close(agent.state_dict(), before, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"conservative_weight": [1.0, -1.0]}, "conservative_weight must lie in"),
        ({"conservative_weight": [1.0, 1.0]}, "conservative_weight must hold distinct numbers"),
        ({"conservative_weight": []}, "conservative_weight must hold at least one"),
        ({"discount": 1.5}, "discount must lie in"),
        ({"actor_lr": -1.0}, "actor_lr must lie in"),
        ({"critic_lr": math.nan}, "critic_lr must lie in"),
        ({"temperature_lr": math.inf}, "temperature_lr must lie in"),
        ({"initial_temperature": 0.0}, "initial_temperature must lie in"),
        ({"target_entropy": math.nan}, "target_entropy must lie in"),
        ({"multiplier": 10.0}, "multiplier must be of the kind Constraint"),
        ({"action_samples": 0}, "action_samples"),
        ({"hidden": [0]}, "hidden"),
        ({"backup": "mean"}, "backup must be one of likeliest, sampled, soft, got 'mean'"),
        ({"initializer": "xavier"}, "initializer must be one of"),
        ({"critic": WarmStart()}, "critic must be of the kind CriticUpdates"),
        ({"critic": CriticUpdates(roles="split")}, "critic.roles must be twin"),
    ],
)
def test_a_bad_argument_is_refused_by_its_name(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make_agent(**arguments)


def test_numbered_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="action"):
        CQL(Spaces(gym.spaces.Box(-1.0, 1.0, (4,)), gym.spaces.Discrete(3)))
