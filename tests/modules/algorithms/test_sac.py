"""SAC: updates as stable-baselines3 makes them and as they are written plainly, held-out losses, and mistakes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import NUMBERED, SPACES, make_batch, make_numbered_batch, same, snapshot
from recorded_updates import RecordedOfStableBaselines3
from sac_agents import GRADIENTS, make_agent
from torch import Tensor, nn

from modules.agent.actor_critic_updates import CriticUpdates
from modules.agent.entropy_floor import EntropyFloor
from modules.algorithms.sac import SAC
from modules.batch import Spaces

CRITICS, TARGETS = ("critic.qf0", "critic.qf1"), ("critic_target.qf0", "critic_target.qf1")


# ---------------------------------------------------------------------------------------------------------- one update
@pytest.mark.parametrize("name", ["sac", "sac_fixed"])
def test_two_updates_equal_those_of_stable_baselines3(name: str) -> None:
    """With a temperature that is learned, and with one that is given."""
    recorded = RecordedOfStableBaselines3(name)
    settings = recorded.settings
    learned, rate = settings["ent_coef"] == "auto", settings["learning_rate"]
    agent = SAC(
        recorded.spaces, discount=settings["gamma"], hidden=recorded.hidden, actor_lr=rate, critic_lr=rate,
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
            assert recorded.distance(network, f"after_{update}", *names) < recorded.near, (update, names)
        if learned:
            log_temperature = recorded.parameter(f"after_{update}", "temperature.log")
            torch.testing.assert_close(agent.log_temperature.detach(), log_temperature, rtol=0, atol=1e-6)
        reported = {"ent_coef": found["temperature"], "critic_loss": found["bellman_error"]}
        reported["actor_loss"] = found["negative_value"] - found["temperature"] * found["entropy"]
        assert reported == pytest.approx(recorded.losses[update - 1], rel=recorded.share)


def actions_of(agent: SAC, logits: Tensor, noise: Tensor, own: bool) -> tuple[Tensor, Tensor]:
    """`[B, A]` actions or `[B, n]` weights of one policy's output, and their `[B]` log-probability, as defined."""
    if not agent.units.discrete:
        mean, log_std = logits.chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20.0, 2.0).exp())
        squashed = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform()])
        action = torch.tanh(normal.mean + normal.stddev * noise)
        return action, squashed.log_prob(action).sum(-1)
    log_prob = torch.log_softmax(logits, -1)
    weight = log_prob.exp()
    if own and agent.estimator is not None:
        uniform = torch.distributions.Normal(0.0, 1.0).cdf(noise)
        uniform = uniform[:, 0] if agent.own.d_noise == 1 else uniform
        weight = agent.estimator.sample(log_prob, uniform, 0.5 if agent.estimator.has_temperature else 1.0)
    return weight, (weight * log_prob).sum(-1)


def q(agent: SAC, critic: nn.Module, state: Tensor, played: Tensor) -> Tensor:
    """`[B]` values of a continuous action, or by the weights of numbered ones."""
    if agent.units.discrete:
        return (critic(state) * played).sum(-1)
    return critic(torch.cat([state, played], -1)).squeeze(-1)


def least(agent: SAC, critics: list[nn.Module], state: Tensor, played: Tensor) -> Tensor:
    """The lesser value of each action, and its expectation where actions are numbered."""
    if agent.units.discrete:
        return (torch.min(critics[0](state), critics[1](state)) * played).sum(-1)
    return torch.min(*(q(agent, critic, state, played) for critic in critics))


