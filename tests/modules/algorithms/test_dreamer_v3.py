"""The third version: one step of one optimiser on all losses, values of the future, what was played, bad arguments."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from dreamer_agents import PUSH, TURN, changed, latent, learned, make_agent, make_sequence, parameters, third_version
from torch import Tensor

from modules.networks.value_heads import Head
from modules.world_model.imagined import course
from modules.world_model.plan2explore import Plan2Explore
from modules.world_model.vector_quantised import VectorQuantisedLatent


@pytest.mark.parametrize("action", [TURN, PUSH], ids=["discrete", "continuous"])
def test_it_learns_from_a_batch(action: Any) -> None:
    agent = make_agent(action=action, **third_version())
    batch = make_sequence(agent)
    noise = agent.draw_noise(*batch.reward.shape)
    modules = [agent.world_model, agent.behaviour.actor, agent.behaviour.critic]
    before = [parameters(module) for module in modules]
    losses = []
    for _ in range(40):
        metrics = agent.update(batch, noise).metrics
        agent.advance()
        assert all(value.isfinite().all() and not value.requires_grad for value in metrics.values())
        losses.append(metrics["observation_loss"] + metrics["reward_loss"])
    assert losses[-1] < 0.9 * losses[0]
    assert all(learned(module, old) for module, old in zip(modules, before, strict=True))
    assert {"gradient_norm", "replay_value_loss"} <= set(metrics)


class Recorded:
    """`descend_parts` that keeps the losses instead of stepping."""

    def __call__(self, optimizer: Any, parts: Any) -> Tensor:
        self.parts = parts
        return torch.zeros(())


def test_all_losses_are_of_the_same_weights_and_each_reaches_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(**third_version())
    with torch.no_grad():  # values that are not all alike
        agent.behaviour.critic.output.weight.normal_()
    batch = make_sequence(agent)
    noise = agent.draw_noise(*batch.reward.shape)
    recorded = Recorded()
    monkeypatch.setattr("modules.world_model.shared_optimizer.descend_parts", recorded)
    metrics = agent.update(batch, noise).metrics
    (loss, shared), (actor, own) = recorded.parts
    model, critic = list(agent.world_model.parameters()), list(agent.behaviour.critic.parameters())
    assert [id(p) for p in shared] == [id(p) for p in (*model, *critic)]
    assert [id(p) for p in own] == [id(p) for p in agent.behaviour.actor.parameters()]
    weights = {"observation": 2.0, "reward": 1.0, "discount": 1.0, "kl": 1.0, "critic": 1.0, "replay_value": 0.3}
    total = sum(weight * metrics[f"{name}_loss"] for name, weight in weights.items())
    torch.testing.assert_close(loss.detach(), total)
    torch.testing.assert_close(actor.detach(), metrics["actor_loss"])
    # The actor's loss has no gradient elsewhere; that of the values which were played has one in the model.
    assert all(g is None for g in torch.autograd.grad(actor, shared, allow_unused=True, retain_graph=True))
    agent.replay_value_scale = 0.0
    agent.update(batch, noise)
    without = torch.autograd.grad(recorded.parts[0][0], model)
    with_it = torch.autograd.grad(loss, model)
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(with_it, without, strict=True))


def test_the_loss_on_what_was_played_is_that_of_a_plain_loop() -> None:
    agent = make_agent(**third_version())
    learner, batch = agent.behaviour, make_sequence(agent)
    with torch.no_grad():
        for network in (learner.critic, learner.slow_critic):
            network.output.weight.normal_()
    features = torch.randn(6, 4, agent.world_model.rssm.width)
    target, slow = torch.randn(4, 24), torch.randn(4, 24)
    imagined = type("Imagined", (), {"target": target, "slow_value": slow})()
    found = learner.replay_loss(features, batch.reward, batch.terminated, batch.truncated, imagined, 0.9)
    total = torch.zeros(())
    for column in range(4):
        following = target[0].view(6, 4)[5, column]
        for t in reversed(range(5)):
            ended, cut = bool(batch.terminated[t + 1, column]), bool(batch.truncated[t + 1, column])
            share = 0.0 if ended or cut else learner.lambda_
            ahead = (1 - share) * target[0].view(6, 4)[t + 1, column] + share * following
            following = batch.reward[t + 1, column] + (0.0 if ended else 0.9) * ahead
            if batch.terminated[t, column] or batch.truncated[t, column]:
                continue
            prediction = learner.critic(features[t, column])
            loss = learner.critic.loss(prediction, following)
            total = total + loss + learner.critic.loss(prediction, slow[0].view(6, 4)[t, column])
    torch.testing.assert_close(found, total / 20)


def test_values_of_the_future_hold_no_reward_of_arriving() -> None:
    torch.manual_seed(0)
    features, actions = torch.randn(4, 5, 3), torch.randn(3, 5, 2)
    seen = []

    def reward(x: Tensor, a: Tensor) -> Tensor:
        seen.append(a)
        return x[..., 0]

    def discount(x: Tensor) -> Tensor:
        return torch.sigmoid(x[..., 1])

    found = course("future", features, actions, torch.zeros(5), reward, discount)
    chances = torch.sigmoid(features[..., 1])
    torch.testing.assert_close(found.reward, features[1:, :, 0])
    torch.testing.assert_close(found.discount, chances[1:])
    for t in range(3):  # the recorded discount of the first state plays no part
        torch.testing.assert_close(found.weight[t], chances[: t + 1].prod(0))
    assert found.lead == 0
    assert torch.equal(seen[0][:3], actions)
    assert not seen[0][3].any()


def test_a_codebook_moves_behind_the_step() -> None:
    given = third_version()
    given["model"]["latent"] = partial(VectorQuantisedLatent, groups=3, codes=4, code_width=2)
    agent = make_agent(**given)
    before = agent.world_model.rssm.latent.codebook.codes.clone()
    agent.update(make_sequence(agent))
    assert not torch.equal(agent.world_model.rssm.latent.codebook.codes, before)


def test_a_checkpoint_goes_on_bit_by_bit(tmp_path: Any) -> None:
    whole, part = (make_agent(**third_version()) for _ in range(2))
    batch = make_sequence(whole)
    for agent in (whole, part):
        torch.manual_seed(3)
        for _ in range(3):
            agent.update(batch)
            agent.advance()
    again = make_agent(**third_version())
    again.load_state_dict(part.state_dict())
    again.optimizer.load_state_dict(part.optimizer.state_dict())
    again.updates = part.updates
    for agent in (whole, again):
        torch.manual_seed(4)
        for _ in range(3):
            agent.update(batch)
            agent.advance()
    assert not changed(again, parameters(whole))
    assert agent.configure_optimizers() == [again.optimizer]


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.parametrize("action", [TURN, PUSH], ids=["discrete", "continuous"])
def test_the_update_is_one_graph(action: Any) -> None:
    settings = third_version(action=action)
    settings["behaviour"]["horizon"] = 2  # the graph repeats each step
    plain, traced = (make_agent(**settings) for _ in range(2))
    batch = make_sequence(plain, steps=5)
    step = torch.compile(traced.learn, fullgraph=True, backend="eager")
    for _ in range(2):
        noise = plain.draw_noise(*batch.reward.shape)
        expected, found = plain.update(batch, noise).metrics, step(batch, noise).metrics
        plain.advance()
        traced.advance()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4, msg=key)


# ----------------------------------------------------------------------------------------------------------- bad input
RATES = "set model_lr, behaviour.actor_lr and behaviour.critic_lr to null"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_lr": 1e-3}, RATES),
        ({"behaviour": {"actor_lr": 1e-3, "critic_lr": 1e-3}}, RATES),
        ({"behaviour": {"actor_lr": 1e-3}}, "actor_lr and critic_lr must both be numbers, or both null"),
        ({"optimizer": None}, "model_lr, behaviour.actor_lr and behaviour.critic_lr must be numbers"),
        ({"behaviour": {"value_of": "arrival"}}, "replay_value_loss_scale above 0 needs behaviour.value_of: future"),
        ({"behaviour": {"value_of": "past"}}, "value_of must be one of arrival, future, got 'past'"),
        ({"exploration": partial(Plan2Explore, members=2)}, "leave out either it or optimizer"),
        ({"model": {"deter": 9}}, "deter must be a multiple of the 2 blocks"),
        ({"reconstruction_loss_scale": -1.0}, "reconstruction_loss_scale must lie in"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    given = third_version()
    for name, value in change.items():
        given[name] = {**given[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=message):
        make_agent(**given)


def test_what_was_played_is_learned_of_by_one_optimiser_alone() -> None:
    with pytest.raises(ValueError, match="replay_value_loss_scale above 0 needs optimizer"):
        make_agent(model={"latent": latent, "reward": Head}, replay_value_loss_scale=0.3)
