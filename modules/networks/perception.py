"""Observations as the environment gives them to features, for agents that reconstruct nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import gymnasium as gym
from torch import Tensor, nn

from modules.batch import Spaces
from modules.networks.blocks import Normalize
from modules.networks.encoders import Encoder
from modules.networks.trunks import Trunk

MakeEncoder = Callable[[Mapping[str, gym.Space], Trunk, int], Encoder]
"""`Encoder`, or a partial of it, called with the spaces of the observation's parts, a trunk and its width."""


class Perception(nn.Module):
    """Normalises vectors by the announced statistics, which a checkpoint then carries, and encodes what is there.

    Args:
        spaces: announced by the datamodule.
        encoder: makes the encoder.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.

    Attributes:
        width: width `D` of the features.
    """

    def __init__(self, spaces: Spaces, encoder: MakeEncoder, trunk: Trunk, units: int) -> None:
        super().__init__()
        self.encoder = encoder(spaces.observations_by_key(), trunk, units)
        self.width = self.encoder.width
        statistics, vectors = spaces.statistics_by_key(), self.encoder.keys.vectors
        self.vectors = list(vectors)
        made = (Normalize(math.prod(shape), *statistics.get(key, ())) for key, shape in vectors.items())
        self.normalizers = nn.ModuleList(made)  # a module dict takes no dots in keys

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`{key: [T, B, ...]}` in the environment's units to `[T, B, D]`."""
        shape = next(iter(observation.values())).shape[:2]
        return self.encoder(self.prepare(observation)).unflatten(0, shape)

    def prepare(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalise the vectors of `{key: [T, B, ...]}` and join both axes: `{key: [T * B, ...]}`."""
        flat = {key: x.flatten(0, 1) for key, x in observation.items()}
        for key, normalize in zip(self.vectors, self.normalizers, strict=True):
            flat[key] = normalize(flat[key].float())
        return flat
