"""Encoders against the same operations written out, and the choice of keys."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box

from modules.functional.transforms import symlog
from modules.networks.blocks import DenseStack
from modules.networks.encoders import ConvEncoder, Encoder, scale_image, select_keys

TRUNK = functools.partial(DenseStack, layers=2)
IMAGE = Box(0, 255, (64, 64, 3), np.uint8)
SMALL = Box(0, 255, (10, 5, 1), np.uint8)
VECTOR = Box(-1, 1, (4,), np.float32)
NUMBER = Box(0, 9, (), np.int64)


def observations(spaces: dict[str, gym.Space], rows: int = 3) -> dict[str, torch.Tensor]:
    for seed, space in enumerate(spaces.values()):
        space.seed(seed)
    return {key: torch.as_tensor(np.stack([s.sample() for _ in range(rows)])) for key, s in spaces.items()}


def test_vectors_are_joined_in_the_spaces_order_and_numbers_count_as_vectors() -> None:
    spaces = {"speed": VECTOR, "count": NUMBER}
    encoder, seen = Encoder(spaces, TRUNK, 8), observations(spaces)
    joined = torch.cat([seen["speed"], seen["count"].float().unsqueeze(1)], 1)
    assert encoder.vector_network is not None
    assert torch.equal(encoder(seen), encoder.vector_network(joined))
    assert encoder.width == 8
    squashed = Encoder(spaces, TRUNK, 8, symlog=True)
    squashed.load_state_dict(encoder.state_dict())
    assert torch.equal(squashed(seen), encoder.vector_network(symlog(joined)))


def test_convolutions_agree_with_plain_ones() -> None:
    torch.manual_seed(0)
    network, sides = ConvEncoder(3, depth=4), []
    image = torch.rand(2, 64, 64, 3) - 0.5
    x = image.permute(0, 3, 1, 2).contiguous()
    for layer, channels in zip(network.layers, (4, 8, 16, 32), strict=True):
        assert layer.weight.shape[0] == channels
        x = F.elu(F.conv2d(x, layer.weight, layer.bias, stride=2))
        sides.append(x.shape[-1])
    assert sides == [31, 14, 6, 2]
    torch.testing.assert_close(network(image), x.permute(0, 2, 3, 1).reshape(2, -1), rtol=1e-4, atol=1e-5)
    assert network.width == 128


def test_images_and_vectors_together() -> None:
    spaces = {"left": IMAGE, "right": Box(0, 255, (64, 64, 1), np.uint8), "speed": VECTOR}
    encoder, seen = Encoder(spaces, TRUNK, 8, depth=2), observations(spaces)
    features = encoder(seen)
    assert features.shape == (3, encoder.width) == (3, 8 + 64)
    pixels = torch.cat([seen["left"], seen["right"]], -1).double() / 255 - 0.5
    assert encoder.image_network is not None
    torch.testing.assert_close(features[:, 8:], encoder.image_network(pixels.float()))
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_small_images_go_flat_through_a_trunk() -> None:
    seen = observations({"observation": SMALL})
    encoder = Encoder({"observation": SMALL}, TRUNK, 8, image_network="mlp")
    assert encoder.image_network is not None
    flat = (seen["observation"].float() / 255 - 0.5).reshape(3, 50)
    torch.testing.assert_close(encoder(seen), encoder.image_network[1](flat))  # type: ignore[index]
    assert encoder.width == 8


def test_bytes_are_scaled_exactly_and_left_alone() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(scale_image(image), torch.tensor([-0.5, -0.3, 0.5]))
    floats = torch.tensor([255.0])
    scale_image(floats)
    assert floats.item() == 255.0


def test_patterns_choose_keys() -> None:
    spaces = {"camera": IMAGE, "arm/angle": VECTOR, "arm/speed": VECTOR, "table": Box(0, 1, (2, 2), np.float32)}
    only = select_keys(spaces, "arm/.*", "$^")
    assert only.vectors == {"arm/angle": (4,), "arm/speed": (4,)}
    assert only.images == {}
    assert select_keys(spaces, "$^", "cam.*").images == {"camera": (64, 64, 3)}
    with pytest.raises(ValueError, match="vector_keys='arm' matches none of the observations: camera, arm/angle"):
        select_keys(spaces, "arm", "camera")  # the whole key must match


@pytest.mark.parametrize(
    ("spaces", "arguments", "words"),
    [
        ({"table": Box(0, 1, (2, 2), np.float32)}, {}, "'table' is neither a vector nor an image"),
        ({"cell": gym.spaces.Discrete(4)}, {}, "'cell' is neither a vector nor an image.*Discrete"),
        ({"camera": Box(0, 1, (64, 64, 3), np.float32)}, {}, "'camera' must be uint8.*float32"),
        (
            {"camera": SMALL},
            {"image_network": "conv"},
            "'camera' is 10x5.*take 64x64: give `--data.resize 64`, or image_network: mlp",
        ),
        ({"camera": Box(0, 255, (210, 160, 3), np.uint8)}, {}, "'camera' is 210x160.*give `--data.resize 64`"),
        ({"a": SMALL, "b": Box(0, 255, (9, 5, 1), np.uint8)}, {"image_network": "mlp"}, "must have one size"),
        ({"speed": VECTOR}, {"vector_keys": "$^"}, "leave none of: speed"),
        ({"speed": VECTOR}, {"image_keys": "camera"}, "image_keys='camera' matches none"),
        ({"speed": VECTOR}, {"image_network": "vit"}, "one of auto, conv, mlp, got 'vit'"),
    ],
)
def test_mistakes_are_named(spaces, arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Encoder(spaces, TRUNK, 8, **arguments)


def test_norms_are_of_the_channels_of_each_place() -> None:
    torch.manual_seed(0)
    encoder = ConvEncoder(3, depth=2, norm="layer")
    image = torch.randn(2, 64, 64, 3)
    x = image.permute(0, 3, 1, 2)
    for layer in encoder.layers:
        x = layer(x)
        centred = x - x.mean(1, keepdim=True)
        x = F.elu(centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt())
    torch.testing.assert_close(encoder(image), x.permute(0, 2, 3, 1).flatten(1), rtol=1e-4, atol=1e-5)
