"""The update of DreamerV2: which loss trains what, returns and weights, schedules, compiled forms, bad input."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from dreamer_agents import IMAGE, PUSH, TURN, VECTOR, changed, learned, make_agent, make_sequence, parameters
from torch import Tensor

from modules.algorithms.dreamer import DreamerV2, Noise
from modules.batch import SequenceBatch
from modules.experts.layer import SparseMoE
from modules.networks.value_codecs import TwoHot
from modules.networks.value_heads import Head
from modules.world_model.disagreement_penalty import DisagreementPenalty
from modules.world_model.latents import CategoricalLatent, GaussianLatent
from modules.world_model.plan2explore import Plan2Explore
from modules.world_model.rssm import State
from modules.world_model.vector_quantised import VectorQuantisedLatent

BOTH = gym.spaces.Dict({"camera": IMAGE, "velocity": VECTOR})
GUMBEL = partial(CategoricalLatent, groups=3, classes=4, estimator="gumbel_softmax")
SETTINGS: dict[str, dict[str, Any]] = {
    "discrete": {},
    "continuous": {"action": PUSH},
    "multi-discrete": {"action": gym.spaces.MultiDiscrete([3, 2])},
    "both": {"behaviour": {"actor_gradient": "both", "mix": 0.3}},
    "image": {"observation": IMAGE},
    "image and vector": {"observation": BOTH},
    "gaussian": {"model": {"latent": partial(GaussianLatent, size=5)}},
    "vq": {"model": {"latent": partial(VectorQuantisedLatent, groups=3, codes=4, code_width=2)}},
    "gumbel": {"model": {"latent": GUMBEL}},
    "no discount head": {"model": {"discount": False}},
    "third version": {
        "model": {"symlog": True, "norm": "layer", "reward": partial(Head, codec=TwoHot)},
        "behaviour": {"critic": partial(Head, codec=TwoHot), "critic_target": "online", "return_scale": "percentiles"},
        "free_nats": 1.0,
        "free_per_step": True,
    },
    "exploration": {"exploration": partial(Plan2Explore, members=3, hidden=[8])},
    "pessimism": {"pessimism": partial(DisagreementPenalty, members=3, hidden=[8])},
    "mixture": {"model": {"trunk": partial(SparseMoE, num_experts=3, k=1, hidden=8)}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_learns_from_a_batch(name: str) -> None:
    agent = make_agent(model_lr=3e-3, **SETTINGS[name])
    batch = make_sequence(agent)
    noise = agent.draw_noise(*batch.reward.shape)
    losses = []
    for _ in range(40):
        metrics = agent.update(batch, noise).metrics
        agent.advance()
        assert all(value.isfinite().all() for value in metrics.values()), name
        losses.append(sum(value for key, value in metrics.items() if key.startswith(("observation", "reward_loss"))))
    assert losses[-1] < 0.9 * losses[0]
    modules = [agent.world_model, agent.behaviour.actor, agent.behaviour.critic]
    modules += [part.ensemble for part in (agent.exploration, agent.pessimism) if part is not None]
    modules += [] if agent.exploration is None else [agent.exploration.behaviour.actor]
    for module in modules:
        fresh = make_agent(**SETTINGS[name])
        names = {id(m): path for path, m in agent.named_modules()}
        assert learned(module, parameters(fresh.get_submodule(names[id(module)])))


# ----------------------------------------------------------------------------------------------- which loss trains what
def learn_in_imagination(agent: DreamerV2, batch: SequenceBatch) -> None:
    """One step of actor and critic without one of the world model."""
    model, noise = agent.world_model, agent.draw_noise(*batch.reward.shape)
    with torch.no_grad():
        action = agent.behaviour.actor.encode(batch.previous_action)
        state = model.observe(batch.observation, action, batch.is_first, noise.posterior).state
    start = State(state.h.flatten(0, 1), state.z.flatten(0, 1))
    ahead = agent.gamma * (~batch.terminated).flatten().float()
    agent.behaviour.learn(model.rssm, start, ahead, agent._reward, agent._discount, noise.task)


@pytest.mark.parametrize("action", [TURN, PUSH], ids=["reinforce", "dynamics"])
def test_imagination_never_changes_the_model(action: gym.Space) -> None:
    agent = make_agent(action=action)
    before = parameters(agent.world_model)
    learner = agent.behaviour
    actor, critic, slow = parameters(learner.actor), parameters(learner.critic), parameters(learner.slow_critic)
    learn_in_imagination(agent, make_sequence(agent))
    assert not changed(agent.world_model, before)
    assert learned(agent.behaviour.actor, actor)
    assert learned(agent.behaviour.critic, critic)
    assert not changed(agent.behaviour.slow_critic, slow)
    assert all(p.grad is None for p in agent.parameters())


class Recorded:
    """`descend_clipped` that keeps gradients of a loss with respect to chosen tensors instead of stepping."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def __call__(self, optimizer: Any, loss: Tensor, *settings: float) -> Tensor:
        self.losses.append(loss)
        return torch.zeros(())


