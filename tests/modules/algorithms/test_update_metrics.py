"""Metrics of one update are means over the rows that count, worked out plainly from the networks before it."""

from __future__ import annotations

from functools import partial
from typing import Any

import a2c_agents
import atac_agents
import dreamer_agents
import gymnasium as gym
import pytest
import r2d2_agents
import torch
from torch import Tensor

from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.warm_start import WarmStart
from modules.functional.transforms import signed_hyperbolic, signed_parabolic
from modules.networks.value_heads import PopArtHead
from modules.world_model.plan2explore import Plan2Explore


def norm_of_first_step(optimizer: torch.optim.Adam) -> float:
    """Of the gradient of an optimiser's first step, of which Adam's first moment is a tenth."""
    moments = [state["exp_avg"].flatten() for state in optimizer.state.values()]
    return 10.0 * float(torch.cat(moments).norm())


# ------------------------------------------------------------------------------------------------------------------ A2C
def test_a2c_counts_no_transition_from_one_episode_to_the_next() -> None:
    agent = a2c_agents.make(discount=0.9, lambda_=0.5, entropy=0.1, critic_scale=0.25, clip_norm=1e6)
    windows = a2c_agents.windows(agent)
    batch = torch.cat([windows[3:4, :2], windows[1:2, 2:4]])  # one transition each; the second leads to a new episode
    assert batch["is_first"].tolist() == [[False, False], [False, True]]
    features = agent.torso(agent.perception({"observation": batch["observation"][:1]}))[0]
    value = agent.critic.mean(agent.critic(features)).tolist()
    policy = torch.distributions.Categorical(logits=agent.actor(features[0]).detach())
    log_prob = float(policy.log_prob(batch["previous_action"][0, 1]))
    rho = torch.tensor(log_prob - float(batch["stored"][0, 1, 0])).exp().item()
    delta = min(1.0, rho) * (float(batch["reward"][0, 1]) + 0.9 * value[1] - value[0])
    metrics = {name: x.item() for name, x in agent.update(batch).metrics.items()}
    # Losses are means over both places, of which one is empty; what describes the data is a mean over the other alone.
    expected = {
        "policy_loss": -log_prob * delta / 2,
        "critic_loss": 0.5 * delta**2 / 2,
        "entropy": policy.entropy().item(),
        "target": value[0] + delta,
        "rho": rho,
    }
    norm = metrics.pop("norm")
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert norm == pytest.approx(norm_of_first_step(agent.optimizer), rel=1e-5)


@pytest.mark.parametrize("task", [None, 0, 1])
def test_a2c_divides_advantages_by_the_deviation_of_the_rows_own_task(
    task: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"critic": PopArtHead} if task is None else a2c_agents.TASKS
    agent = a2c_agents.make(discount=0.9, **settings)
    agent.critic.codec.sigma[:] = torch.tensor([2.0, 5.0])[: len(agent.critic.codec.sigma)]
    windows = a2c_agents.windows(agent)
    batch = torch.cat([windows[3:4, :2], windows[1:2, 2:4]])
    if task is not None:  # the other row, of which nothing counts, has the other task, and so has the row that follows
        batch["observation", "task"] = torch.eye(2)[torch.tensor([[task, 1 - task], [1 - task, task]])]
    observation = batch["observation"] if task is not None else {"observation": batch["observation"]}
    features = agent.torso(agent.perception({key: x.transpose(0, 1) for key, x in observation.items()}))[:, 0]
    rows = {} if task is None else {"task": torch.tensor([task, 1 - task])}
    value = agent.critic.mean(agent.critic(features), **rows).tolist()
    policy = torch.distributions.Categorical(logits=agent.actor(features[0]).detach())
    log_prob = float(policy.log_prob(batch["previous_action"][0, 1]))
    rho = torch.tensor(log_prob - float(batch["stored"][0, 1, 0])).exp().item()
    delta = min(1.0, rho) * (float(batch["reward"][0, 1]) + 0.9 * value[1] - value[0])

    heard: list[Any] = []
    monkeypatch.setattr(agent, "announce", lambda *arguments: heard.append(arguments) or {"told": torch.tensor(7.0)})
    metrics = {name: x.item() for name, x in agent.update(batch).metrics.items()}
    assert metrics["policy_loss"] == pytest.approx(-log_prob * delta / (5.0 if task else 2.0) / 2, rel=1e-4)
    assert metrics["told"] == 7.0
    ((event, heads, targets, counted, tasks),) = heard
    assert (event, heads) == ("on_targets", (agent.critic,))
    assert targets[0, 0].item() == pytest.approx(value[0] + delta, rel=1e-4)
    assert counted.tolist() == [[True, False]]
    assert tasks is None if task is None else tasks.tolist() == [[task, 1 - task]]
    if task is not None:
        agent.update(windows)
        assert torch.equal(heard[1][4], windows["observation", "task"].argmax(-1).transpose(0, 1)[:-1])


