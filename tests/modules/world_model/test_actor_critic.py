"""Actor and critic in imagination: their losses and metrics against plain loops, in every form of the gradient."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from modules.functional.gradient_estimators import EstimatorName
from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack
from modules.networks.value_codecs import Normalized, TwoHot
from modules.networks.value_heads import Head
from modules.world_model.actor_critic import CLIP_NORM, DECAY, ActorCritic
from modules.world_model.imagined import by_step, values
from modules.world_model.rssm import State

TURN = gym.spaces.Discrete(3)
PUSH = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)
HORIZON, ROWS, ETA, LAMBDA, MIX = 4, 5, 0.25, 0.8, 0.3


class MovedByActions:
    """A model whose two features halve in each step and are pushed by the action, which a gradient comes back to."""

    push = torch.tensor([[1.0, -0.5], [0.2, 0.7], [-0.4, 0.1]])

    def imagine(self, start: State, act: Any, noise: str) -> tuple[State, Tensor]:
        assert noise == "of the latents"
        found, actions = [start.features], []
        for t in range(HORIZON):
            actions.append(act(State(found[-1][..., :0], found[-1]), t))
            found.append(0.5 * found[-1] + actions[-1] @ self.push)
        features = torch.stack(found)
        return State(features[..., :0], features), torch.stack(actions)


def reward_of(features: Tensor, action: Tensor) -> Tensor:
    return 300.0 * features[..., 0] + action @ torch.tensor([1.0, 2.0, -4.0])


def discount_of(features: Tensor) -> Tensor:
    return torch.sigmoid(features[..., 1])


def slow_losses(
    learner: ActorCritic, start: Tensor, first: Tensor, noise: Tensor, mode: str
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss of the actor, that of the critic, and metrics, step by step."""
    features, policies, actions = [start], [], []
    for t in range(HORIZON):
        policies.append(learner.actor(features[t].detach()))
        sample = learner.actor.sample(policies[t], noise[t])
        actions.append(learner.actor.executed(sample).detach() if mode == "reinforce" else sample)
        features.append(0.5 * features[t] + actions[t] @ MovedByActions.push)
    rewards = [reward_of(f, a) for f, a in zip(features[:-1], actions, strict=True)]
    discounts = [first] + [discount_of(f) for f in features[1:-1]]
    slow = [learner.slow_critic.mean(learner.slow_critic(f)) for f in features]
    online = learner.critic_target == "online"
    value = [learner.critic.mean(learner.critic(f)) for f in features] if online else slow
    returns = [value[HORIZON]]
    for t in reversed(range(HORIZON)):
        mixed = (1 - LAMBDA) * value[t + 1] + LAMBDA * returns[0]
        returns.insert(0, rewards[t] + discounts[t] * mixed)
    target = torch.stack(returns[:-1]).detach()
    scale = 1.0
    if learner.return_scale == "percentiles":  # a hundredth of the way from 0
        scale = max(1.0, 0.01 * float(np.quantile(target, 0.95) - np.quantile(target, 0.05)))
        assert scale > 1.2
    weight = torch.ones(ROWS)
    actor_loss = critic_loss = torch.zeros(())
    # The learning critic's own returns, of what is imagined as it is: only its values have a gradient.
    mine = [learner.critic(f.detach()) for f in features]
    own = [mine[HORIZON]]
    for t in reversed(range(HORIZON)):
        own.insert(0, rewards[t].detach() + discounts[t].detach() * ((1 - LAMBDA) * mine[t + 1] + LAMBDA * own[0]))
    share = learner.residual_weight
    for t in range(HORIZON):
        state = features[t].detach()
        error = (1.0 - share) * 0.5 * (learner.critic(state) - returns[t].detach()).square()
        error = error + share * 0.5 * (mine[t] - own[t]).square()
        if online:
            error = error + 0.5 * (learner.critic(state) - slow[t].detach()).square()
        critic_loss = critic_loss + (weight * error).mean() / HORIZON
        if t < HORIZON - 1:
            dynamics = returns[t + 1] / scale
            advantage = ((returns[t + 1] - value[t]) / scale).detach()
            taken = learner.actor.executed(actions[t].detach())
            score = learner.actor.log_prob(policies[t], taken) * advantage
            gain = {"reinforce": score, "dynamics": dynamics, "both": MIX * dynamics + (1 - MIX) * score}[mode]
            entropy = learner.actor.entropy(policies[t])
            actor_loss = actor_loss - (weight * (gain + ETA * entropy)).mean() / (HORIZON - 1)
        weight = (weight * discounts[t]).detach()
    metrics = {
        "imagined_reward": torch.stack(rewards).mean().item(),
        "imagined_return": target.mean().item(),
        "actor_loss": actor_loss.item(),
        "actor_entropy": torch.stack([learner.actor.entropy(p) for p in policies[:-1]]).mean().item(),
        "critic_loss": critic_loss.item(),
        "critic_value": torch.stack([learner.critic(f) for f in features[:-1]]).mean().item(),
        "heard": 7.0,
    }
    return actor_loss, critic_loss, metrics