def test_dynamics_gradient_passes_through_the_model_and_reinforce_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = {}
    for mode in ("reinforce", "dynamics"):
        agent = make_agent(behaviour={"actor_gradient": mode})
        recorded = Recorded()
        monkeypatch.setattr("modules.world_model.actor_critic.descend_clipped", recorded)
        learn_in_imagination(agent, make_sequence(agent))
        weight = agent.world_model.rssm.cell.linear.weight
        reached[mode] = torch.autograd.grad(recorded.losses[0], weight, allow_unused=True)[0]
    assert reached["reinforce"] is None
    assert reached["dynamics"] is not None
    assert reached["dynamics"].abs().sum() > 0


@pytest.mark.parametrize("head", ["decoder", "reward", "discount"])
def test_heads_outside_of_gradient_heads_train_themselves_alone(head: str) -> None:
    agent = make_agent(gradient_heads=[h for h in ("decoder", "reward", "discount") if h != head])
    batch = make_sequence(agent)
    noise = agent.draw_noise(*batch.reward.shape)
    terms, *_ = agent._model_losses(batch, agent.behaviour.actor.encode(batch.previous_action), noise.posterior)
    loss = terms[{"decoder": "observation"}.get(head, head)]
    own = next(getattr(agent.world_model, head).parameters())
    shared = agent.world_model.rssm.cell.linear.weight
    grads = torch.autograd.grad(loss, [own, shared], allow_unused=True)
    assert grads[0].abs().sum() > 0
    assert grads[1] is None


def test_slow_critic_is_copied_at_the_first_update_and_after_each_interval() -> None:
    assert make_agent().behaviour.slow_interval == 100
    agent = make_agent(behaviour={"slow_interval": 10})
    batch = make_sequence(agent)
    copied = []
    for update in range(23):
        agent.update(batch)
        before = parameters(agent.behaviour.slow_critic)
        agent.advance()
        if changed(agent.behaviour.slow_critic, before):
            copied.append(update)
            assert not changed(agent.behaviour.slow_critic, parameters(agent.behaviour.critic))
    assert copied == [0, 10, 20]


def test_decay_does_not_depend_on_the_learning_rate() -> None:
    agent = make_agent(model_lr=0.0, behaviour={"actor_lr": 0.0, "critic_lr": 0.0})
    before = [parameters(m) for m in (agent.world_model, agent.behaviour.actor, agent.behaviour.critic)]
    agent.update(make_sequence(agent))
    for module, old in zip((agent.world_model, agent.behaviour.actor, agent.behaviour.critic), before, strict=True):
        for p, b in zip(module.parameters(), old, strict=True):
            torch.testing.assert_close(p.detach(), b * (1.0 - 1e-6), rtol=1e-7, atol=0.0)


def test_schedules_follow_the_updates() -> None:
    agent = make_agent(
        model={"latent": partial(GUMBEL, temperature="linear(2, 1, 4)")},
        behaviour={"entropy": "linear(1, 0, 4)", "actor_gradient": "both", "mix": "linear(0.5, 0, 2)"},
    )
    seen = []
    for _ in range(5):
        latent = agent.world_model.rssm.latent
        seen.append([float(x) for x in (agent.behaviour.entropy, agent.behaviour.mix, latent.temperature)])
        agent.advance()
    assert seen == [[1.0, 0.5, 2.0], [0.75, 0.25, 1.75], [0.5, 0.0, 1.5], [0.25, 0.0, 1.25], [0.0, 0.0, 1.0]]


