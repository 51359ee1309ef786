"""Encoders of images for ensembles: one per member, with weights stacked along the first axis.

Members are evaluated by `torch.func.vmap`, which makes one grouped convolution of theirs. `member` is one as it
is defined; a plain loop over members is the tests' reference.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from modules.batch import PLAIN
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.ensemble import ALL, Initializer
from modules.networks.perception import MakeEncoder
from modules.networks.trunks import EncodedEnsemble, Front, Trunk, global_draws_from, make_ensemble

make_encoder = functools.partial(Encoder, depth=32, activation="relu", image_middle=0.0)
"""The encoder of each network that names none: pixels in [0, 1], by four convolutions where they are 64x64."""


class FlatImages(nn.Module):
    """Images of bytes as the ensembles take them, `[..., H, W, C] -> [..., H W C]` floats of the same numbers.

    No statistics are applied: an encoder scales pixels itself.

    Args:
        shape: `(H, W, C)`.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = torch.Size(shape)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., H, W, C]` of bytes, or what this gave already, to `[..., H W C]` floats."""
        flat = x.flatten(-3) if x.shape[-3:] == self.shape else x
        return flat.float()

    def raw(self, x: Tensor) -> Tensor:
        """Inverse of `forward`: `[..., H W C]` floats to `[..., H, W, C]` bytes."""
        return x.unflatten(-1, self.shape).to(torch.uint8)


class StackedEncoder(nn.Module):
    """`M` encoders of images: `[M, B, H W C]` pixels from 0 to 255 to features `[M, B, width]`.

    Args:
        space: space of the images.
        units: width that a dense layer gives, for images that are not convolved.
        generators: one random generator per member, so that it starts as it would alone.
        encoder: makes the encoder of one member.

    Raises:
        ValueError: images of another type than bytes, or of a size that the encoder does not take.
    """

    def __init__(
        self,
        space: gym.spaces.Box,
        units: int,
        generators: Sequence[torch.Generator],
        encoder: MakeEncoder = make_encoder,
    ) -> None:
        super().__init__()
        layers = functools.partial(DenseStack, layers=1, activation="relu")
        made = []
        for generator in generators:
            with global_draws_from(generator):
                made.append(encoder({PLAIN: space}, layers, units))
        self.shape = space.shape
        self.width = made[0].width
        self.names = [name for name, _ in made[0].named_parameters()]
        # Its form alone, in a list: the weights are those that are stacked here.
        self.form = [copy.deepcopy(made[0]).to("meta")]
        weights = [dict(one.named_parameters()) for one in made]
        stacked = [torch.stack([one[name].detach() for one in weights]) for name in self.names]
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in stacked)

    def forward(self, x: Tensor, members: slice = ALL) -> Tensor:
        """Encode by all members, or by a slice of them, `[len(slice), B, H W C]` pixels of their own."""
        weights = {name: weight[members] for name, weight in zip(self.names, self.weights, strict=True)}
        return vmap(self._encoded)(weights, x.unflatten(-1, self.shape))

    def _encoded(self, weights: Mapping[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(self.form[0], dict(weights), ({PLAIN: image},))

    def member(self, index: int) -> PixelEncoder:
        """The plain definition of one member, a copy: `[B, H W C] -> [B, width]`."""
        encoder = copy.deepcopy(self.form[0]).to_empty(device=self.weights[0].device)
        encoder.load_state_dict({n: w[index].detach() for n, w in zip(self.names, self.weights, strict=True)})
        return PixelEncoder(encoder, self.shape)


class PixelEncoder(nn.Module):
    """An encoder of flat images.

    Args:
        encoder: encoder of images `[B, H, W, C]`.
        shape: `(H, W, C)`.
    """

    def __init__(self, encoder: Encoder, shape: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H W C]` pixels from 0 to 255 to `[B, width]` features."""
        return self.encoder({PLAIN: x.unflatten(-1, self.shape)})


@dataclass(frozen=True)
class ImageFront(Front):
    """Encoders before the layers of every ensemble that sees images.

    Attributes:
        space: space of the images.
        trunk: layers behind the encoder; None for hidden layers.
        encoder: makes one encoder.
    """

    space: gym.spaces.Box
    trunk: Trunk | None
    encoder: MakeEncoder = make_encoder

    def ensemble(
        self,
        members: int,
        d_in: int,
        hidden: Sequence[int],
        d_out: int,
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        layer_norm: bool,
    ) -> EncodedEnsemble:
        """Encoders, and behind them what `make_ensemble` makes for their features and the rest of the input."""
        encoder = StackedEncoder(self.space, hidden[0], generators, self.encoder)
        pixels = math.prod(self.space.shape)
        width = encoder.width + d_in - pixels
        layers = make_ensemble(members, width, hidden, d_out, initializer, generators, self.trunk, layer_norm)
        return EncodedEnsemble(encoder, layers, pixels)