# ----------------------------------------------------------------------------------------------------------------- R2D2
def test_r2d2_averages_over_steps_that_have_a_target() -> None:
    agent = r2d2_agents.make_agent(n_step=1, discounts=[0.9], clip_norm=1e6)
    torch.nn.init.normal_(agent.target_network.head.output.weight)
    batch = r2d2_agents.make_batch(agent)
    online, slow = (r2d2_agents.predictions(agent, batch, target)[r2d2_agents.BURN_IN :] for target in (False, True))
    rows = [x[r2d2_agents.BURN_IN + 1 :] for x in batch.sequence[1:]]
    follows = ~batch.padding[r2d2_agents.BURN_IN + 1 :]
    best = signed_parabolic(slow.gather(-1, online.argmax(-1, keepdim=True)).squeeze(-1))[1:]
    alive = (~batch.sequence.terminated[r2d2_agents.BURN_IN + 1 :]).float()
    target = batch.sequence.reward[r2d2_agents.BURN_IN + 1 :] + 0.9 * alive * best
    action = (rows[0] - 1).clamp_min(0).unsqueeze(-1)
    taken = online[:-1].gather(-1, action).squeeze(-1)
    error = (taken - signed_hyperbolic(target)).abs()
    sizes = [error[:, b][follows[:, b]] for b in range(error.shape[1])]
    metrics = {name: x.item() for name, x in agent.update(batch).metrics.items()}
    expected = {
        "loss": float(sum(w * 0.5 * x.square().sum() for w, x in zip(batch.weight, sizes, strict=True))) / len(sizes),
        "value": signed_parabolic(taken)[follows].mean().item(),
        "target": target[follows].mean().item(),
        "error": error[follows].mean().item(),
        "priority": sum(0.9 * float(x.max()) + 0.1 * float(x.mean()) for x in sizes) / len(sizes),
    }
    norm = metrics.pop("norm")
    assert metrics == pytest.approx(expected, rel=1e-3)
    assert norm == pytest.approx(norm_of_first_step(agent.optimizer), rel=1e-4)


