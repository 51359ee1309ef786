"""ATAC: what silent bugs look like, compiled against eager, and mistakes in arguments."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import SPACES, make_agent, make_batch, run, same, snapshot
from tensordict import TensorDict

from modules.agent.actor_critic_updates import CriticUpdates
from modules.agent.entropy_floor import EntropyFloor
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces, Transition


# ------------------------------------------------------------------------------------------------- one update, by hand
def test_one_update_equals_the_paper_written_plainly() -> None:
    """Two separate critics, separate Adams and torch distributions, step by step as in the official code."""
    agent, batch = make_agent(beta=4.0), make_batch()
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    actor = agent.actor.network.member(0)
    critics = [agent.critic.member(i) for i in range(2)]
    targets = [agent.target_critic.member(i) for i in range(2)]

    def sample(observation: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = actor(observation).chunk(2, -1)
        base = torch.distributions.Normal(mean, log_std.clamp(*agent.actor_updates.log_std_range).exp())
        u = mean + base.scale * eps
        log_prob = base.log_prob(u) - torch.log1p(-torch.tanh(u).square())
        return torch.tanh(u), log_prob.sum(-1)

    def q(critic: torch.nn.Module, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return critic(torch.cat([observation, action], -1)).squeeze(-1)

    s, a, r, s2, d = batch.observation, batch.action, batch.reward, batch.next_observation, batch.terminated.float()
    with torch.no_grad():
        a2, _ = sample(s2, noise[1, 0])
        y = r + 0.99 * (1 - d) * torch.min(q(targets[0], s2, a2), q(targets[1], s2, a2))
    a_pi, log_prob = sample(s, noise[0, 0])
    for critic, target in zip(critics, targets, strict=True):
        optimizer = torch.optim.Adam(critic.parameters(), lr=5e-4)
        residual = q(critic, s, a) - r - 0.99 * (1 - d) * q(critic, s2, a2)
        bellman = 0.5 * (q(critic, s, a) - y).square().mean() + 0.5 * residual.square().mean()
        pessimism = (q(critic, s, a_pi.detach()) - q(critic, s, a)).mean()
        optimizer.zero_grad()
        (pessimism / 4.0 + bellman).backward()
        optimizer.step()
        with torch.no_grad():
            for p, t in zip(critic.parameters(), target.parameters(), strict=True):
                t.lerp_(p, 0.005)
    entropy = -log_prob.mean()
    log_alpha = torch.zeros((), requires_grad=True)
    alpha_optimizer = torch.optim.Adam([log_alpha], lr=5e-4)
    (log_alpha * (entropy.detach() + 2.0)).backward()
    alpha_optimizer.step()
    alpha = log_alpha.detach().exp()
    value = q(critics[0], s, a_pi).mean()
    loss = -value / alpha - entropy if alpha > 1 else -value - alpha * entropy
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    agent.update(batch, noise)
    pairs = [(agent.actor.network, 0, actor)]
    pairs += [(agent.critic, i, critics[i]) for i in range(2)] + [
        (agent.target_critic, i, targets[i]) for i in range(2)
    ]
    for stacked, index, plain in pairs:
        for p, expected in zip(stacked.member(index).parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(agent.log_temperature.detach()[0], log_alpha.detach())


# --------------------------------------------------------------------------------------------------------- silent bugs
def test_actor_follows_one_critic_only() -> None:
    first, second = (make_agent(entropy=EntropyFloor(None), critic_lr=0.0) for _ in range(2))
    with torch.no_grad():
        for layer in second.critic.layers:
            layer.weight[1].mul_(-1.0)  # type: ignore[union-attr, operator, index]
    for agent in (first, second):
        agent.update(make_batch(), torch.zeros(3, 1, 32, 2))
    for p, q in zip(first.actor.parameters(), second.actor.parameters(), strict=True):
        assert torch.equal(p, q)


def test_actor_step_never_touches_the_critic() -> None:
    """Other steps of the actor leave the same critics behind, and no gradient of theirs."""
    cold, warm = (make_agent(entropy=EntropyFloor(initial_temperature=x)) for x in (0.1, 0.9))
    for agent in (cold, warm):
        agent.update(make_batch(), torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1)))
        assert all(p.grad is None for p in agent.critic.parameters())
    assert same(snapshot(cold.critic), warm.critic)
    assert not same(snapshot(cold.actor), warm.actor)


def test_pessimism_separates_data_from_policy_actions() -> None:
    """With beta = 0 the critic's only aim is f(s, a) above f(s, pi(s)): an imitation method."""
    agent = make_agent(beta=0.0, actor_lr=0.0, critic_lr=5e-3)
    batch = make_batch()
    start = agent.evaluate_losses(batch)["pessimism"].item()
    for _ in range(50):
        agent.update(batch)
    assert agent.evaluate_losses(batch)["pessimism"].item() < start - 0.1


