"""Losses with a Bellman residual, of agents that learn from sequences, against plain loops, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import a2c_agents
import pytest
import r2d2_agents
import torch
from r2d2_agents import BURN_IN, TRAINED
from torch import Tensor, nn

from modules.functional.transforms import signed_hyperbolic, signed_parabolic
from modules.networks.value_codecs import Normalized, Scalar
from modules.networks.value_heads import PopArtHead

SHARE = 0.25


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict[str, Tensor]]]:
    """The terms of the losses that a module's optimiser would descend."""

    def keep(module: str) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = []
        monkeypatch.setattr(f"{module}.weighted_sum", lambda terms, weights: found.append(terms))
        monkeypatch.setattr(f"{module}.descend_clipped", lambda *arguments: torch.zeros(()))
        return found

    return keep


def assert_same(loss: Tensor, expected: Tensor, network: nn.Module) -> None:
    """Two losses of a network that have the same gradient, too."""
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    trained = list(network.parameters())
    grads = [torch.autograd.grad(x, trained, allow_unused=True, materialize_grads=True) for x in (loss, expected)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------------ A2C
@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["plain", "normalised"])
@pytest.mark.parametrize("kind", ["vtrace", "gae"])
def test_a2c_has_the_residual_of_v_trace(kind: str, scale: float, kept: Any) -> None:
    gamma, lam = 0.9, 0.8
    critic = {} if scale == 1.0 else {"critic": PopArtHead}
    agent = a2c_agents.make(discount=gamma, lambda_=lam, advantage=kind, residual_weight=SHARE, **critic)
    if critic:
        agent.critic.codec.sigma.fill_(scale)
    batch, found = a2c_agents.windows(agent), kept("modules.algorithms.a2c")
    agent.update(batch)

    rows, steps = batch.shape
    expected = torch.zeros(())
    for b in range(rows):
        seen = {"observation": batch["observation"][b : b + 1].transpose(0, 1)}
        features = agent.torso(agent.perception(seen))[:, 0]
        value = list(scale * agent.critic(features))  # every one of them with its gradient
        policy = torch.distributions.Categorical(logits=agent.actor(features[:-1]).detach())
        present = policy.log_prob(batch["previous_action"][b, 1:])
        own = value[-1]
        for t in reversed(range(steps - 1)):
            if batch["is_first"][b, t + 1]:
                own = value[t]
                continue
            rho = min(1.0, float((present[t] - batch["stored"][b, t + 1, 0]).exp()))
            after = 0.0 if batch["terminated"][b, t + 1] else gamma
            delta = rho * (batch["reward"][b, t + 1] + after * value[t + 1] - value[t])
            own = value[t] + delta + after * lam * rho * (own - value[t + 1])
            error = (1.0 - SHARE) * (value[t] - own.detach()).square() + SHARE * (value[t] - own).square()
            expected = expected + 0.5 * error / scale**2 / (rows * (steps - 1))
    assert_same(found[0]["critic"], expected, agent)


# ----------------------------------------------------------------------------------------------------------------- R2D2
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("codec", ["transformed", "plain", "normalised"])
def test_r2d2_has_the_residual_of_the_learning_network(codec: str, n: int, kept: Any) -> None:
    """Its values of the next states, at the actions of the targets, have a gradient."""
    network = {"transformed": {}, "plain": {"codec": Scalar}, "normalised": {"codec": Normalized}}[codec]
    agent = r2d2_agents.make_agent(network, n_step=n, discounts=[0.9], residual_weight=SHARE)
    torch.nn.init.normal_(agent.target_network.head.output.weight)
    units, scale = (signed_hyperbolic, signed_parabolic), 1.0
    if codec != "transformed":
        scale = 4.0 if codec == "normalised" else 1.0
        units = (lambda x: x / scale), (lambda x: x * scale)
    if codec == "normalised":
        for head in (agent.network.head, agent.target_network.head):
            head.codec.sigma.fill_(scale)
    batch, found = r2d2_agents.make_batch(agent), kept("modules.algorithms.r2d2")
    agent.update(batch)

    h, inverse = units
    slow = inverse(r2d2_agents.predictions(agent, batch, target=True))[BURN_IN:]
    with torch.no_grad():
        _, state = agent.network.unroll(batch.sequence.between(0, BURN_IN), batch.start_state)
    rows = batch.sequence.between(BURN_IN)
    features, _ = agent.network.unroll(rows, state)
    online, padding = agent.network.head(features), batch.padding[BURN_IN:]
    expected = torch.zeros(())
    for b in range(padding.shape[1]):
        for t in range(TRAINED):
            if padding[t + 1, b]:
                break
            action = int(rows.previous_action[t + 1, b]) - 1  # the environment counts actions from 1
            total, discount, reached = 0.0, 1.0, t
            for k in range(t + 1, min(t + n, TRAINED) + 1):
                if padding[k, b]:
                    break
                total, reached = total + discount * float(rows.reward[k, b]), k
                discount *= 0.9 * float(~rows.terminated[k, b])
            best = int(online[reached, b].argmax())
            error = online[t, b, action] - h(total + discount * slow[reached, b, best])
            residual = online[t, b, action] - h(total + discount * inverse(online[reached, b, best]))
            loss = 0.5 * ((1.0 - SHARE) * error.square() + SHARE * residual.square())
            expected = expected + batch.weight[b] * loss / padding.shape[1]
    assert_same(found[0]["loss"], expected, agent.network)
