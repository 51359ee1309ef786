"""The model to plan with: ranges of latents, first predictions, gradients, what is read of observations."""

from __future__ import annotations

import functools
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from dreamer_agents import VECTOR as BOUNDED
from dreamer_agents import make_agent, make_sequence
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from torch import Tensor

from modules.batch import Spaces
from modules.networks.action_slots import make_slots
from modules.networks.actors import TruncatedNormalActor
from modules.networks.blocks import DenseStack
from modules.networks.grid_actor import GridActor
from modules.networks.reward_models import StepReward
from modules.networks.value_codecs import Scalar, TwoHot
from modules.world_model.latent_model import ENTRY, LatentModel, PlanningModel

VECTOR = Box(-np.inf, np.inf, (4,), np.float32)
WALK = Box(np.float32([-2.0, 0.0]), np.float32([2.0, 10.0]))
Make = Callable[[Spaces], PlanningModel]
SMALL = functools.partial(LatentModel, latent=6, units=8)


def observed(space: gym.Space, rows: int = 5) -> dict[str, Tensor]:
    parts = Spaces(space, Discrete(2)).observations_by_key()
    g = torch.Generator().manual_seed(0)

    def draw(part: gym.Space) -> Tensor:
        assert part.shape is not None
        x = torch.randn(rows, *part.shape, generator=g)
        return (60.0 * x).abs().clamp(0, 255).byte() if part.dtype == np.uint8 else x

    return {key: draw(part) for key, part in parts.items()}


def seeded(make: Make, spaces: Spaces) -> PlanningModel:
    torch.manual_seed(0)
    return make(spaces)


def unrolled(model: PlanningModel, steps: int = 3, space: gym.Space = VECTOR) -> list[Tensor]:
    """The latent that is seen, then those that are foreseen."""
    latents = [model.represent(observed(space))]
    memory = model.memory(5)
    for number in range(steps):
        action = model.actor.sample(model.predict(latents[-1])[0], model.actor.noise(5))
        latent, memory, _ = model.step(latents[-1], memory, action)
        assert latent.shape == latents[0].shape, number
        latents.append(latent)
    return latents


@pytest.mark.parametrize("action", [Discrete(3), WALK], ids=["numbers", "box"])
def test_latents_of_windows_are_seen_and_then_led_on_along_the_recorded_actions(action: gym.Space) -> None:
    agent = make_agent(BOUNDED, action)  # any agent: of it only the spaces are taken
    batch, model = make_sequence(agent), seeded(SMALL, Spaces(BOUNDED, action))
    found = model.foreseen(batch, 2)
    assert found.shape == (3, 6, 4, 6)
    for t in range(4):
        latent, memory = model.represent({key: x[t] for key, x in batch.observation.items()}), model.memory(4)
        torch.testing.assert_close(found[0, t], latent)
        for k in (1, 2):
            done = model.actor.encode(batch.previous_action[t + k])
            latent, memory, _ = model.step(latent, memory, done)
            torch.testing.assert_close(found[k, t], latent)


def test_latents_that_are_seen_and_foreseen_lie_in_one_range() -> None:
    for latent in unrolled(seeded(SMALL, Spaces(VECTOR, Discrete(3)))):
        torch.testing.assert_close(latent.amin(-1), torch.zeros(5))
        torch.testing.assert_close(latent.amax(-1), torch.ones(5))


def test_a_latent_tells_how_far_a_vector_points_and_not_its_direction_alone() -> None:
    model = seeded(LatentModel, Spaces(VECTOR, Discrete(2)))
    near, far = (model.represent({"observation": size * torch.eye(4)}) for size in (0.5, 1.5))
    assert ((near - far).abs().amax(-1) > 0.05).all()


def test_images_alone_are_seen_as_they_are() -> None:
    """Their contrast is given, and results that were measured on them stay those of this code."""
    model = seeded(LatentModel, Spaces(Box(0, 255, (4, 5, 1), np.uint8), Discrete(2)))
    assert {p.shape for p in model.perception.parameters()} == {(128, 20), (128,)}


def test_a_latent_that_is_all_alike_is_no_nan_nor_is_its_gradient() -> None:
    model = seeded(SMALL, Spaces(VECTOR, Discrete(3)))
    for layer in (model.representation, model.dynamics):
        torch.nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    latents = unrolled(model)
    assert all((latent == 0.0).all() for latent in latents)
    values = torch.stack([model.predict(latent)[1].square().sum() for latent in latents])
    values.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("codec", [None, Scalar, functools.partial(TwoHot, 5)])