@pytest.mark.parametrize("residual", [0.0, 0.25])
@pytest.mark.parametrize("critic_target", ["slow", "online"])
@pytest.mark.parametrize(
    ("mode", "space", "scale", "estimator"),
    [
        ("reinforce", TURN, "none", "straight_through"),
        ("reinforce", TURN, "percentiles", "gumbel_softmax"),
        ("dynamics", PUSH, "none", "straight_through"),
        ("dynamics", PUSH, "percentiles", "straight_through"),
        ("both", TURN, "percentiles", "gumbel_softmax"),
    ],
)
def test_losses_gradients_and_metrics_are_those_of_plain_loops(
    mode: Literal["reinforce", "dynamics", "both"],
    space: gym.Space,
    scale: Literal["none", "percentiles"],
    estimator: EstimatorName,
    critic_target: Literal["slow", "online"],
    residual: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    learner = ActorCritic(
        space, 2, units=4, horizon=HORIZON, entropy=ETA, lambda_=LAMBDA, mix=MIX, actor_gradient=mode,
        critic_target=critic_target, return_scale=scale, trunk=partial(DenseStack, layers=1),
        discrete=partial(DiscreteActor, estimator=estimator), residual_weight=residual,
    )  # fmt: skip
    for p in learner.slow_critic.parameters():
        torch.nn.init.normal_(p)
    start, first = torch.randn(ROWS, 2, requires_grad=mode != "reinforce"), torch.tensor([0.0, 0.9, 0.5, 1.0, 0.3])
    noise = learner.actor.noise(HORIZON, ROWS)
    actor_loss, critic_loss, expected = slow_losses(learner, start, first, noise, mode)

    stepped, heard, recorded = [], [], []

    def step(optimizer: torch.optim.Adam, loss: Tensor, *settings: float) -> Tensor:
        stepped.append((optimizer, loss, settings))
        return torch.tensor(float(len(stepped)))

    def announce(*arguments: Any) -> dict[str, Any]:
        heard.append(arguments)
        return {"heard": torch.tensor(7.0)}

    def reward(features: Tensor, action: Tensor) -> Tensor:
        recorded.append(torch.is_grad_enabled())
        return reward_of(features, action)

    monkeypatch.setattr("modules.world_model.actor_critic.descend_clipped", step)
    state, draws = State(start[:, :0], start), SimpleNamespace(latent="of the latents", action=noise)
    found = learner.learn(MovedByActions(), state, first, reward, discount_of, draws, announce)  # type: ignore[arg-type]
    assert recorded == [mode != "reinforce"]  # nothing passes through the model for nothing
    assert not any(x.requires_grad for x in found.values())
    metrics = {name: float(x) for name, x in found.items()}
    assert (metrics.pop("actor_norm"), metrics.pop("critic_norm")) == (1.0, 2.0)
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-5)

    assert [optimizer for optimizer, *_ in stepped] == [learner.actor_optimizer, learner.critic_optimizer]
    assert [settings for *_, settings in stepped] == [(CLIP_NORM, DECAY)] * 2
    pairs = (stepped[0][1], actor_loss, learner.actor), (stepped[1][1], critic_loss, learner.critic)
    for loss, slow_loss, network in pairs:
        grads = [torch.autograd.grad(x, list(network.parameters()), retain_graph=True) for x in (loss, slow_loss)]
        for mine, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    # Callbacks hear of the targets, and of which of them are part of an episode: none behind a first discount of 0.
    ((event, critics, target, counted, task),) = heard
    assert (event, task) == ("on_targets", None)
    assert critics == (learner.critic, learner.slow_critic)
    assert float(target.mean()) == pytest.approx(expected["imagined_return"], rel=1e-4)
    assert counted.sum(0).tolist() == [1, HORIZON, HORIZON, HORIZON, HORIZON]


