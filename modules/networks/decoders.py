"""From features back to observations by key, as means of unit-variance normals, or as chances of zeros and ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.functional.transforms import symexp, symlog
from modules.networks.blocks import Norm, OutputLinear, Pointwise, glorot_uniform, make_norm, pointwise
from modules.networks.encoders import ImageNetwork, norm_channels, scale_image, select_keys
from modules.networks.trunks import Trunk


class DenseDecoder(nn.Module):
    """A trunk and one output layer for each key: `[N, F]` features to `{key: [N, ...]}`.

    Args:
        shapes: shape of each key's observation.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], d_features: int, trunk: Trunk, units: int) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.trunk = trunk(d_features, units)
        self.outputs = nn.ModuleList(OutputLinear(units, math.prod(shape)) for shape in shapes.values())

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """`[N, F] -> {key: [N, ...]}` in float32."""
        x = self.trunk(features)
        outputs = zip(self.shapes.items(), self.outputs, strict=True)
        return {key: output(x).reshape(len(x), *shape) for (key, shape), output in outputs}


class ConvDecoder(nn.Module):
    """A linear layer and four transposed convolutions: `[N, F]` features to `{key: [N, 64, 64, C]}`.

    Source: Hafner et al. 2021 (https://arxiv.org/abs/2010.02193), as in github.com/danijar/dreamerv2: kernels 5, 5, 6
    and 6 of stride 2, no activation after the linear layer nor at the end.

    Args:
        channels: number of channels `C` of each key's image; the images are made side by side, on channels.
        d_features: width `F` of the features.
        depth: channels before the last layer.
        activation: activation between the transposed convolutions.
        norm: normalisation of the channels of each place, before each activation.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        d_features: int,
        depth: int = 48,
        activation: Pointwise = "elu",
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.activation = pointwise(activation)
        self.input = glorot_uniform(nn.Linear(d_features, 32 * depth))
        widths = [32 * depth, 4 * depth, 2 * depth, depth, sum(channels.values())]
        sizes = zip(pairwise(widths), (5, 5, 6, 6), strict=True)
        self.layers = nn.ModuleList(glorot_uniform(nn.ConvTranspose2d(*io, kernel, stride=2)) for io, kernel in sizes)
        self.layers.to(memory_format=torch.channels_last)  # as images are stored
        self.norms = nn.ModuleList(make_norm(norm, width) for width in widths[1:-1])

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """`[N, F] -> {key: [N, 64, 64, C]}` in float32."""
        # From a single place, a transposed convolution is one product: three times as fast, on a CPU, as torch's own.
        weight, bias = self.layers[0].parameters()
        kernel = weight.permute(0, 2, 3, 1)  # [in, 5, 5, out], as it lies in memory
        x = (self.input(features) @ kernel.flatten(1)).unflatten(1, kernel.shape[1:]) + bias
        return self._images(x.permute(0, 3, 1, 2))

    def plain(self, features: Tensor) -> dict[str, Tensor]:
        """The definition of `forward`: all four transposed convolutions by torch's own."""
        return self._images(self.layers[0](self.input(features).reshape(len(features), -1, 1, 1)))

    def _images(self, x: Tensor) -> dict[str, Tensor]:
        """Images by key of what the first transposed convolution gives, `[N, 4 depth, 5, 5]`."""
        for layer, norm in zip(self.layers[1:], self.norms, strict=True):
            x = layer(self.activation(norm_channels(norm, x)))
        images = x.permute(0, 2, 3, 1).float()
        return dict(zip(self.channels, images.split(list(self.channels.values()), -1), strict=True))


class Decoder(nn.Module):
    """Features to means of observations by key, the mirror of `Encoder`: `[N, F] -> {key: [N, ...]}`.

    Means are in the units of the loss: images in [-0.5, 0.5], vectors as they are or after `symlog`, those of zeros and
    ones as log-odds.

    Args:
        spaces: space of each part of the observation.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunks give.
        vector_keys: regular expression that the whole key of a vector must match; `$^` takes none.
        image_keys: regular expression that the whole key of an image must match.
        image_network: `conv` for 64x64 images, `mlp` for any up to 128x128, `auto` for the one that fits.
        depth: channels before the last transposed convolution.
        activation: activation of the transposed convolutions.
        norm: normalisation of the transposed convolutions' channels.
        symlog: whether `symlog` of vectors is predicted.

    Raises:
        ValueError: as of `select_keys`.
    """

    def __init__(
        self,
        spaces: Mapping[str, gym.Space],
        d_features: int,
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
    ) -> None:
        super().__init__()
        self.keys = select_keys(spaces, vector_keys, image_keys, image_network)
        self.symlog = symlog
        vectors, images = self.keys.vectors, self.keys.images
        self.parts = nn.ModuleList()
        if vectors:
            self.parts.append(DenseDecoder(vectors, d_features, trunk, units))
        if images and self.keys.convolve:
            channels = {key: shape[2] for key, shape in images.items()}
            self.parts.append(ConvDecoder(channels, d_features, depth, activation, norm))
        elif images:
            self.parts.append(DenseDecoder(images, d_features, trunk, units))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """`[N, F]` to the means of every key's observation, `[N, ...]` in float32."""
        return {key: mean for part in self.parts for key, mean in part(features).items()}

    def losses(self, means: Mapping[str, Tensor], observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Negative log-likelihood of observations under unit-variance normals, summed over each key's entries.

        The constant, `log(2 pi) / 2` for each entry, is left out: a perfect prediction costs 0. Zeros and ones are
        Bernoulli instead: a normal of unit variance would give away half a nat of a class at most.

        Args:
            means: means that `forward` gave.
            observation: `{key: [N, ...]}` in the environment's units and types, images as bytes.

        Returns:
            `[N]` by key, in nats.
        """
        losses = {}
        for key, mean in means.items():
            target = observation[key]
            if key in self.keys.binary:
                errors = F.binary_cross_entropy_with_logits(mean, target.float(), reduction="none")
                losses[key] = errors.reshape(len(mean), -1).sum(1)
                continue
            if key in self.keys.images:
                target = scale_image(target)
            elif self.symlog:
                target = symlog(target.float())
            losses[key] = 0.5 * (mean - target).square().reshape(len(mean), -1).sum(1)
        return losses

    @torch.no_grad()
    def to_units(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means in the environment's units: images as floats clipped to [0, 255], chances of ones; shapes stay."""
        return {key: self._to_units(key, mean) for key, mean in means.items()}

    def _to_units(self, key: str, mean: Tensor) -> Tensor:
        if key in self.keys.images:
            return (255.0 * (mean + 0.5)).clamp(0.0, 255.0)
        if key in self.keys.binary:
            return mean.sigmoid()
        return symexp(mean) if self.symlog else mean