def test_first_policies_are_uniform_and_first_values_and_rewards_zero(codec) -> None:
    reward = functools.partial(StepReward, codec=codec)
    model = seeded(functools.partial(SMALL, codec=codec, reward=reward), Spaces(VECTOR, Discrete(3)))
    latent = model.represent(observed(VECTOR))
    for _ in range(2):
        stats, value = model.predict(latent)
        latent, _, predicted = model.step(latent, model.memory(5), torch.eye(3)[[0, 1, 2, 0, 1]])
        torch.testing.assert_close(stats, torch.full((5, 3), 1 / 3).log())
        assert (stats == stats[:, :1]).all()
        assert (model.value_head.mean(value) == 0.0).all()
        assert (model.reward_head.mean(predicted) == 0.0).all()


def test_a_step_reads_the_action_and_half_of_the_gradient_goes_on() -> None:
    model = seeded(SMALL, Spaces(VECTOR, Discrete(3)))
    latent = model.represent(observed(VECTOR)).detach().requires_grad_()
    first, second = torch.eye(3)[[0] * 5], torch.eye(3)[[1] * 5]
    after = model.step(latent, model.memory(5), first)[0]
    assert not torch.allclose(after, model.step(latent, model.memory(5), second)[0])
    weight = torch.randn(5, 6)
    (halved,) = torch.autograd.grad((after * weight).sum(), latent)
    (whole,) = torch.autograd.grad((model.transition(latent, first) * weight).sum(), latent)
    assert torch.equal(halved, ENTRY * whole)
    assert whole.any()


def test_rewards_one_by_one_have_no_memory() -> None:
    model = seeded(SMALL, Spaces(VECTOR, Discrete(3)))
    assert model.memory(5).shape == (5, 0)
    assert model.horizon is None


SPACES = [
    pytest.param(VECTOR, Discrete(3, start=4), {}, id="vector"),
    pytest.param(Box(0, 255, (4, 6, 2), np.uint8), Discrete(3), {}, id="image"),
    pytest.param(Dict({"a": VECTOR, "pixels": Box(0, 255, (4, 6, 1), np.uint8)}), WALK, {}, id="dict-and-box"),
    pytest.param(VECTOR, MultiDiscrete([2, 3]), {}, id="multi-discrete"),
    pytest.param(VECTOR, WALK, {"continuous": TruncatedNormalActor}, id="truncated"),
    pytest.param(VECTOR, WALK, {"continuous": GridActor}, id="grid"),
]


@pytest.mark.parametrize(("observation", "action", "arguments"), SPACES)
def test_every_space_leads_through_slots_to_a_step_and_every_weight_learns(observation, action, arguments) -> None:
    model = seeded(functools.partial(SMALL, **arguments), Spaces(observation, action))
    slots = make_slots(model.actor)
    seen = observed(observation)
    latent = model.represent(seen | {"further": torch.zeros(5, 2)})
    assert torch.equal(latent, model.represent(seen))
    drawn = slots.slots(model.predict(latent)[0].detach(), slots.noise(5))
    chosen = torch.arange(5) % slots.count if drawn.actions is None else drawn.actions[:, 1]
    taken = model.actor.decode(slots.model_action(chosen))
    assert all(action.contains(row.numpy().astype(action.dtype)) for row in taken)
    torch.testing.assert_close(model.actor.encode(taken), slots.model_action(chosen), atol=1e-5, rtol=1e-5)
    # Last layers are zero, and so are gradients behind them: a step away from there, all learn.
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    latent = model.represent(seen)
    after, _, reward = model.step(latent, model.memory(5), slots.model_action(chosen))
    stats, value = model.predict(after)
    loss = model.value_head.loss(value, torch.ones(5)) + model.reward_head.loss(reward, -torch.ones(5))
    (loss.mean() - slots.log_prob(stats, drawn.actions).mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_time_is_an_axis_of_predictions() -> None:
    model = seeded(SMALL, Spaces(VECTOR, WALK))
    latents = torch.stack(unrolled(model))
    stats, value = model.predict(latents)
    assert stats.shape == (4, 5, 4)
    torch.testing.assert_close(model.value_head.mean(value)[2], model.value_head.mean(model.predict(latents[2])[1]))


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="latent must lie in"):
        LatentModel(Spaces(VECTOR, Discrete(3)), latent=0)
    with pytest.raises(ValueError, match="finite bounds"):
        LatentModel(Spaces(VECTOR, VECTOR))


@pytest.mark.compile
@pytest.mark.slow
def test_one_graph_holds_a_step(backend: str) -> None:
    model = seeded(functools.partial(SMALL, trunk=functools.partial(DenseStack, layers=2)), Spaces(VECTOR, Discrete(3)))

    def step(observation: dict[str, Tensor], memory: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        latent, memory, reward = model.step(model.represent(observation), memory, action)
        stats, value = model.predict(latent)
        return latent, memory, model.reward_head.mean(reward), stats, model.value_head.mean(value)

    given = observed(VECTOR), model.memory(5), torch.eye(3)[[0, 1, 2, 0, 1]]
    compiled = torch.compile(step, fullgraph=True)
    for x, y in zip(compiled(*given), step(*given), strict=True):
        torch.testing.assert_close(x, y)
