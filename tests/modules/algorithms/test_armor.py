"""ARMOR: one update by plain loops, the model's part of the game, references, and when steps are imagined."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from armor_agents import in_the_game, make_agent
from atac_agents import make_batch, same, snapshot
from torch import Tensor

from modules.agent.actor_critic_updates import CriticUpdates
from modules.agent.descent import reset_adam
from modules.agent.entropy_floor import EntropyFloor
from modules.agent.trust_region import TrustRegion
from modules.agent.warm_start import WarmStart
from modules.algorithms.armor import ARMOR, Draws
from modules.batch import Transition

ROWS = 5
BETA, LAMBDA, DISCOUNT, TAU = 4.0, 0.7, 0.9, 0.25


def draws_for(rows: int, seed: int = 3, seeds: int = 1) -> Draws:
    g = torch.Generator().manual_seed(seed)
    shapes = ((2, 2 * rows, 2), (2 * rows, 5), (rows,))
    return Draws(*(torch.randn(seeds, *shape, generator=g) for shape in shapes))


# ------------------------------------------------------------------------------------------------- one update, by hand
class Plain:
    """Networks of one member by themselves, and what is asked of them for a single row."""

    def __init__(self, agent: ARMOR) -> None:
        assert agent.reference_actor is not None
        self.actor, self.cloned = agent.actor.network.member(0), agent.reference_actor.network.member(0)
        self.critics = [agent.critic.member(i) for i in range(2)]
        self.targets = [agent.target_critic.member(i) for i in range(2)]
        self.model = agent.dynamics.network.member(0)
        self.scale = copy.deepcopy(agent.dynamics.scale)
        self.low, self.high = (
            x.detach()[0, 0].clone().requires_grad_() for x in (agent.dynamics.low, agent.dynamics.high)
        )
        self.log_std_range = agent.actor_updates.log_std_range

    def act(self, policy: torch.nn.Module, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = policy(state).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(*self.log_std_range).exp())
        drawn = mean + normal.scale * noise
        action = torch.tanh(drawn)
        return action, (normal.log_prob(drawn) - torch.log1p(-action.square())).sum()

    def predict(self, state: Tensor, action: Tensor) -> tuple[torch.distributions.Normal, Tensor]:
        out = self.model(torch.cat([state, action]))
        deviation, softplus = self.scale.deviation[0, 0], torch.nn.functional.softplus
        bent = self.low + softplus(self.high - softplus(self.high - out[5:10]) - self.low)
        mean = out[:5] * deviation + self.scale.mean[0, 0]
        return torch.distributions.Normal(mean, (0.5 * bent).exp() * deviation), torch.sigmoid(out[10])

    def ahead(self, state: Tensor, action: Tensor, step_noise: Tensor, action_noise: Tensor) -> Tensor:
        normal, end = self.predict(state, action)
        drawn = normal.loc + normal.scale * step_noise
        following = state + drawn[:4]
        next_action, _ = self.act(self.actor, following, action_noise)
        return drawn[4] + DISCOUNT * (1 - end) * value(self.critics[0], following, next_action)


def value(critic: torch.nn.Module, state: Tensor, action: Tensor) -> Tensor:
    return critic(torch.cat([state, action])).squeeze(-1)


def step(parameters: Any, loss: Tensor, lr: float) -> None:
    optimizer = torch.optim.Adam(parameters, lr=lr)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def critics_by_loops(
    plain: Plain, rows: tuple[Tensor, ...], actions: list[list[Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Pessimism and Bellman error of each critic, which then takes a step, and its target follows."""
    s, a, r, s2, d = rows
    played, referred, followed = actions
    losses = []
    for critic in plain.critics:
        pessimism, bellman = torch.zeros(()), torch.zeros(())
        for i in range(len(r)):
            alive = 1.0 - float(d[i])
            with torch.no_grad():
                least = min(float(value(target, s2[i], followed[i])) for target in plain.targets)
            error = value(critic, s[i], a[i]) - r[i] - DISCOUNT * alive * least
            residual = value(critic, s[i], a[i]) - r[i] - DISCOUNT * alive * value(critic, s2[i], followed[i])
            bellman = bellman + (0.5 * error.square() + 0.5 * residual.square()) / len(r)
            pessimism = pessimism + (value(critic, s[i], played[i]) - value(critic, s[i], referred[i])) / len(r)
        losses.append((pessimism, bellman))
    for critic, target, (pessimism, bellman) in zip(plain.critics, plain.targets, losses, strict=True):
        step(critic.parameters(), pessimism / BETA + bellman, 5e-4)
        with torch.no_grad():
            for p, t in zip(critic.parameters(), target.parameters(), strict=True):
                t.lerp_(p, TAU)
    return losses