def test_a_residual_needs_a_squared_error() -> None:
    with pytest.raises(ValueError, match=r"residual_weight above 0 needs .* codec Scalar or Normalized, not TwoHot"):
        ActorCritic(TURN, 2, units=4, critic=partial(Head, codec=TwoHot), residual_weight=0.5)
    with pytest.raises(ValueError, match=r"residual_weight must lie in \[0, 1\], got 1.5"):
        ActorCritic(TURN, 2, units=4, residual_weight=1.5)
    ActorCritic(TURN, 2, units=4, critic=partial(Head, codec=TwoHot), residual_weight=0.0)


def test_scale_of_returns_is_the_range_of_the_middle_nine_tenths() -> None:
    learner = ActorCritic(TURN, 2, units=4, return_scale="percentiles")
    spread = torch.linspace(0.0, 1000.0, 1001)
    assert float(learner._scale(spread)) == pytest.approx(9.0, rel=1e-4)  # 0.01 of 900
    assert float(learner._scale(spread)) == pytest.approx(9.0 + 0.01 * 891.0, rel=1e-4)
    narrow = ActorCritic(TURN, 2, units=4, return_scale="percentiles")
    assert float(narrow._scale(torch.zeros(10))) == 1.0
    normalized = ActorCritic(TURN, 2, units=4, critic=partial(Head, codec=Normalized))
    normalized.critic.codec.sigma.fill_(3.5)
    assert float(normalized._scale(spread)) == 3.5


def test_gradients_of_values_are_with_respect_to_features_alone() -> None:
    critic = Head(2, 4, partial(DenseStack, layers=1))
    features = torch.randn(3, 5, 2, requires_grad=True)
    found, plain = values(critic, features), critic.mean(critic(features))
    torch.testing.assert_close(found, plain)
    weight = torch.randn(3, 5)
    mine, theirs = (torch.autograd.grad((x * weight).sum(), features)[0] for x in (found, plain))
    torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        for p in critic.parameters():
            p.zero_()
    torch.testing.assert_close(torch.autograd.grad(values(critic, features).sum(), features)[0], 0.0 * features)
    with torch.no_grad():
        assert not values(critic, features).requires_grad


def test_a_function_is_taken_step_by_step_unless_a_compiler_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def double(x: Tensor, y: Tensor) -> Tensor:
        shapes.append(x.shape)
        return x + y

    x, y = torch.arange(6.0).view(3, 2), torch.ones(3, 2)
    assert torch.equal(by_step(double, x, y), x + 1.0)
    assert shapes == [(2,)] * 3
    with pytest.raises(ValueError, match="shorter"):
        by_step(double, x, y[:2])
    shapes.clear()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(by_step(double, x, y), x + 1.0)
    assert shapes == [(3, 2)]