# ------------------------------------------------------------------------------------------------------ acting, reading
def test_acting_filters_as_an_update_does() -> None:
    agent = make_agent(observation=BOTH)
    batch = make_sequence(agent)._replace(is_first=torch.zeros(6, 4, dtype=torch.bool))
    agent.world_model.rssm.latent = _Mean(agent.world_model.rssm.latent)
    noise = torch.zeros(6, 4)
    action = agent.behaviour.actor.encode(batch.previous_action)
    expected = agent.world_model.observe(batch.observation, action, batch.is_first, noise).state
    memory = agent.initial_state(4)
    for t in range(6):
        memory = memory._replace(action=action[t])  # what was done is what the window says
        seen = {key: x[t] for key, x in batch.observation.items()}
        chosen, memory = agent.act(seen, memory, explore=False)
        torch.testing.assert_close(memory.state.h, expected.h[t])
        assert chosen.dtype == torch.int64
        assert chosen.shape == (4,)


class _Mean(torch.nn.Module):
    """A latent without chance: probabilities instead of samples."""

    def __init__(self, latent: Any) -> None:
        super().__init__()
        self.inner = latent
        self.width = latent.width

    def noise(self, *shape: int, **_: Any) -> Tensor:
        return torch.zeros(shape)

    def sample(self, posterior: Tensor, noise: Tensor) -> Tensor:
        return self.inner.posterior_logits(posterior).softmax(-1).flatten(-2)


def test_continuous_actions_come_in_the_environments_units() -> None:
    agent = make_agent(action=PUSH)
    action, _ = agent.act(torch.zeros(64, 3), agent.initial_state(64), explore=True)
    assert action.shape == (64, 2)
    assert action.abs().max() <= 2.0
    assert action.abs().max() > 1.0
    torch.testing.assert_close(agent.behaviour.actor.decode(agent.behaviour.actor.encode(action)), action)


def test_exploration_collects_until_its_end() -> None:
    agent = make_agent(exploration=partial(Plan2Explore, members=2, hidden=[8], until=1))
    with torch.no_grad():  # the explorer always turns left, the other always right
        for learner, favourite in ((agent.exploration.behaviour, 0), (agent.behaviour, 2)):
            learner.actor.output.weight.zero_()
            learner.actor.output.bias.copy_(100.0 * torch.eye(3)[favourite])
    seen, chosen = torch.zeros(5, 3), []
    for explore in (True, False):
        chosen.append(agent.act(seen, agent.initial_state(5), explore=explore)[0].unique().tolist())
    assert (agent.phase, chosen) == ("exploration", [[0], [2]])
    agent.advance()
    assert agent.act(seen, agent.initial_state(5), explore=True)[0].unique().tolist() == [2]
    assert agent.phase == "training"


def test_open_loop_sees_the_context_alone() -> None:
    agent = make_agent(observation=BOTH)
    batch = make_sequence(agent)
    torch.manual_seed(3)
    before = agent.open_loop(batch, context=2)
    later = {key: x.clone() for key, x in batch.observation.items()}
    later["velocity"][2:] += 1.0
    torch.manual_seed(3)
    after = agent.open_loop(batch._replace(observation=later), context=2)
    torch.testing.assert_close(before.observation["velocity"], after.observation["velocity"])
    assert before.observation["camera"].shape == (6, 4, 5, 4, 1)
    assert before.reward.shape == before.discount.shape == (6, 4)
    moved = batch.previous_action.clone()
    moved[4] = (moved[4] + 1) % 3
    torch.manual_seed(3)
    other = agent.open_loop(batch._replace(previous_action=moved), context=2)
    assert torch.equal(other.reward[:4], before.reward[:4])
    assert not torch.equal(other.reward[4:], before.reward[4:])