def model_by_loops(
    plain: Plain, rows: tuple[Tensor, ...], actions: list[list[Tensor]], draws: Draws
) -> tuple[Tensor, Tensor, Tensor]:
    """Likelihood and ends of the recorded rows alone, and what the model makes of the policy in all; then its step."""
    s, a, r, s2, d = rows
    played, referred, _ = actions
    change = torch.cat([s2 - s, r[:, None]], -1)
    plain.scale.see(change[None, :ROWS])
    likelihood, ends, relative, size = (torch.zeros(()) for _ in range(4))
    for i in range(ROWS):
        normal, end = plain.predict(s[i], a[i])
        likelihood = likelihood - normal.log_prob(change[i]).mean() / ROWS
        ends = ends - torch.log(end if d[i] else 1 - end) / ROWS
    for i in range(2 * ROWS):
        noise = draws.step[0, i], draws.action[0, 1, i]
        by_policy, by_reference = (plain.ahead(s[i], x[i], *noise) for x in (played, referred))
        relative = relative + (by_policy - by_reference) / (2 * ROWS)
        size = size + by_reference.detach().abs() / (2 * ROWS)
    loss = likelihood + ends + 0.005 * (plain.high - plain.low).sum() + LAMBDA * relative / size
    step([*plain.model.parameters(), plain.low, plain.high], loss, 1e-3)
    return likelihood, ends, relative


def test_one_update_equals_plain_loops_over_rows() -> None:
    """Critics, then the model, then the policy; recorded rows first, imagined ones behind them."""
    agent = in_the_game(
        ROWS, beta=BETA, discount=DISCOUNT, entropy=EntropyFloor(None), actor_lr=1e-3,
        critic=CriticUpdates(target_rate=TAU), **{"dynamics.adversarial": LAMBDA, "dynamics.lr": 1e-3},
    )  # fmt: skip
    reset_adam(agent.critic_optimizer, 5e-4)
    reset_adam(agent.dynamics_optimizer, 1e-3)
    agent.reference_actor.load_state_dict(make_agent(seed=5).actor.state_dict())  # type: ignore[union-attr]
    plain, batch, draws = Plain(agent), make_batch(ROWS), draws_for(ROWS)
    assert int(agent.imagined.filled) == 4 * ROWS
    picked = [int(share * 4 * ROWS) for share in torch.special.ndtr(draws.row[0])]
    imagined = [getattr(agent.imagined, name)[0][picked] for name in Transition._fields[:5]]
    rows = tuple(torch.cat(parts) for parts in zip(batch[:5], imagined, strict=True))
    s, s2, (now, ahead) = rows[0], rows[3], draws.action[0]
    with torch.no_grad():
        actions = [
            [plain.act(policy, x, eps)[0] for x, eps in zip(states, noise, strict=True)]
            for policy, states, noise in ((plain.actor, s, now), (plain.cloned, s, now), (plain.actor, s2, ahead))
        ]
    losses = critics_by_loops(plain, rows, actions)
    likelihood, ends, relative = model_by_loops(plain, rows, actions, draws)
    # The policy: by the first critic on all rows, which has just learned.
    objective = torch.zeros(())
    for state, eps in zip(s, now, strict=True):
        objective = objective - value(plain.critics[0], state, plain.act(plain.actor, state, eps)[0]) / (2 * ROWS)
    step(plain.actor.parameters(), objective, 1e-3)

    metrics = agent.update(batch, draws).metrics
    pairs = [(agent.actor.network.member(0), plain.actor), (agent.dynamics.network.member(0), plain.model)]
    pairs += [(agent.critic.member(i), plain.critics[i]) for i in range(2)]
    pairs += [(agent.target_critic.member(i), plain.targets[i]) for i in range(2)]
    for learned, expected in pairs:
        for p, q in zip(learned.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=5e-6)
    torch.testing.assert_close(agent.dynamics.low[0, 0], plain.low, rtol=1e-5, atol=1e-6)
    assert {name: float(x) for name, x in metrics.items()} == pytest.approx(
        {
            "pessimism": sum(float(p.detach()) for p, _ in losses) / 2,
            "bellman_error": sum(float(b.detach()) for _, b in losses) / 2,
            "model_relative_value": float(relative.detach()),
            "model_negative_log_likelihood": 5 * float(likelihood.detach()),
            "model_termination_loss": float(ends.detach()),
            "negative_value": float(objective.detach()),
            **{name: float(metrics[name]) for name in ("value", "target", "entropy", "model_squared_error")},
            "temperature": 0.0,
        },
        rel=1e-4,
        abs=1e-5,
    )


