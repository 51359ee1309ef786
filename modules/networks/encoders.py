"""From observations by key to one vector of features: vectors through a dense trunk, images through convolutions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from modules.arguments.checks import check_choice
from modules.batch import brief
from modules.functional.transforms import symlog
from modules.networks.blocks import Norm, Pointwise, glorot_uniform, make_norm, pointwise
from modules.networks.trunks import Trunk
from modules.trust.options import option

ImageNetwork = Literal["auto", "conv", "mlp"]
NOTHING = "$^"
"""A pattern that takes no key: the way to leave out all vectors, or all images."""
SIDE = 64
"""Height and width of the images that the convolutions take."""
MOST_PIXELS = 128 * 128
"""Number of pixels of the largest images that dense networks take."""


@dataclass(frozen=True)
class Keys:
    """The keys that a network takes, in the space's order.

    Attributes:
        vectors: shape by key, `()` or `(D,)`.
        images: shape by key, `(H, W, C)`.
        binary: those of the vectors whose entries are zeros and ones, as of one-hot vectors.
        convolve: images go through convolutions.
    """

    vectors: dict[str, tuple[int, ...]]
    images: dict[str, tuple[int, int, int]]
    binary: frozenset[str]
    convolve: bool


def select_keys(
    spaces: Mapping[str, gym.Space],
    vector_keys: str = ".*",
    image_keys: str = ".*",
    image_network: ImageNetwork = "auto",
) -> Keys:
    """Choose the observations that networks take: numbers and vectors of them, and uint8 images.

    Args:
        spaces: space of each part of the observation.
        vector_keys: regular expression that the whole key must match; `$^` takes none.
        image_keys: regular expression that the whole key of an image must match; images have three axes: height,
            width, channels.
        image_network: `conv`, which needs 64x64; `mlp`, for any size up to 128x128; `auto`, the one that fits.

    Raises:
        ValueError: a chosen key is neither a vector nor an image, an image is not uint8 or of another size than its
            network takes, a pattern matches nothing, or no key is left.
    """
    check_choice("image_network", image_network, get_args(ImageNetwork))
    known = ", ".join(spaces)
    for name, pattern in (("vector_keys", vector_keys), ("image_keys", image_keys)):
        if pattern not in (".*", NOTHING) and not any(re.fullmatch(pattern, key) for key in spaces):
            raise ValueError(f"{name}={pattern!r} matches none of the observations: {known}")
    # By the number of axes: none or one is a vector, three are an image, others can only be left out.
    vectors: dict[str, tuple[int, ...]] = {}
    images: dict[str, tuple[int, int, int]] = {}
    for key, space in spaces.items():
        shape = space.shape if isinstance(space, gym.spaces.Box) else None
        vector, image = re.fullmatch(vector_keys, key), re.fullmatch(image_keys, key)
        if shape is not None and len(shape) <= 1:
            vectors.update({key: shape} if vector else {})
        elif shape is not None and len(shape) == 3:
            images.update({key: _check_image(key, space, image_network)} if image else {})
        elif vector or image:
            raise ValueError(
                f"observation {key!r} is neither a vector nor an image of three axes: {brief(space)}; change it "
                "with a wrapper, or leave it out with vector_keys and image_keys"
            )
    if not vectors and not images:
        raise ValueError(f"vector_keys={vector_keys!r} and image_keys={image_keys!r} leave none of: {known}")
    # Images are joined on channels, which needs one size of all.
    sizes = {shape[:2] for shape in images.values()}
    if len(sizes) > 1:
        raise ValueError(f"images that are seen together must have one size, got {images}; give `{_resized()}`")
    convolve = image_network == "conv" or (image_network == "auto" and sizes == {(SIDE, SIDE)})
    binary = frozenset(key for key in vectors if _is_binary(spaces[key]))
    return Keys(vectors, images, binary, convolve)


def _is_binary(space: gym.Space) -> bool:
    """Whether a space holds zeros and ones, as environments are made to show classes and flags."""
    return isinstance(space, gym.spaces.Box) and space == gym.spaces.Box(0, 1, space.shape, np.int8)


def _resized() -> str:
    """The argument of the data that makes images of the size that convolutions take."""
    return option("data.resize", str(SIDE), str(SIDE))


def _check_image(key: str, space: gym.Space, image_network: str) -> tuple[int, int, int]:
    height, width, channels = space.shape  # type: ignore[misc]
    if space.dtype != np.uint8:
        raise ValueError(f"image {key!r} must be uint8 in 0 to 255, got {space.dtype}; leave it out with image_keys")
    said = f"image {key!r} is {height}x{width} (axes: height, width, channels)"
    if image_network == "conv" and (height, width) != (SIDE, SIDE):
        small = ", or image_network: mlp" if height * width <= MOST_PIXELS else ""
        raise ValueError(f"{said}, convolutions take {SIDE}x{SIDE}: give `{_resized()}`{small}")
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{said}, too large for a dense network: give `{_resized()}`, or the wrapper "
            f"datamodules.envs.wrappers.ResizeImages with size: {SIDE}"
        )
    return height, width, channels


def scale_image(image: Tensor, middle: float = 0.5) -> Tensor:
    """Bytes to floats in [0, 1] minus `middle`, by default in [-0.5, 0.5], of any shape."""
    return (image / 255.0).sub_(middle)


class ConvEncoder(nn.Module):
    """Four convolutions of kernel 4 and stride 2: `[N, 64, 64, C]` floats to `[N, 32 depth]`.

    Source: Hafner et al. 2021 (https://arxiv.org/abs/2010.02193), as in github.com/danijar/dreamerv2.

    Args:
        channels: number of channels `C` of all images together.
        depth: channels of the first layer, doubled by each of the others.
        activation: activation after each layer.
        norm: normalisation of the channels of each place, before each activation.
    """

    def __init__(self, channels: int, *, depth: int = 48, activation: Pointwise = "elu", norm: Norm = "none") -> None:
        super().__init__()
        self.width = 32 * depth  # 2 x 2 places of 8 * depth channels
        self.activation = pointwise(activation)
        widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
        self.layers = nn.ModuleList(glorot_uniform(nn.Conv2d(a, b, 4, stride=2)) for a, b in pairwise(widths))
        self.layers.to(memory_format=torch.channels_last)  # as images are stored
        self.norms = nn.ModuleList(make_norm(norm, width) for width in widths[1:])

    def forward(self, image: Tensor) -> Tensor:
        """`[N, 64, 64, C] -> [N, 32 depth]`; channels stay the fastest axis, so nothing is copied at either end."""
        x = image.permute(0, 3, 1, 2)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.activation(norm_channels(norm, layer(x)))
        return x.permute(0, 2, 3, 1).flatten(1)


def norm_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm of the last axis, of `make_norm`, on the channels of `[N, C, H, W]`."""
    return x if isinstance(norm, nn.Identity) else norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """Observations by key to features: `{key: [N, ...]} -> [N, width]`.

    Vectors are joined and go through a trunk. Images are joined on channels, scaled to a range of 1, and go through
    convolutions, or flat through a trunk of their own. What comes out is joined, vectors first.

    Args:
        spaces: space of each part of the observation.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunks give.
        vector_keys: regular expression that the whole key of a vector must match; `$^` takes none.
        image_keys: regular expression that the whole key of an image must match.
        image_network: `conv` for 64x64 images, `mlp` for any up to 128x128, `auto` for the one that fits.
        depth: channels of the first convolution.
        activation: activation of the convolutions.
        norm: normalisation of the convolutions' channels.
        symlog: whether vectors are squashed by `symlog` first.
        image_middle: number that becomes 0 of images in [0, 1]. Of boards that are dark but for a few fields, 0 speeds
            up learning many times: any other number gives all dark fields a say in every unit.

    Raises:
        ValueError: as of `select_keys`.
    """

    def __init__(
        self,
        spaces: Mapping[str, gym.Space],
        trunk: Trunk,
        units: int,
        *,
        vector_keys: str = ".*",
        image_keys: str = ".*",
        image_network: ImageNetwork = "auto",
        depth: int = 48,
        activation: Pointwise = "elu",
        norm: Norm = "none",
        symlog: bool = False,
        image_middle: float = 0.5,
    ) -> None:
        super().__init__()
        self.keys = select_keys(spaces, vector_keys, image_keys, image_network)
        self.symlog = symlog
        self.image_middle = image_middle
        vectors, images = self.keys.vectors.values(), self.keys.images.values()
        self.vector_network = trunk(sum(map(math.prod, vectors)), units) if vectors else None
        self.image_network: nn.Module | None = None
        self.width = units if vectors else 0
        if images and self.keys.convolve:
            self.image_network = ConvEncoder(
                sum(shape[2] for shape in images), depth=depth, activation=activation, norm=norm
            )
            self.width += self.image_network.width
        elif images:
            self.image_network = nn.Sequential(nn.Flatten(), trunk(sum(map(math.prod, images)), units))
            self.width += units

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`{key: [N, ...]}` in the environment's units and types, images as bytes, to `[N, width]`."""
        features = []
        if self.vector_network is not None:
            parts = [observation[key].reshape(observation[key].shape[0], -1).float() for key in self.keys.vectors]
            x = torch.cat(parts, -1)
            features.append(self.vector_network(symlog(x) if self.symlog else x))
        if self.image_network is not None:
            images = [observation[key] for key in self.keys.images]
            joined = torch.cat(images, -1) if len(images) > 1 else images[0]
            features.append(self.image_network(scale_image(joined, self.image_middle)))
        return torch.cat(features, -1) if len(features) > 1 else features[0]
