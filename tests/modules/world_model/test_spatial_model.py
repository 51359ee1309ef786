"""The model of boards and images: shapes, ranges, planes of actions, gradients."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from torch import Tensor

from modules.batch import Spaces
from modules.networks.reward_models import ValuePrefix
from modules.world_model.spatial_model import SpatialModel, first_planes

BOARD = Box(0, 1, (3, 3, 2), np.int8)
PICTURE = Box(0, 255, (9, 6, 3), np.uint8)
HALF_DARK = Box(np.float32(np.eye(3)[..., None] - 1.0), np.zeros((3, 3, 1), np.float32))
"""Fields of which three cannot vary."""
SMALL = partial(SpatialModel, channels=4, blocks=1, units=8)


def drawn(space: Box, rows: int = 5) -> Tensor:
    space.seed(0)
    return torch.from_numpy(np.stack([space.sample() for _ in range(rows)]))


CASES = [
    pytest.param(Dict({"board": BOARD}), Discrete(9), {}, (3, 3, 4), id="board"),
    pytest.param(PICTURE, Discrete(4), {"stages": 2}, (3, 2, 4), id="picture"),
    pytest.param(PICTURE, Box(-1.0, 1.0, (2,)), {"stages": 1, "reward": ValuePrefix}, (5, 3, 4), id="box"),
    pytest.param(Dict({"a": BOARD, "b": HALF_DARK}), Discrete(3), {}, (3, 3, 4), id="two"),
]


@pytest.mark.parametrize(("observation", "action", "arguments", "shape"), CASES)
def test_latents_have_one_range_and_every_weight_learns(observation, action, arguments, shape) -> None:
    torch.manual_seed(0)
    model = SMALL(Spaces(observation, action), **arguments)
    parts = Spaces(observation, action).observations_by_key()
    seen = {key: drawn(part) for key, part in parts.items()}  # type: ignore[arg-type]
    latent = model.represent(seen | {"further": torch.zeros(5, 2)})
    assert model.shape == shape
    assert latent.shape == (5, model.width) == (5, int(np.prod(shape)))
    # First predictions are those of zero layers.
    stats, value = model.predict(latent)
    assert (model.value_head.mean(value) == 0.0).all()
    taken = model.actor.sample(stats, model.actor.noise(5)).detach()
    memory = model.memory(5)
    latents = [latent]
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    latent = model.represent(seen)
    for _ in range(2):
        latent, memory, reward = model.step(latent, memory, taken)
        latents.append(latent)
    for x in latents:
        torch.testing.assert_close(x.amin(-1), torch.zeros(5))
        torch.testing.assert_close(x.amax(-1), torch.ones(5))
    stats, value = model.predict(latent)
    loss = model.value_head.loss(value, torch.ones(5)) + model.reward_head.loss(reward, -torch.ones(5))
    (loss - model.actor.log_prob(stats, taken)).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_step_is_the_same_for_each_sample_alone() -> None:
    torch.manual_seed(0)
    model = SMALL(Spaces(BOARD, Discrete(9)))
    seen, taken = drawn(BOARD), torch.eye(9)[[0, 3, 8, 1, 2]]
    latent = model.represent({"observation": seen})
    after = model.transition(latent, taken)
    for row in range(5):
        alone = model.represent({"observation": seen[row : row + 1]})
        torch.testing.assert_close(alone, latent[row : row + 1])
        torch.testing.assert_close(model.transition(alone, taken[row : row + 1]), after[row : row + 1])


def test_pixels_and_stones_are_scaled_by_their_bounds() -> None:
    torch.manual_seed(0)
    model = SMALL(Spaces(Box(0, 255, (3, 3, 2), np.uint8), Discrete(9)))
    torch.manual_seed(0)
    other = SMALL(Spaces(BOARD, Discrete(9)))
    stones = drawn(BOARD)
    found = model.represent({"observation": (255 * stones.int()).to(torch.uint8)})
    torch.testing.assert_close(found, other.represent({"observation": stones}))


def test_a_flat_board_is_read_as_one() -> None:
    flat = Box(0, 1, (18,), np.int8)
    torch.manual_seed(0)
    model = SMALL(Spaces(flat, Discrete(9)), board=[3, 3, 2])
    torch.manual_seed(0)
    other = SMALL(Spaces(BOARD, Discrete(9)))
    stones = drawn(BOARD)
    found = model.represent({"observation": stones.flatten(1)})
    assert torch.equal(found, other.represent({"observation": stones}))
    with pytest.raises(ValueError, match=r"tell a flat one's shape by `board`"):
        SMALL(Spaces(flat, Discrete(9)), board=[3, 3, 3])


def test_actions_that_are_fields_or_columns_show_them() -> None:
    fields, columns, others = first_planes(6, 2, 3, 2), first_planes(3, 2, 3, 2), first_planes(4, 2, 3, 2)
    assert fields.shape == (6, 2, 2, 3)
    assert fields[4, 0].tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert columns[1, 0].tolist() == [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    assert (others != 0.0).all()


def test_mistakes_are_named() -> None:
    vector = Box(-1.0, 1.0, (4,))
    with pytest.raises(ValueError, match=r"observation 'b' is no image .*leave it out by `keys`.*LatentModel"):
        SMALL(Spaces(Dict({"a": BOARD, "b": vector}), Discrete(2)))
    assert SMALL(Spaces(Dict({"a": BOARD, "b": vector}), Discrete(2)), keys="a").images == {"a": (3, 3, 2)}
    with pytest.raises(ValueError, match="must have one size"):
        SMALL(Spaces(Dict({"a": BOARD, "b": PICTURE}), Discrete(2)))
    with pytest.raises(ValueError, match="matches none of the observations: observation"):
        SMALL(Spaces(BOARD, Discrete(2)), keys="board")
    with pytest.raises(ValueError, match="stages must lie in"):
        SMALL(Spaces(BOARD, Discrete(2)), stages=-1)


@pytest.mark.compile
@pytest.mark.slow
def test_one_graph_holds_a_step(backend: str) -> None:
    torch.manual_seed(0)
    model = SMALL(Spaces(BOARD, Discrete(9)), reward=ValuePrefix)

    def step(seen: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        latent, memory, reward = model.step(model.represent({"observation": seen}), memory, action)
        return latent, memory, reward, *model.predict(latent)

    given = drawn(BOARD), model.memory(5), torch.eye(9)[[0, 3, 8, 1, 2]]
    compiled = torch.compile(step, fullgraph=True)
    for x, y in zip(compiled(*given), step(*given), strict=True):
        torch.testing.assert_close(x, y)
