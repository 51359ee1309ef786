"""Stacked encoders of images: equal to a plain loop over members, who are independent and start as they would alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from modules.networks.ensemble import torch_default
from modules.networks.stacked_encoders import FlatImages, ImageFront, StackedEncoder
from modules.networks.trunks import EncodedEnsemble, make_ensemble

SMALL, LARGE = Box(0, 255, (5, 4, 2), np.uint8), Box(0, 255, (64, 64, 1), np.uint8)


def streams(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def images(space: Box, *sizes: int) -> torch.Tensor:
    torch.manual_seed(0)
    return FlatImages(space.shape)(torch.randint(256, (*sizes, *space.shape), dtype=torch.uint8))


@pytest.mark.parametrize("space", [SMALL, LARGE])
def test_the_stacked_encoders_are_a_plain_loop_over_members(space: Box) -> None:
    encoder = StackedEncoder(space, 6, streams(1, 2, 3))
    x = images(space, 3, 2).requires_grad_()
    found = encoder(x)
    assert found.shape == (3, 2, encoder.width)
    members = [encoder.member(index) for index in range(3)]
    expected = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(encoder(x[1:2], slice(1, 2)), expected[1:2], rtol=1e-6, atol=1e-6)
    # The same gradients, and each member's from its own rows alone.
    found[1].square().sum().backward()
    members[1](x[1].detach()).square().sum().backward()
    plain = dict(members[1].encoder.named_parameters())
    for name, weight in zip(encoder.names, encoder.weights, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad[1], plain[name].grad, rtol=1e-4, atol=1e-5)
        assert not weight.grad[[0, 2]].any()


def test_a_member_starts_as_it_would_alone_and_scales_pixels_to_0_and_1() -> None:
    both, alone = StackedEncoder(SMALL, 6, streams(1, 2)), StackedEncoder(SMALL, 6, streams(2))
    for one, other in zip(both.weights, alone.weights, strict=True):
        assert torch.equal(one[1], other[0])
        assert not torch.equal(one[0], one[1]) or not one.any()
    layer = dict(zip(alone.names, alone.weights, strict=True))
    (weight,) = (value[0] for name, value in layer.items() if name.endswith("weight"))
    x = images(SMALL, 1, 3)
    torch.testing.assert_close(alone(x)[0], torch.relu(x[0] / 255 @ weight.T), rtol=1e-5, atol=1e-6)


def test_an_ensemble_that_sees_images_takes_the_rest_of_its_input_beside_them() -> None:
    made = make_ensemble(2, 42, [8], 3, torch_default, streams(1, 2), ImageFront(SMALL, None), layer_norm=True)
    assert isinstance(made, EncodedEnsemble)
    x = torch.cat([images(SMALL, 2, 5), torch.randn(2, 5, 2)], -1)
    found = made(x)
    for index in range(2):
        torch.testing.assert_close(made.member(index)(x[index]), found[index], rtol=1e-5, atol=1e-6)
    other = x.clone()
    other[..., -1] += 1.0
    assert not torch.equal(made(other), found)
    torch.testing.assert_close(copy.deepcopy(made)(x), found)


def test_flat_images_stay_as_they_are() -> None:
    flat = FlatImages((2, 3, 1))
    image = torch.arange(12, dtype=torch.uint8).view(2, 2, 3, 1)
    assert torch.equal(flat(image), torch.arange(12.0).view(2, 6))
    assert torch.equal(flat(flat(image)), flat(image))
    with pytest.raises(ValueError, match="too large for a dense network"):
        StackedEncoder(Box(0, 255, (200, 200, 3), np.uint8), 4, streams(1))
