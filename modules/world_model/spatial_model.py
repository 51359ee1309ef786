"""A model to plan with whose latent is a small image: boards and pictures by residual convolutions.

Source: Schrittwieser et al. 2020 (https://arxiv.org/abs/1911.08265), appendices E and F, in small: actions enter as
planes beside the latent, and every part is a stack of residual blocks. Theirs are normalised over the batch, which
differs between training and search; here each sample is normalised by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from modules.arguments.checks import DEEPEST, check_ranges, check_widths
from modules.batch import Spaces, brief
from modules.functional.transforms import to_unit_range
from modules.networks.actors import DiscreteActor, TanhNormalActor
from modules.networks.make_actor import MakeContinuous, MakeDiscrete
from modules.networks.reward_models import MakeHead, MakeReward, StepReward
from modules.networks.trunks import Trunk
from modules.networks.value_heads import MakeCodec
from modules.world_model.latent_model import PlanningModel, normalised_layer


class SpatialModel(PlanningModel):
    """Residual convolutions on boards and images; the latent is an image of `H` rows, `V` columns and `C` channels.

    Images are scaled to [0, 1] by the bounds of their space. Latents are flat for others, `D = H V C`, channel by
    channel of each place. Heads are dense.

    Args:
        spaces: announced by the datamodule, without parts that are no observation, such as a mask of actions.
        channels: `C`.
        blocks: residual blocks of the representation, and again of the dynamics.
        stages: convolutions that halve rows and columns, before the blocks; 0 for boards.
        planes: planes that an action has beside the latent.
        units: width of the heads' hidden layers.
        keys: regular expression that the whole key of an image must match.
        board: rows, columns and channels of observations that arrive as flat vectors, as boards do, which are no images
            of bytes; None where all have three axes.
        trunk: makes the heads' hidden layers; None for `normalised_layer`.
        codec: makes the meaning of values; None for `two_hot`.
        reward: makes the reward model, called with `D`, `units` and `trunk`.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        value: makes another head of values, such as an `EnsembleHead`; None for a `Head` with that codec.

    Raises:
        ValueError: an observation is no image, images have several sizes, the space of actions is none that a policy
            can have, a number is out of range, or another head and a codec are given.
    """

    low: Tensor
    range: Tensor

    def __init__(
        self,
        spaces: Spaces,
        channels: int = 32,
        blocks: int = 2,
        stages: int = 0,
        planes: int = 2,
        units: int = 128,
        keys: str = ".*",
        board: list[int] | None = None,
        trunk: Trunk | None = None,
        codec: MakeCodec | None = None,
        reward: MakeReward = StepReward,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = TanhNormalActor,
        value: MakeHead | None = None,
    ) -> None:
        check_widths(channels=channels, planes=planes)
        check_ranges(("blocks", blocks, 0, DEEPEST), ("stages", stages, 0, 16))
        images = select_images(spaces.observations_by_key(), keys, board)
        rows, columns, _ = next(iter(images.values())).shape
        for _ in range(stages):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        width = rows * columns * channels
        super().__init__(spaces, width, units, trunk or normalised_layer, codec, reward, discrete, continuous, value)
        self.shape = rows, columns, channels
        self.images = {key: image.shape for key, image in images.items()}
        depth = sum(image.shape[2] for image in images.values())
        low, high = (
            np.concatenate([getattr(image, bound) for image in images.values()], -1).astype(np.float32)
            for bound in ("low", "high")
        )
        self.register_buffer("low", torch.from_numpy(low))
        self.register_buffer("range", torch.from_numpy(np.where(high > low, high - low, 1.0)))  # some may not vary
        # Representation: as many channels as the latent, then smaller and smaller, then at one size.
        halvings = (_Normed(channels, channels, stride=2) for _ in range(stages))
        self.encoder = nn.Sequential(_Normed(depth, channels), *halvings, *(_Block(channels) for _ in range(blocks)))
        # Dynamics: the latent, changed by a look at it and at the action's planes.
        self.action_planes = nn.Parameter(first_planes(self.actor.width, rows, columns, planes))
        self.change = _Normed(channels + planes, channels, activate=False)
        self.dynamics = nn.Sequential(*(_Block(channels) for _ in range(blocks)))
        self.to(memory_format=torch.channels_last)  # as images are stored

    def represent(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`{key: [B, rows, columns, channels]}` to `[B, D]` in [0, 1]."""
        x = torch.cat([observation[key].float().view(-1, *shape) for key, shape in self.images.items()], -1)
        scaled = (x - self.low) / self.range
        return _flat(self.encoder(scaled.permute(0, 3, 1, 2)))

    def transition(self, latent: Tensor, action: Tensor) -> Tensor:
        """`[B, D]` and `[B, A]` to `[B, D]` in [0, 1]."""
        image = latent.unflatten(-1, self.shape).permute(0, 3, 1, 2)
        planes = torch.tensordot(action, self.action_planes, 1)  # [B, P, H, V]
        return _flat(self.dynamics(torch.relu(image + self.change(torch.cat([image, planes], 1)))))