def test_beta_zero_ignores_rewards_and_large_beta_ignores_pessimism() -> None:
    batch = make_batch()
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    agents = [make_agent(beta=0.0) for _ in range(2)]
    agents[0].update(batch, noise)
    agents[1].update(batch._replace(reward=batch.reward + 100.0), noise)
    assert same(snapshot(agents[0].critic), agents[1].critic)
    # For huge beta one step equals the step on the Bellman error alone, which the warm start takes.
    game, warm = make_agent(beta=1e8), make_agent(beta=1e8, warm_start=WarmStart(5))
    game.update(batch, noise)
    warm.update(batch, noise)
    for p, q in zip(game.critic.parameters(), warm.critic.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_low_entropy_raises_the_temperature_and_the_policy_widens() -> None:
    agent = make_agent(entropy=EntropyFloor(1.38))  # all but out of reach: always below the floor
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    before = agent.log_temperature.item()
    start = agent.update(make_batch(), noise).metrics["entropy"].item()
    run(agent, 100)
    assert agent.log_temperature.item() > before
    assert agent.update(make_batch(), noise).metrics["entropy"].item() > start + 0.1
    calm = make_agent(entropy=EntropyFloor(-100.0))
    run(calm, 5)
    assert calm.log_temperature.item() < 0.0


def test_entropy_bonus_widens_a_narrow_policy() -> None:
    agent = make_agent(beta=1e-6, entropy=EntropyFloor(1.38), actor_lr=1e-2)
    with torch.no_grad():
        agent.actor.network.layers[-1].bias[..., 2:] = -3.0  # type: ignore[union-attr, index, operator]
        agent.log_temperature.fill_(5.0)
    first = agent.update(make_batch()).metrics["entropy"].item()
    run(agent, 30)
    assert agent.update(make_batch()).metrics["entropy"].item() > first + 0.5


def test_log_temperature_is_clamped() -> None:
    agent = make_agent(critic_lr=1.0, entropy=EntropyFloor(1.38, log_temperature_range=(-2.0, 2.0)))
    run(agent, 10)
    assert agent.log_temperature.item() == 2.0


def test_terminal_states_do_not_bootstrap_and_time_outs_do() -> None:
    """One absorbing step of reward 1: value 1 when it terminates, 1 / (1 - gamma) = 2 when only the clock stops it."""
    values = []
    for terminated in (True, False):
        agent = make_agent(beta=1e6, discount=0.5, critic_lr=0.03, critic=CriticUpdates(target_rate=0.2), actor_lr=0.0)
        rows = 64
        batch = Transition(
            torch.zeros(rows, 4), torch.zeros(rows, 2), torch.ones(rows), torch.zeros(rows, 4),
            torch.full((rows,), terminated), torch.full((rows,), not terminated),
        )  # fmt: skip
        noise = torch.zeros(3, 1, rows, 2)
        for _ in range(200):
            metrics = agent.update(
                batch._replace(action=torch.tanh(agent.actor(batch.observation[None])[0][0])), noise
            ).metrics
        values.append(metrics["value"].item())
    assert values[0] == pytest.approx(1.0, abs=0.05)
    assert values[1] == pytest.approx(2.0, abs=0.1)


def test_projection_is_applied_to_critic_weights_in_every_update() -> None:
    agent = make_agent(critic=CriticUpdates(projection_radius=0.5))
    agent.update(make_batch())
    norms = [torch.linalg.matrix_norm(layer.weight).max().item() for layer in agent.critic.layers]  # type: ignore[arg-type]
    assert max(norms) <= 0.5 + 1e-6
    assert torch.linalg.matrix_norm(agent.target_critic.layers[0].weight).max() > 0.5  # type: ignore[arg-type]


def test_value_range_clips_the_target() -> None:
    agent = make_agent(critic=CriticUpdates(value_range=(-1.0, 1.0)))
    batch = make_batch()._replace(reward=torch.zeros(32))
    with torch.no_grad():
        agent.target_critic.layers[-1].bias.fill_(500.0)  # type: ignore[union-attr, operator]
    target = agent.update(batch).metrics["target"].item()
    assert target == pytest.approx(0.99 * (1 - batch.terminated.float().mean().item()), rel=1e-4)


def test_initial_state_pessimism_needs_first_observations_and_ignores_data_actions() -> None:
    agent = make_agent(pessimism="initial", beta=0.0)
    with pytest.raises(ValueError, match="initial_observations"):
        agent.update(make_batch()._replace(initial_observation=None))
    other = make_agent(pessimism="initial", beta=0.0)
    noise = torch.randn(3, 1, 32, 2)
    agent.update(make_batch(), noise)
    other.update(make_batch()._replace(action=torch.zeros(32, 2)), noise)
    assert same(snapshot(agent.critic), other.critic)


# ------------------------------------------------------------------------------------------------- compiled, repeated
@pytest.mark.compile
@pytest.mark.long
@pytest.mark.parametrize("updates", [0, 100])
@pytest.mark.usefixtures("backend")
def test_compiled_update_is_one_graph_and_equals_eager(updates: int) -> None:
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    eager, compiled = (make_agent(warm_start=WarmStart(updates), compile=c) for c in (False, True))
    for i in range(5):
        eager.update(make_batch(seed=i), noise)
        compiled.update(make_batch(seed=i), noise)
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.usefixtures("backend")
def test_update_as_users_compile_it() -> None:
    agent = make_agent()
    batch = make_batch()
    td = TensorDict(
        {
            "observation": batch.observation,
            "action": batch.action,
            "next": {
                "observation": batch.next_observation,
                "reward": batch.reward[:, None],
                "terminated": batch.terminated[:, None],
                "truncated": batch.truncated[:, None],
            },
        },
        batch_size=[32],
    )
    metrics = torch.compile(agent.update, fullgraph=True)(td).metrics
    assert torch.isfinite(metrics["bellman_error"]).all()


def test_same_seed_same_curve_other_seed_other_curve() -> None:
    first, second, other = make_agent(), make_agent(), make_agent(seed=1)
    for agent in (first, second, other):
        run(agent, 10)
    assert same(snapshot(first), second)
    assert not same(snapshot(first), other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -1.0}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"beta": [1.0, 1.0]}, "distinct"),
        ({"seeds": 0}, "seeds"),
        ({"critic.residual_weight": 2.0}, r"critic\.residual_weight"),
        ({"warm_start.updates": -1}, r"warm_start\.updates"),
        ({"discount": 1.5}, "discount"),
        ({"actor_lr": -1.0}, "actor_lr"),
        ({"critic.target_rate": 2.0}, r"critic\.target_rate"),
        ({"hidden": [16, 0]}, "hidden"),
        ({"entropy.initial_temperature": 0.0}, r"entropy\.initial_temperature"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)


def test_spaces_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="MultiDiscrete"):
        ATAC(Spaces(SPACES.observation, gym.spaces.MultiDiscrete([3, 2])))
    with pytest.raises(ValueError, match="flat Box of observations"):
        ATAC(Spaces(gym.spaces.Box(0, 1, (4, 4)), SPACES.action))
    with pytest.raises(ValueError, match="bounded"):
        ATAC(Spaces(SPACES.observation, gym.spaces.Box(-np.inf, np.inf, (2,))))