# -----------------------------------------------------------------------------------------the model's part of the game
def relative_value(agent: ARMOR, observation: Tensor, draws: Draws) -> float:
    noise = draws.action[:, 0, : observation.shape[1]]
    actions = agent.play(observation, noise), agent.refer(observation, noise)
    with torch.no_grad():
        policy, reference = (agent.value_ahead(observation, x, draws) for x in actions)
    return float((policy - reference).mean())


def test_an_adversarial_model_makes_the_policy_look_worse_beside_its_reference() -> None:
    batch, draws, found = make_batch(), draws_for(32), {}
    for weight in (0.0, 10.0):
        agent = in_the_game(critic_lr=0.0, actor_lr=0.0, **{"dynamics.adversarial": weight, "dynamics.lr": 1e-2})
        before = relative_value(agent, batch.observation[None], draws)
        for _ in range(30):
            agent.update(batch, draws)
        found[weight] = relative_value(agent, batch.observation[None], draws) - before
    assert found[10.0] < -0.1
    assert found[10.0] < found[0.0] - 0.1


def test_without_adversarial_weight_the_model_learns_from_the_data_alone() -> None:
    first, second = (in_the_game(**{"dynamics.adversarial": 0.0}) for _ in range(2))
    with torch.no_grad():
        for layer in second.critic.layers:  # type: ignore[union-attr]
            layer.weight.mul_(3.0)  # type: ignore[union-attr, operator]
    for agent in (first, second):
        assert "model_relative_value" not in agent.update(make_batch(), draws_for(32)).metrics
    assert same(snapshot(first.dynamics), second.dynamics)


def test_the_models_step_never_touches_policy_and_critics() -> None:
    plain, adversarial = (in_the_game(actor_lr=0.0, **{"dynamics.adversarial": x}) for x in (0.0, 9.0))
    for agent in (plain, adversarial):
        agent.update(make_batch(), draws_for(32))
    assert same(snapshot(plain.critic), adversarial.critic)
    assert same(snapshot(plain.actor), adversarial.actor)
    assert not same(snapshot(plain.dynamics), adversarial.dynamics)


def test_the_model_learns_in_the_warm_start_from_the_data() -> None:
    agent, batch = make_agent(warm_start=WarmStart(200), **{"dynamics.lr": 1e-2}), make_batch()
    batch = batch._replace(next_observation=0.5 * batch.observation, reward=batch.action[:, 0])
    for _ in range(150):
        metrics = agent.update(batch).metrics
        agent.advance()
    assert agent.warm_starting
    assert not agent.has_imagined
    assert float(metrics["model_squared_error"]) < 0.1
    assert float(agent.evaluate_losses(batch)["model_squared_error"]) < 0.1