def first_planes(actions: int, rows: int, columns: int, planes: int) -> Tensor:
    """Planes of each action before anything is learned, `[A, P, H, V]`.

    Where there are as many actions as fields, or as columns, one plane shows the field or the column with the action's
    number, as for games in which stones are set there; all else is random.
    """
    found = torch.randn(actions, planes, rows, columns) / planes**0.5
    if actions == rows * columns:
        found[:, 0] = torch.eye(actions).view(actions, rows, columns)
    elif actions == columns:
        found[:, 0] = torch.eye(actions).unsqueeze(1).expand(actions, rows, columns)
    return found


def select_images(
    spaces: Mapping[str, gym.Space], keys: str = ".*", board: Sequence[int] | None = None
) -> dict[str, gym.spaces.Box]:
    """The images and boards that convolutions take, in the space's order.

    Args:
        spaces: space of each part of the observation.
        keys: regular expression that the whole key must match.
        board: rows, columns and channels of parts that are flat; None, if there are none.

    Returns:
        Spaces of three axes.

    Raises:
        ValueError: a part that matches is no bounded Box of three axes, nor flat with the numbers of a board, images
            have several sizes, or nothing matches.
    """
    chosen = {key: space for key, space in spaces.items() if re.fullmatch(keys, key)}
    if not chosen:
        raise ValueError(f"keys={keys!r} matches none of the observations: {', '.join(spaces)}")
    images = {}
    for key, space in chosen.items():
        if isinstance(space, gym.spaces.Box) and board is not None and space.shape == (math.prod(board),):
            space = gym.spaces.Box(space.low.reshape(board), space.high.reshape(board), dtype=space.dtype.type)
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 3 or not space.is_bounded():
            raise ValueError(
                f"observation {key!r} is no image (a bounded Box of rows, columns and channels): {brief(space)}; tell "
                "a flat one's shape by `board`, such as [3, 3, 2], leave it out by `keys`, or name "
                "modules.world_model.latent_model.LatentModel"
            )
        images[key] = space
    sizes = {image.shape[:2] for image in images.values()}
    if len(sizes) > 1:
        raise ValueError(f"images that are seen together must have one size, got {sorted(sizes)}; choose by `keys`")
    return images


def _flat(image: Tensor) -> Tensor:
    """`[B, C, H, V]` to flat latents `[B, D]` in [0, 1]."""
    return to_unit_range(image.permute(0, 2, 3, 1).flatten(1).float())


class _Normed(nn.Sequential):
    """A convolution of 3x3, normalised over all channels and places of each sample: `[B, C, H, V]` to the same."""

    def __init__(self, d_in: int, d_out: int, stride: int = 1, *, activate: bool = True) -> None:
        layers: list[nn.Module] = [nn.Conv2d(d_in, d_out, 3, stride, 1, bias=False), nn.GroupNorm(1, d_out)]
        super().__init__(*layers, *([nn.ReLU()] if activate else []))


class _Block(nn.Module):
    """Two of them, added to what they saw."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_Normed(channels, channels), _Normed(channels, channels, activate=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))
