"""Decoders against the same operations written out, and their losses against sums over entries."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box

from modules.functional.transforms import symlog
from modules.networks.blocks import DenseStack
from modules.networks.decoders import ConvDecoder, Decoder

TRUNK = functools.partial(DenseStack, layers=2)
IMAGE = Box(0, 255, (64, 64, 3), np.uint8)
SMALL = Box(0, 255, (10, 5, 1), np.uint8)
SPACES = {"camera": IMAGE, "depth": Box(0, 255, (64, 64, 1), np.uint8), "speed": Box(-9, 9, (4,)), "n": Box(0, 9, ())}


def seen(rows: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "camera": torch.randint(256, (rows, 64, 64, 3), dtype=torch.uint8),
        "depth": torch.randint(256, (rows, 64, 64, 1), dtype=torch.uint8),
        "speed": 5 * torch.randn(rows, 4),
        "n": torch.rand(rows),
    }


def test_transposed_convolutions_agree_with_plain_ones() -> None:
    torch.manual_seed(0)
    decoder, sides = ConvDecoder({"a": 2, "b": 1}, 10, depth=4), []
    features = torch.randn(2, 10)
    x = (features @ decoder.input.weight.T + decoder.input.bias).reshape(2, 128, 1, 1)
    for number, (layer, channels) in enumerate(zip(decoder.layers, (16, 8, 4, 3), strict=True)):
        assert layer.weight.shape[1] == channels
        x = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
        x = F.elu(x) if number < 3 else x
        sides.append(x.shape[-1])
    assert sides == [5, 13, 30, 64]
    for images in (decoder(features), decoder.plain(features)):
        torch.testing.assert_close(images["a"], x[:, :2].permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(images["b"], x[:, 2:].permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_every_key_is_predicted_in_its_own_shape_and_trains_all_weights() -> None:
    decoder, observation = Decoder(SPACES, 6, TRUNK, 8, depth=2), seen()
    means = decoder(torch.randn(3, 6))
    assert {key: mean.shape for key, mean in means.items()} == {key: x.shape for key, x in observation.items()}
    losses = decoder.losses(means, observation)
    assert {key: loss.shape for key, loss in losses.items()} == dict.fromkeys(observation, (3,))
    sum(loss.sum() for loss in losses.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


@pytest.mark.parametrize("squash", [False, True])
def test_losses_are_halved_squares_summed_over_entries(squash: bool) -> None:
    decoder, observation = Decoder(SPACES, 6, TRUNK, 8, depth=2, symlog=squash), seen()
    means = {key: torch.randn(x.shape) for key, x in observation.items()}
    losses = decoder.losses(means, observation)
    for key, x in observation.items():
        vector = symlog(x) if squash else x
        target = x.double() / 255 - 0.5 if key in ("camera", "depth") else vector
        expected = [0.5 * float(((means[key][i] - target[i]) ** 2).sum()) for i in range(3)]
        torch.testing.assert_close(losses[key], torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("squash", [False, True])
def test_perfect_means_cost_nothing_and_come_back_in_units(squash: bool) -> None:
    decoder, observation = Decoder(SPACES, 6, TRUNK, 8, depth=2, symlog=squash), seen()
    means = {}
    for key, x in observation.items():
        means[key] = x / 255.0 - 0.5 if x.dtype == torch.uint8 else (symlog(x) if squash else x)
    for loss in decoder.losses(means, observation).values():
        torch.testing.assert_close(loss, torch.zeros(3))
    for key, back in decoder.to_units(means).items():
        torch.testing.assert_close(back, observation[key].float(), rtol=1e-4, atol=1e-3)
    beyond = decoder.to_units({"camera": torch.tensor([-0.7, 0.9])})["camera"]
    assert beyond.tolist() == [0.0, 255.0]


def test_small_images_come_from_a_trunk() -> None:
    decoder = Decoder({"observation": SMALL}, 6, TRUNK, 8, image_network="mlp")
    means = decoder(torch.randn(3, 6))
    assert means["observation"].shape == (3, 10, 5, 1)
    assert decoder.losses(means, {"observation": torch.zeros(3, 10, 5, 1, dtype=torch.uint8)})["observation"].shape == (
        3,
    )


def test_means_are_float32_under_autocast() -> None:
    decoder = Decoder(SPACES, 6, TRUNK, 8, depth=2)
    with torch.autocast("cpu", torch.bfloat16):
        means = decoder(torch.randn(3, 6))
    assert {mean.dtype for mean in means.values()} == {torch.float32}