def stepped(network: nn.Module, loss: Tensor, lr: float) -> None:
    """One step of a new Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    optimizer.zero_grad()
    loss.backward(inputs=list(network.parameters()))
    optimizer.step()


@pytest.mark.parametrize("residual", [0.0, 0.25])
@pytest.mark.parametrize("gradient", ["continuous", *GRADIENTS])
def test_one_update_equals_the_papers_written_plainly(gradient: str, residual: float) -> None:
    spaces, batch, settings = SPACES, make_batch(), {}
    if gradient != "continuous":
        spaces, batch, settings = NUMBERED, make_numbered_batch(), {"gradient": gradient}
        settings |= {"gumbel_temperature": 0.5} if "gumbel" in gradient else {}
    agent = make_agent(
        spaces, discount=0.9, actor_lr=1e-3, critic_lr=2e-3, temperature_lr=0.1,
        **{"critic.residual_weight": residual, "critic.target_rate": 0.1, "entropy.initial_temperature": 0.5,
           "entropy.share": 0.6}, **settings,
    )  # fmt: skip
    with torch.no_grad():  # targets start elsewhere, so that it matters who is asked
        for p in agent.target_critic.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    noise = torch.randn(agent.noise_for(batch).shape, generator=torch.Generator().manual_seed(1))
    ahead, now = noise[0].split([agent.kind.d_noise, agent.own.d_noise], -1)
    policy = agent.actor.network.member(0)
    critics, targets = ([x.member(i) for i in range(2)] for x in (agent.critic, agent.target_critic))

    s, s2, live = batch.observation, batch.next_observation, 1.0 - batch.terminated.float()
    a = torch.eye(3)[batch.action - 1] if agent.units.discrete else batch.action
    with torch.no_grad():
        a2, log_prob2 = actions_of(agent, policy(s2), ahead, own=False)
        y = batch.reward + 0.9 * live * (least(agent, targets, s2, a2) - 0.5 * log_prob2)
    errors = []
    for critic in critics:
        value = q(agent, critic, s, a)
        back = batch.reward + 0.9 * live * (q(agent, critic, s2, a2) - 0.5 * log_prob2)
        errors.append(((1.0 - residual) * (value - y).square() + residual * (value - back).square()).mean())
        stepped(critic, 0.5 * errors[-1], 2e-3)
    played, log_prob = actions_of(agent, policy(s), now, own=True)
    value = least(agent, critics, s, played)
    exact = actions_of(agent, policy(s), now, own=False)[1]
    entropy = -exact.mean().item()
    stepped(policy, (0.5 * log_prob - value).mean(), 1e-3)
    with torch.no_grad():
        for target, online in zip(targets, critics, strict=True):
            for t, p in zip(target.parameters(), online.parameters(), strict=True):
                t.lerp_(p, 0.1)

    metrics = {name: x.item() for name, x in agent.update(batch, noise).metrics.items()}
    expected = {
        "bellman_error": torch.stack(errors).mean().item(), "target": y.mean().item(), "entropy": entropy,
        "temperature": 0.5, "negative_value": -value.mean().item(),
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    floor = 0.6 * np.log(3) if agent.units.discrete else -2.0
    sign = 1.0 if entropy > floor else -1.0  # Adam's first step is its rate against the sign of the gradient
    assert agent.log_temperature.item() == pytest.approx(np.log(0.5) - 0.1 * sign, abs=1e-5)
    pairs = [(agent.actor.network, 0, policy)]
    pairs += [(agent.critic, i, critics[i]) for i in range(2)]
    pairs += [(agent.target_critic, i, targets[i]) for i in range(2)]
    for stacked, index, plain in pairs:
        for p, expected_p in zip(stacked.member(index).parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, expected_p, rtol=1e-3, atol=5e-6)


def test_time_outs_are_bootstrapped_and_ends_are_not() -> None:
    agent, batch = make_agent(), make_batch()
    none, every = torch.zeros(32, dtype=torch.bool), torch.ones(32, dtype=torch.bool)
    noise = agent.noise_for(batch)
    cut, ended = (
        agent.update(batch._replace(terminated=end, truncated=every), noise).metrics["target"].item()
        for end in (none, every)
    )
    assert ended == pytest.approx(batch.reward.mean().item(), abs=1e-6)
    assert abs(cut - ended) > 0.1


@pytest.mark.parametrize(("target", "grows"), [(1.38, True), (-50.0, False)])
def test_the_temperature_grows_below_the_floor_and_falls_above_it(target: float, grows: bool) -> None:
    agent = make_agent(temperature_lr=0.01, **{"entropy.target": target})
    temperatures = [agent.update(make_batch(seed=i)).metrics["temperature"].item() for i in range(5)]
    assert (temperatures == sorted(temperatures)) == grows
    assert temperatures[0] == 1.0
    assert temperatures[-1] != 1.0


def test_without_a_floor_values_are_plain_and_with_a_rate_of_zero_the_temperature_stays() -> None:
    plain, fixed = make_agent(**{"entropy.target": None}), make_agent(temperature_lr=0.0)
    for i in range(3):
        found = [agent.update(make_batch(seed=i)).metrics["temperature"].item() for agent in (plain, fixed)]
        assert found == [0.0, 1.0]


def test_settings_of_the_critics_bind() -> None:
    agent = make_agent(**{"critic.projection_radius": 0.5, "critic.value_range": (-1.0, 1.0), "critic.clip": "backup"})
    with torch.no_grad():
        agent.target_critic.layers[-1].bias.fill_(500.0)  # type: ignore[union-attr, operator]
    batch = make_batch()._replace(terminated=torch.zeros(32, dtype=torch.bool))
    assert agent.update(batch).metrics["target"].item() == 1.0
    norms = [torch.linalg.matrix_norm(layer.weight).max().item() for layer in agent.critic.layers]  # type: ignore[arg-type, union-attr]
    assert max(norms) <= 0.5 + 1e-6
    assert make_agent(**{"critic.layer_norm": True}).critic.layer_norm


@pytest.mark.parametrize("spaces", [SPACES, NUMBERED])
def test_held_out_losses_are_of_the_likeliest_action_with_the_entropy_and_change_nothing(spaces: Spaces) -> None:
    agent = make_agent(spaces, **{"entropy.initial_temperature": 0.3})
    batch = make_numbered_batch(seed=7) if agent.units.discrete else make_batch(seed=7)
    policy = agent.actor.network.member(0)
    critics, targets = ([x.member(i) for i in range(2)] for x in (agent.critic, agent.target_critic))
    before, found = snapshot(agent), agent.evaluate_losses(batch)
    assert same(before, agent)
    a, likeliest = batch.action, agent.policy()(batch.observation)
    likeliest2, entropy = (
        agent.policy()(batch.next_observation),
        agent.kind.entropy(*agent.actor(batch.next_observation[None]))[0],
    )
    if agent.units.discrete:
        a, likeliest, likeliest2 = (torch.eye(3)[x - 1] for x in (a, likeliest, likeliest2))
        p = policy(batch.next_observation).softmax(-1)
        torch.testing.assert_close(entropy, -(p * p.log()).sum(-1))
    else:
        draws = torch.randn(2000, 32, 2, generator=torch.Generator().manual_seed(0))
        sampled = -actions_of(agent, policy(batch.next_observation).expand(2000, 32, 4), draws, own=False)[1].mean(0)
        torch.testing.assert_close(entropy, sampled, rtol=0, atol=0.15)
    with torch.no_grad():
        y = least(agent, targets, batch.next_observation, likeliest2) + 0.3 * entropy
        y = batch.reward + 0.99 * (1.0 - batch.terminated.float()) * y
        values = torch.stack([q(agent, c, batch.observation, a) for c in critics])
        gaps = torch.stack([q(agent, c, batch.observation, likeliest) for c in critics]) - values
    assert found["td_error"].item() == pytest.approx((values - y).square().mean().item(), rel=1e-4)
    assert found["pessimism"].item() == pytest.approx(gaps.mean().item(), rel=1e-3, abs=1e-5)
    assert ("accuracy" in found) == agent.units.discrete


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "seeds"),
        ({"discount": 1.5}, "discount"),
        ({"critic_lr": -1.0}, "critic_lr"),
        ({"actor_lr": float("inf")}, "actor_lr"),
        ({"temperature_lr": float("nan")}, "temperature_lr"),
        ({"hidden": [16, 0]}, "hidden"),
        ({"initializer": "xavier"}, "initializer"),
        ({"gradient": "reinforce"}, "gradient must be one of .*expectation.*straight_through.*got"),
        ({"gradient": "gumbel_softmax", "gumbel_temperature": 0.0}, "gumbel_temperature must lie in"),
        ({"gumbel_temperature": 0.5}, "gumbel_temperature 0.5 would be ignored: gradient expectation .*leave it out"),
        ({"gradient": "straight_through", "gumbel_temperature": 0.5}, "gradient straight_through has no temperature"),
        ({"critic": {"target_rate": 0.1}}, "critic"),
        ({"entropy": {"share": 0.1}}, "entropy"),
        ({"critic.target_rate": 2.0}, r"critic\.target_rate"),
        ({"critic.roles": "split"}, r"critic\.roles must be twin for SAC.*got split"),
        ({"entropy.reduction": "mean"}, r"entropy\.reduction must be sum for SAC.*got mean"),
        ({"entropy.share": 1.5}, r"entropy\.share must lie in \[0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(NUMBERED, **arguments)


def test_spaces_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"gradient straight_through is of numbered actions, .*Box.*leave it out"):
        make_agent(gradient="straight_through")
    with pytest.raises(ValueError, match="bounded"):
        make_agent(Spaces(SPACES.observation, gym.spaces.Box(-np.inf, np.inf, (2,))))
