"""Slots of nodes: their priors, their masks, their densities, and what the model and the environment get."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from modules.networks.action_slots import DistinctSlots, NumberedSlots, SampledSlots, make_slots
from modules.networks.actor_base import Actor
from modules.networks.actors import DiscreteActor, TanhNormalActor
from modules.networks.blocks import DenseStack
from modules.networks.grid_actor import GridActor
from modules.networks.make_actor import make_actor

TRUNK = functools.partial(DenseStack, layers=1)
BOX = Box(np.float32([-2.0, 0.0]), np.float32([2.0, 10.0]))


def actor_of(space: gym.Space, **arguments: object) -> Actor:
    torch.manual_seed(0)
    return make_actor(space, 5, TRUNK, 8, **arguments)  # type: ignore[arg-type]


def stats_of(actor: Actor, rows: int = 6) -> torch.Tensor:
    return actor(torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))).detach()


def test_a_slot_for_every_action_is_the_policy_with_its_mask() -> None:
    actor = actor_of(Discrete(3, start=5))
    slots, stats = NumberedSlots(actor), stats_of(actor)
    valid = torch.tensor([True, False, True]).expand(6, 3)
    found = slots.slots(stats, slots.noise(6), valid)
    assert (slots.count, slots.shape) == (3, None)
    assert found.logits is stats
    assert found.actions is None
    assert found.valid is valid
    assert torch.equal(slots.log_prob(stats, None), stats)
    numbers = torch.tensor([2, 0])
    assert torch.equal(slots.model_action(numbers), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    assert torch.equal(actor.decode(slots.model_action(numbers)), torch.tensor([7, 5]))


DRAWN = [
    pytest.param(BOX, {"continuous": TanhNormalActor}, id="tanh"),
    pytest.param(BOX, {}, id="truncated"),
    pytest.param(BOX, {"continuous": GridActor}, id="grid"),
    pytest.param(MultiDiscrete([3, 4]), {}, id="multi-discrete"),
    pytest.param(
        MultiDiscrete([3, 4]),
        {"discrete": functools.partial(DiscreteActor, estimator="gumbel_softmax", temperature=0.7)},
        id="relaxed",
    ),
]


@pytest.mark.parametrize(("space", "arguments"), DRAWN)
def test_draws_of_the_policy_have_one_prior_and_the_policys_densities(space, arguments) -> None:
    actor = actor_of(space, **arguments)
    slots, stats = SampledSlots(actor, 5), stats_of(actor)
    drawn, other = (slots.slots(stats, slots.noise(6, generator=torch.Generator().manual_seed(i))) for i in (0, 1))
    assert drawn.actions is not None
    assert drawn.valid is None
    assert slots.shape is not None
    assert drawn.actions.shape == (6, 5, *slots.shape)
    assert (drawn.logits.softmax(-1) == 0.2).all()
    assert not torch.equal(drawn.actions, other.actions)
    assert len(drawn.actions.flatten(0, 1).unique(dim=0)) > 5
    # One by one, as the policy itself tells it; and with an axis of time.
    expected = torch.stack([actor.log_prob(stats, drawn.actions[:, k]) for k in range(5)], -1)
    torch.testing.assert_close(slots.log_prob(stats, drawn.actions), expected)
    timed = slots.log_prob(stats.expand(2, *stats.shape), drawn.actions.expand(2, 6, 5, -1))
    torch.testing.assert_close(timed, expected.expand(2, 6, 5))
    taken = slots.model_action(drawn.actions[:, 0])
    assert all(space.contains(row.numpy().astype(space.dtype)) for row in actor.decode(taken))


def test_widened_draws_are_wider_and_their_prior_is_the_ratio_of_densities() -> None:
    actor = actor_of(BOX, continuous=TanhNormalActor)
    stats = torch.cat([torch.zeros(2000, 2), torch.full((2000, 2), 0.2)], -1)
    slots = SampledSlots(actor, 4, widened=2, widening=3.0)
    drawn = slots.slots(stats, slots.noise(2000, generator=torch.Generator().manual_seed(0)))
    assert drawn.actions is not None
    spread = drawn.actions.atanh().std((0, 2))
    torch.testing.assert_close(spread, torch.tensor([0.2, 0.2, 0.6, 0.6]), rtol=0.05, atol=0.0)
    wide = torch.cat([stats[:, :2], 3.0 * stats[:, 2:]], -1)
    ratio = slots.log_prob(stats, drawn.actions) - slots.log_prob(wide, drawn.actions)
    torch.testing.assert_close(drawn.logits[:, 2:], ratio[:, 2:], rtol=1e-3, atol=1e-3)
    assert (drawn.logits[:, :2] == 0.0).all()


def test_different_actions_are_drawn_by_the_policy_and_respect_masks() -> None:
    actor = actor_of(Discrete(6, start=2))
    slots, rows = DistinctSlots(actor, 3), 4000
    stats = stats_of(actor, 1).expand(rows, 6)
    noise = slots.noise(rows, generator=torch.Generator().manual_seed(0))
    drawn = slots.slots(stats, noise)
    assert drawn.actions is not None
    assert slots.shape == ()
    assert (drawn.actions.sort(-1).values.diff(dim=-1) > 0).all()
    first = torch.bincount(drawn.actions[:, 0], minlength=6) / rows
    torch.testing.assert_close(first, stats[0].exp(), atol=0.03, rtol=0.0)
    torch.testing.assert_close(drawn.logits, slots.log_prob(stats, drawn.actions))
    # Two of six may be taken: they fill two slots, and the third is marked. None at all: no slot is valid.
    valid = torch.zeros(rows, 6, dtype=torch.bool)
    valid[:-1, [1, 4]] = True
    masked = slots.slots(stats, noise, valid)
    assert masked.actions is not None
    assert masked.valid is not None
    assert torch.equal(masked.valid[:-1].sum(-1), torch.full((rows - 1,), 2))
    assert set(masked.actions[masked.valid].unique().tolist()) == {1, 4}
    assert not masked.valid[-1].any()
    assert masked.logits.isfinite().all()
    # Records hold numbers as floats.
    assert torch.equal(slots.log_prob(stats, drawn.actions.float()), drawn.logits)
    assert torch.equal(actor.decode(slots.model_action(drawn.actions.float())), drawn.actions + 2)


def test_a_slot_for_each_of_the_different_actions_is_the_policy() -> None:
    actor = actor_of(Discrete(4))
    slots, stats = DistinctSlots(actor, 4), stats_of(actor)
    drawn = slots.slots(stats, slots.noise(6))
    assert drawn.actions is not None
    torch.testing.assert_close(torch.zeros(6, 4).scatter(-1, drawn.actions, drawn.logits), stats)


def test_the_kind_that_fits() -> None:
    assert isinstance(make_slots(actor_of(Discrete(4))), NumberedSlots)
    assert isinstance(make_slots(actor_of(MultiDiscrete([2, 2]))), SampledSlots)
    assert make_slots(actor_of(BOX)).count == 20


def test_mistakes_are_named() -> None:
    few, box = actor_of(Discrete(4)), actor_of(BOX)
    with pytest.raises(ValueError, match="5 slots of different actions are more than the 4 actions"):
        DistinctSlots(few, 5)
    with pytest.raises(ValueError, match=r"needs a Discrete space.*SampledSlots"):
        NumberedSlots(box)
    with pytest.raises(ValueError, match=r"needs a Discrete space.*SampledSlots"):
        DistinctSlots(actor_of(MultiDiscrete([2, 2])), 2)
    with pytest.raises(ValueError, match=r"without replacement: name modules.networks.action_slots.DistinctSlots"):
        SampledSlots(few)
    with pytest.raises(ValueError, match=r"widened slots need a tanh-normal policy.*TruncatedNormalActor"):
        SampledSlots(box, 4, widened=1)
    with pytest.raises(ValueError, match=r"widened must lie in \[0, 4\], got 5"):
        SampledSlots(actor_of(BOX, continuous=TanhNormalActor), 4, widened=5)
    slots = SampledSlots(box, 4)
    with pytest.raises(ValueError, match="mask of actions is for those of a Discrete space"):
        slots.slots(stats_of(box), slots.noise(6), torch.ones(6, 2, dtype=torch.bool))