# ------------------------------------------------------------------------------------------------ references and rows
def test_the_cloned_policy_is_the_one_that_the_warm_start_ends_with() -> None:
    agent = make_agent(warm_start=WarmStart(3), **{"actor.average_rate": 0.5})
    for i in range(6):
        agent.update(make_batch(seed=i))
        agent.advance()
        if i == 2:
            cloned = snapshot(agent.acting)
    assert agent.reference_actor is not None
    assert same(cloned, agent.reference_actor)
    assert not same(cloned, agent.acting)


def test_a_policy_that_is_its_reference_has_no_pessimism() -> None:
    agent = make_agent()
    agent.update(make_batch())
    agent.advance()
    metrics = agent.update(make_batch()).metrics
    assert float(metrics["pessimism"]) == 0.0
    assert float(metrics["model_relative_value"]) == 0.0


def test_the_data_as_reference_are_compared_in_recorded_rows_alone() -> None:
    agent = in_the_game(reference_policy="data", warm_start=WarmStart(0), **{"rollouts.horizon": 3})
    assert int(agent.imagined.filled) == 3 * 32  # steps of the policy alone
    assert agent.reference_actor is None
    batch, draws = make_batch(), draws_for(32)
    action = agent.play(batch.observation[None], draws.action[:, 0, :32])
    values = agent.kind.values(
        agent.critic, [(batch.observation[None], action), (batch.observation[None], batch.action[None])]
    )
    expected = float((values[0] - values[1]).detach().mean())
    assert float(agent.update(batch, draws).metrics["pessimism"]) == pytest.approx(expected, rel=1e-4)


def test_a_checkpoints_policy_is_asked_in_the_datas_own_units() -> None:
    asked: list[Tensor] = []
    reference = [lambda raw: asked.append(raw) or torch.zeros(*raw.shape[:-1], 2)]
    agent = in_the_game(reference_policy="some.ckpt", reference=reference)
    assert asked.pop().shape == asked.pop().shape == (32, 4)  # where steps were imagined, two times
    agent.normalize.mean.fill_(3.0)
    agent.normalize.std.fill_(2.0)
    batch = make_batch()
    agent.update(batch, draws_for(32))
    torch.testing.assert_close(asked[0][:32], batch.observation)
    assert asked[0].shape == (64, 4)


def test_steps_are_imagined_at_the_start_of_the_game_and_every_interval() -> None:
    agent, filled = make_agent(warm_start=WarmStart(2)), []
    for i in range(8):
        agent.update(make_batch(8, seed=i))
        agent.advance()
        filled.append(int(agent.imagined.filled))
    assert filled == [0, 0, 32, 64, 64, 64, 96, 96]  # before the updates 2, 3 and 6: 2 policies x 2 steps x 8 states


def test_held_in_a_trust_region_the_policy_pays_for_recorded_states_alone() -> None:
    agent = in_the_game(warm_start=WarmStart(1, patience=1), trust=TrustRegion(radius=0.2))
    assert agent.cloned_actor is not None
    assert agent.tether is not None
    batch = make_batch()
    choice, cloned = (agent.kind.choice(*x(batch.observation[None])) for x in (agent.actor, agent.cloned_actor))
    expected = ((choice - cloned).square().mean(-1) / agent.tether.spread).mean().sqrt().item()
    assert expected > 0.01
    assert agent.update(batch, draws_for(32)).metrics["distance"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.usefixtures("backend")
def test_compiled_update_is_one_graph_and_equals_eager() -> None:
    eager, compiled = in_the_game(), in_the_game(compile=True)
    for i in range(4):
        eager.update(make_batch(seed=i), draws_for(32, seed=i))
        compiled.update(make_batch(seed=i), draws_for(32, seed=i))
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-5)
