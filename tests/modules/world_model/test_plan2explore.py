"""Exploration by disagreement: the ensemble's loss, its step, and the reward of the second behaviour, by slow loops."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import pytest
import torch
from dreamer_agents import latent, learned, parameters, trunk
from torch import Tensor

from modules.world_model.actor_critic import CLIP_NORM, DECAY, ActorCritic
from modules.world_model.plan2explore import Plan2Explore
from modules.world_model.rssm import RSSM, Observed, State

STEPS, ROWS, HORIZON, MEMBERS, ACTION = 5, 3, 4, 3, 2
SPACE = gym.spaces.Discrete(ACTION)


def make(**arguments: Any) -> tuple[Plan2Explore, RSSM]:
    torch.manual_seed(0)
    rssm = RSSM(6, ACTION, latent(), deter=8, hidden=8)
    behaviour = partial(ActorCritic, units=8, trunk=trunk, horizon=HORIZON)
    return Plan2Explore(SPACE, rssm, ACTION, behaviour, members=MEMBERS, hidden=[8], **arguments), rssm


def window(rssm: RSSM) -> tuple[Observed, Tensor, Tensor]:
    """States, actions before them, and where episodes start: in the middle of the second row."""
    width = rssm.latent.width
    state = State(torch.randn(STEPS, ROWS, 8), torch.randn(STEPS, ROWS, width))
    is_first = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    is_first[3, 1] = True
    return Observed(state, *[torch.zeros(STEPS, ROWS, 1)] * 2), torch.randn(STEPS, ROWS, ACTION), is_first


def learn(explorer: Plan2Explore, rssm: RSSM, *seen: Any, **given: Any) -> dict[str, Tensor]:
    starts = torch.ones(STEPS * ROWS)
    reward = given.pop("reward", lambda features, actions: features.sum(-1) + actions.sum(-1))
    noise = explorer.behaviour.noise(rssm, STEPS * ROWS, torch.device("cpu"))
    return explorer.learn(rssm, *seen, starts, reward, lambda f: torch.ones(f.shape[:-1]), noise, **given)


def test_members_predict_the_next_latent_within_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer, rssm = make()
    observed, action, is_first = window(rssm)
    features, latents = observed.state.features, observed.state.z
    expected = torch.zeros(())
    for member in range(MEMBERS):
        own = slice(member, member + 1)
        for t in range(STEPS - 1):
            for b in range(ROWS):
                if not is_first[t + 1, b]:
                    seen = torch.cat([features[t, b], action[t + 1, b]]).view(1, 1, -1)
                    found = explorer.ensemble(seen, own).flatten()
                    expected = expected + 0.5 * (found - latents[t + 1, b]).square().sum()
    expected = expected / (MEMBERS * (STEPS - 1) * ROWS)  # also of the place that does not count

    steps: list[Any] = []
    monkeypatch.setattr("modules.world_model.latent_ensemble.descend_clipped", lambda *given: steps.append(given))
    metrics = learn(explorer, rssm, observed, action, is_first)
    ((optimizer, loss, *settings),) = steps
    assert optimizer is explorer.optimizer
    assert settings == [CLIP_NORM, DECAY]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["ensemble_loss"], expected.detach())
    differing = explorer.disagreement(features[:-1], action[1:]).mean()
    torch.testing.assert_close(metrics["disagreement"], differing.detach())
    assert not metrics["ensemble_loss"].requires_grad
    weights = list(explorer.ensemble.parameters())
    torch.testing.assert_close(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights))


def test_the_ensemble_and_the_second_behaviour_learn_and_the_model_does_not() -> None:
    explorer, rssm = make(lr=1e-2)
    parts = (explorer.ensemble, explorer.behaviour.actor, explorer.behaviour.critic)
    before, model = [parameters(part) for part in parts], parameters(rssm)
    seen = window(rssm)
    losses = [float(learn(explorer, rssm, *seen)["ensemble_loss"]) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(learned(part, old) for part, old in zip(parts, before, strict=True))
    assert all(torch.equal(p, old) for p, old in zip(rssm.parameters(), model, strict=True))


def test_disagreement_is_the_mean_deviation_of_the_members() -> None:
    explorer, rssm = make()
    features, action = torch.randn(2, 3, rssm.width), torch.randn(2, 3, ACTION)
    found = explorer.disagreement(features, action)
    for t in range(2):
        for n in range(3):
            seen = torch.cat([features[t, n], action[t, n]])
            each = torch.stack([explorer.ensemble.member(m)(seen) for m in range(MEMBERS)])
            expected = (each - each.mean(0)).square().mean(0).sqrt().mean()
            torch.testing.assert_close(found[t, n], expected)


@pytest.mark.parametrize(("intrinsic", "extrinsic"), [(2.0, 0.0), (2.0, 0.5), (0.0, 3.0)])
def test_a_state_is_worth_the_disagreement_about_it_before_it_was_reached(
    intrinsic: float, extrinsic: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer, rssm = make(intrinsic_scale=intrinsic, extrinsic_scale=extrinsic)
    observed, action, is_first = window(rssm)
    told: list[Any] = []
    monkeypatch.setattr(explorer.behaviour, "learn", lambda *given: told.append(given) or {"actor_loss": 1.0})
    asked: list[tuple[Tensor, Tensor]] = []

    def reward(features: Tensor, actions: Tensor) -> Tensor:
        asked.append((features, actions))
        return features[..., 0] - actions[..., 0]

    def announce(*_: Any) -> None: ...

    metrics = learn(explorer, rssm, observed, action, is_first, reward=reward, announce=announce)
    assert metrics["actor_loss"] == 1.0
    ((model, start, first, curiosity, _, _, heard),) = told
    assert model is rssm
    assert heard is announce
    assert torch.equal(first, torch.ones(STEPS * ROWS))
    assert torch.equal(start.features, observed.state.features.flatten(0, 1))

    features, actions = torch.randn(HORIZON, 2, rssm.width), torch.randn(HORIZON, 2, ACTION)
    found = curiosity(features, actions)
    expected = torch.zeros(HORIZON, 2)
    for t in range(HORIZON):
        if t:
            expected[t] += intrinsic * explorer.disagreement(features[t - 1], actions[t - 1]).detach()
        expected[t] += extrinsic * (features[t, :, 0] - actions[t, :, 0])
    torch.testing.assert_close(found.detach(), expected)
    assert len(asked) == bool(extrinsic)