def test_vectors_are_normalised_by_the_announced_statistics() -> None:
    mean, std = np.array([5.0, -3.0, 100.0], np.float32), np.array([2.0, 0.1, 10.0], np.float32)
    plain = make_agent()
    told = make_agent(statistics=(mean, std))
    batch = make_sequence(plain)
    raw = batch._replace(observation={"observation": batch.observation["observation"] * std + mean})
    noise = plain.draw_noise(*batch.reward.shape)
    expected, found = plain.update(batch, noise).metrics, told.update(raw, noise).metrics
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3, msg=key)
    torch.manual_seed(5)
    units = plain.open_loop(batch, 2).observation["observation"]
    torch.manual_seed(5)
    torch.testing.assert_close(told.open_loop(raw, 2).observation["observation"], units * std + mean)


# ------------------------------------------------------------------------------------------------------ compiled forms
@pytest.mark.long
@pytest.mark.compile
@pytest.mark.parametrize(
    "name", ["discrete", "continuous", "vq", "exploration", "pessimism"]
)  # the third version: its own tests
def test_the_update_is_one_graph(name: str) -> None:
    settings = SETTINGS[name]
    short = {**settings.get("behaviour", {}), "horizon": 2}  # the graph repeats each step
    plain, traced = (make_agent(**settings | {"behaviour": short}) for _ in range(2))
    batch = make_sequence(plain, steps=5)  # in which all that may happen does
    step = torch.compile(traced.learn, fullgraph=True, backend="eager")
    for _ in range(3):
        noise = plain.draw_noise(*batch.reward.shape)
        torch.manual_seed(1)  # codes that are out of use restart from random rows
        expected = plain.update(batch, noise).metrics
        torch.manual_seed(1)
        found = step(batch, noise).metrics
        plain.advance()
        traced.advance()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.compile
@pytest.mark.parametrize("action", [TURN, PUSH], ids=["discrete", "continuous"])
@pytest.mark.usefixtures("backend")
def test_compiled_steps_agree(action: gym.Space) -> None:
    plain, compiled = make_agent(action=action), make_agent(action=action, compile="cell")
    batch = make_sequence(plain)
    for _ in range(3):
        noise = plain.draw_noise(*batch.reward.shape)
        expected, found = plain.update(batch, noise).metrics, compiled.update(batch, noise).metrics
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["discrete", "continuous", "image"])
def test_bfloat16_products_stay_close(name: str) -> None:
    plain, cast = (make_agent(**SETTINGS[name]) for _ in range(2))
    batch = make_sequence(plain)
    noise = plain.draw_noise(*batch.reward.shape)
    expected = plain.update(batch, noise).metrics
    with torch.autocast("cpu", torch.bfloat16):
        found = cast.update(batch, noise).metrics
    for key in ("observation_loss", "reward_loss", "kl", "critic_loss"):
        torch.testing.assert_close(found[key], expected[key], rtol=0.05, atol=0.05, msg=key)  # float32, as expected


def test_noise_decides_everything() -> None:
    agents = make_agent(), make_agent()
    batch = make_sequence(agents[0])
    noise = agents[0].draw_noise(*batch.reward.shape)
    found = [agent.update(batch, noise).metrics for agent in agents]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert isinstance(noise, Noise)


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 1.5}, r"discount must lie in \[0, 1\], got 1.5"),
        ({"behaviour": {"horizon": 1}}, "horizon must lie in"),
        ({"behaviour": {"entropy": "often"}}, "'often' is no schedule"),
        ({"action": gym.spaces.Box(-np.inf, np.inf, (2,))}, "finite bounds"),
        ({"action": gym.spaces.Tuple([TURN])}, "actions must be"),
        ({"observation": gym.spaces.Discrete(4)}, "neither a vector nor an image"),
        ({"observation": IMAGE, "model": {"image_network": "conv"}}, "--data.resize 64"),
        ({"observation": gym.spaces.Box(0.0, 1.0, (64, 64, 3))}, "must be uint8"),
        ({"model": {"vector_keys": "speed"}}, "matches none of the observations: observation"),
        ({"model": {"deter": 0}}, "deter must lie in"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**settings)


def test_capturing_needs_a_gpu_to_learn_and_none_to_act() -> None:
    agent = make_agent(compile="captured")
    agent.act(torch.zeros(2, 3), agent.initial_state(2), explore=True)
    with pytest.raises(ValueError, match="the agent is on cpu; train with"):
        agent.update(make_sequence(agent))