def test_r2d2_learns_from_one_target_as_from_many(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = r2d2_agents.make_agent(n_step=1, discounts=[0.9])
    batch = r2d2_agents.make_batch(agent)
    padding = torch.ones_like(batch.padding)
    padding[: r2d2_agents.BURN_IN + 2, 0] = False  # one step behind the burn-in, of the first sequence
    batch = batch._replace(padding=padding)
    online = r2d2_agents.predictions(agent, batch)[r2d2_agents.BURN_IN, 0]
    taken = online[batch.sequence.previous_action[r2d2_agents.BURN_IN + 1, 0] - 1]
    heard, losses = [], []
    monkeypatch.setattr(agent, "announce", lambda *arguments: heard.append(arguments) or {"told": torch.tensor(7.0)})
    monkeypatch.setattr(
        "modules.algorithms.r2d2.descend_clipped",
        lambda _, loss, *settings: losses.append(loss.item()) or torch.zeros(()),
    )
    metrics = {name: x.item() for name, x in agent.update(batch).metrics.items()}
    error = float(taken) - float(signed_hyperbolic(torch.tensor(metrics["target"])))
    assert metrics["value"] == pytest.approx(float(signed_parabolic(taken)), rel=1e-4)
    assert metrics["error"] == pytest.approx(abs(error), rel=1e-3)
    assert losses == [metrics["loss"]]
    assert metrics["loss"] == pytest.approx(float(batch.weight[0]) * 0.5 * error**2 / 5, rel=1e-3)
    assert metrics["told"] == 7.0
    ((event, heads, target, counted, task),) = heard
    assert (event, heads, task) == ("on_targets", (agent.network.head, agent.target_network.head), None)
    assert counted.nonzero().tolist() == [[0, 0, 0]]
    assert target[0, 0, 0].item() == metrics["target"]


# ----------------------------------------------------------------------------------------------------------------- ATAC
def policy_and_critics(agent: Any) -> tuple[Any, Any, Any]:
    """The first member's sampler, its critics and their targets, each `(observation, ...) -> [B]`."""
    actor = agent.actor.network.member(0)

    def sample(observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor(observation).chunk(2, -1)
        base = torch.distributions.Normal(mean, log_std.clamp(*agent.actor_updates.log_std_range).exp())
        x = mean + base.scale * noise
        return torch.tanh(x), (base.log_prob(x) - torch.log1p(-torch.tanh(x).square())).sum(-1)

    def values(network: Any) -> Any:
        members = [network.member(i) for i in range(2)]
        return lambda s, a: torch.stack([m(torch.cat([s, a], -1)).squeeze(-1) for m in members])

    return sample, values(agent.critic), values(agent.target_critic)


@pytest.mark.parametrize("kind", ["game", "warm start", "initial states", "clipped backups"])
def test_atac_averages_over_critics_and_rows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warm, clipped, initial = kind == "warm start", kind == "clipped backups", kind == "initial states"
    updates = CriticUpdates(target_rate=0.0, value_range=(-0.3, 0.4) if clipped else None, clip="backup")
    agent = atac_agents.make_agent(
        critic_lr=0.0, actor_lr=0.0, critic=updates, warm_start=WarmStart(5 * warm),
        pessimism="initial" if initial else "relative", actor=ActorUpdates(critic=int(initial)),
    )  # fmt: skip
    weights: list[dict[str, float]] = []
    monkeypatch.setattr(
        "modules.algorithms.atac.weighted_sum", lambda terms, scales: weights.append(scales) or sum(terms.values())
    )
    with torch.no_grad():
        agent.log_temperature.fill_(-0.5)
        for p in agent.target_critic.parameters():
            p.mul_(1.5)
    batch = atac_agents.make_batch()
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    sample, critics, targets = policy_and_critics(agent)
    s, a, r, s2 = batch.observation, batch.action, batch.reward, batch.next_observation
    with torch.no_grad():
        action, log_prob = sample(s, noise[0, 0])
        next_action, _ = sample(s2, noise[1, 0])
        alive = 0.99 * (1.0 - batch.terminated.float())
        low, high = (-0.3, 0.4) if clipped else (-1e9, 1e9)
        target = (r + alive * targets(s2, next_action).amin(0)).clamp(low, high)
        value = critics(s, a)
        residual = value - (r + alive * critics(s2, next_action)).clamp(low, high)
        bellman = 0.5 * (value - target).square().mean(-1) + 0.5 * residual.square().mean(-1)
        pessimism = (critics(s, action) - value).mean(-1)
        if initial:
            first = batch.initial_observation
            pessimism = critics(first, sample(first, noise[2, 0])[0]).mean(-1)
        mean, log_std = agent.actor.network.member(0)(s).chunk(2, -1)
        base = torch.distributions.Normal(mean, log_std.clamp(*agent.actor_updates.log_std_range).exp())
        likelihood = (base.log_prob(torch.atanh(a)) - torch.log1p(-a.square())).sum(-1)
        negative_value = -critics(s, action)[int(initial)].mean()
    found = agent.update(batch, noise).metrics
    assert all(x.shape == (1,) for x in found.values())
    assert weights == [{"game": 1.0}] * 2  # of critics and policy
    expected = {
        "bellman_error": bellman.mean().item(),
        "pessimism": 0.0 if warm else pessimism.mean().item(),
        "value": value.mean().item(),
        "target": target.mean().item(),
        "entropy": -log_prob.mean().item(),
        "temperature": agent.log_temperature.exp().item(),
    }
    if warm:
        expected["cloning_loss"] = -likelihood.mean().item()
    else:
        expected["negative_value"] = negative_value.item()
    assert {name: x.item() for name, x in found.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_atac_asks_a_reference_policy_in_the_datas_own_units() -> None:
    agent = atac_agents.make_agent()
    agent.normalize.mean.fill_(3.0)
    agent.normalize.std.fill_(2.0)
    asked: list[Tensor] = []
    agent.reference = [lambda raw: asked.append(raw) or torch.zeros(*raw.shape[:-1], 2)]  # type: ignore[list-item]
    batch = atac_agents.make_batch()
    agent.update(batch)
    torch.testing.assert_close(asked[0], batch.observation)


# -------------------------------------------------------------------------------------------------------------- Dreamer
def test_dreamer_averages_the_models_losses_over_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = dreamer_agents.make_agent(
        discount=0.9, reward_loss_scale=3.0, discount_loss_scale=5.0, kl_scale=0.25, free_nats=50.0, model_clip_norm=1e6
    )
    model, batch = agent.world_model, dreamer_agents.make_sequence(agent)
    noise = agent.draw_noise(*batch.reward.shape)
    learned: list[Any] = []
    monkeypatch.setattr(agent.behaviour, "learn", lambda *arguments: learned.append(arguments) or {"imagined": 1.0})
    weights: dict[str, float] = {}
    monkeypatch.setattr(
        "modules.algorithms.dreamer.weighted_sum",
        lambda terms, scales: weights.update(scales) or sum(scales[name] * term for name, term in terms.items()),
    )
    with torch.no_grad():
        action = agent.behaviour.actor.encode(batch.previous_action)
        observed = model.observe(batch.observation, action, batch.is_first, noise.posterior)
        features = observed.state.features
        seen = model.prepare(batch.observation)["observation"]
        shown = model.decoder(features.flatten(0, 1))["observation"]
        ahead = 0.9 * (1.0 - batch.terminated.float())
        chance = model.expected_discount(features, 0.9)
        posterior, prior = (
            torch.distributions.Categorical(logits=x.unflatten(-1, (3, 4)))
            for x in (observed.posterior, observed.prior)
        )
        kl = torch.distributions.kl_divergence(posterior, prior).sum(-1).mean().item()
        expected = {
            "observation_loss": 0.5 * (shown - seen).square().sum(-1).mean().item(),
            "reward_loss": 0.5 * (model.expected_reward(features) - batch.reward).square().mean().item(),
            "discount_loss": -(ahead * chance.log() + (1 - ahead) * (1 - chance).log()).mean().item(),
            "kl_loss": 0.25 * max(kl, 50.0),
            "kl": kl,
            "posterior_entropy": posterior.entropy().sum(-1).mean().item(),
            "prior_entropy": prior.entropy().sum(-1).mean().item(),
            "imagined": 1.0,
        }
        rewards = model.expected_reward(features[:2])
    metrics = {name: float(x) for name, x in agent.update(batch, noise).metrics.items()}
    norm = metrics.pop("model_norm")
    assert metrics == pytest.approx(expected, rel=1e-4)
    assert norm == pytest.approx(norm_of_first_step(agent.model_optimizer), rel=1e-4)
    assert weights == {"observation": 1.0, "reward": 3.0, "discount": 5.0, "kl": 1.0}
    # Imagination starts from every step of the batch, and is told what follows it.
    ((rssm, start, first, reward, discount, drawn, _),) = learned
    assert rssm is model.rssm
    assert drawn is noise.task
    assert not start.features.requires_grad
    torch.testing.assert_close(start.features, features.flatten(0, 1))
    torch.testing.assert_close(first, ahead.flatten())
    assert not torch.allclose(reward(features[:2], None), rewards)  # the model has learned in between
    torch.testing.assert_close(reward(features[:2], None), model.expected_reward(features[:2]))
    torch.testing.assert_close(discount(features[:2]), model.expected_discount(features[:2], 0.9))


def test_dreamer_hands_on_what_callbacks_latents_and_explorers_take_part_in(monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = gym.spaces.Dict({"left": dreamer_agents.VECTOR, "right": dreamer_agents.VECTOR})
    explorer = partial(Plan2Explore, members=3, hidden=[8])
    agent = dreamer_agents.make_agent(sensors, model={"discount": False}, exploration=explorer)
    model, latent, batch = agent.world_model, agent.world_model.rssm.latent, dreamer_agents.make_sequence(agent)
    noise = agent.draw_noise(*batch.reward.shape)
    with torch.no_grad():
        action = agent.behaviour.actor.encode(batch.previous_action)
        observed = model.observe(batch.observation, action, batch.is_first, noise.posterior)
    heard, adapted, explored, coded, trained, weights = [], [], [], [], [], {}

    def announce(event: str, *arguments: Any) -> Any:
        heard.append((event, *arguments))
        return (3.0 * arguments[0].mean(), {"balance": torch.tensor(5.0)}) if event == "on_kl" else None

    def weigh(terms: dict[str, Tensor], scales: dict[str, float]) -> Tensor:
        weights.update(scales)
        shared = model.rssm.cell.linear.weight
        reached = [torch.autograd.grad(x, shared, retain_graph=True, allow_unused=True)[0] for x in terms.values()]
        trained.extend(name for name, gradient in zip(terms, reached, strict=True) if gradient is not None)
        return sum(scales[name] * term for name, term in terms.items())  # type: ignore[return-value]

    def code(posterior: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        coded.append(posterior)
        return {"codes": torch.arange(24.0).view(6, 4) + 0.0 * posterior.sum(-1)}, {"codes": 0.5}

    monkeypatch.setattr(agent, "announce", announce)
    monkeypatch.setattr("modules.algorithms.dreamer.weighted_sum", weigh)
    monkeypatch.setattr(agent.behaviour, "learn", lambda *_: {})
    monkeypatch.setattr(latent, "auxiliary_losses", code)
    monkeypatch.setattr(latent, "adapt", adapted.append)
    monkeypatch.setattr(agent.exploration, "learn", lambda *arguments: explored.append(arguments) or {"bonus": 2.0})
    metrics = {name: float(x) for name, x in agent.update(batch, noise).metrics.items()}

    # A callback may give the divergence's loss; a latent, losses of its own.
    event, dynamic, representation = heard[0]
    assert event == "on_kl"
    assert [term.shape for term in (dynamic, representation)] == [(6, 4), (6, 4)]
    torch.testing.assert_close(dynamic, representation)
    assert metrics["kl"] == pytest.approx(dynamic.mean().item())
    assert metrics["kl_loss"] == pytest.approx(3.0 * metrics["kl"])
    assert (metrics["balance"], metrics["codes_loss"]) == (5.0, 11.5)
    torch.testing.assert_close(coded[0].detach(), observed.posterior)
    assert weights == {"observation/left": 1.0, "observation/right": 1.0, "reward": 1.0, "kl": 1.0, "codes": 0.5}
    assert trained == list(weights)  # all losses reach the recurrent model
    assert not adapted[0].requires_grad
    torch.testing.assert_close(adapted, [observed.posterior])
    # What explores sees the same states, and is told the same of rewards and discounts as the task's behaviour.
    assert metrics["exploration/bonus"] == 2.0
    ((rssm, seen, done, first, ahead, reward, discount, drawn, told),) = explored
    assert rssm is model.rssm
    assert drawn is noise.exploration
    assert told is announce
    assert torch.equal(done, action)
    assert torch.equal(first, batch.is_first)
    torch.testing.assert_close(ahead, 0.99 * (1.0 - batch.terminated.float()).flatten())
    features = observed.state.features
    torch.testing.assert_close(seen.state.features, features)
    torch.testing.assert_close(reward(features, None), model.expected_reward(features))
    torch.testing.assert_close(discount(features), model.expected_discount(features, 0.99))
