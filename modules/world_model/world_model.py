"""A world model: encoder, recurrent state-space model, and heads for observations, reward and discount.

Source: Hafner et al. 2021, "Mastering Atari with Discrete World Models"
(https://arxiv.org/abs/2010.02193), section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_widths
from modules.batch import Spaces
from modules.networks.blocks import DenseStack, Norm, Normalize, Pointwise
from modules.networks.decoders import Decoder
from modules.networks.encoders import Encoder, ImageNetwork
from modules.networks.trunks import Trunk
from modules.networks.value_codecs import Bernoulli
from modules.networks.value_heads import Head
from modules.world_model.latents import CategoricalLatent, Latent
from modules.world_model.rssm import RSSM, Observed, RecurrentModel, State


class WorldModel(nn.Module):
    """Encoder, recurrent model and heads, which an agent learns of its environment.

    Args:
        spaces: spaces of the environment; actions enter as vectors.
        d_action: width `A` of an action as the model sees it.
        latent: makes the stochastic part of the state.
        rssm: makes the recurrent model, called with the widths of embedded observations and of actions, the latent,
            `deter`, `hidden`, `activation` and `norm`.
        deter: width of the recurrent state.
        hidden: width of the layers around the recurrent cell.
        trunk: makes the layers between a network's input and output, called with widths in and out.
        head_trunk: those of the heads for reward and discount; None for `trunk`.
        units: width that each trunk gives.
        depth: channels of the first convolution.
        activation: activation of convolutions and of the layers around the recurrent cell.
        norm: normalisation of convolutions and of the layers around the recurrent cell.
        vector_keys: regular expression of the observations that are read as vectors; `$^` for none.
        image_keys: regular expression of the observations that are read as images; `$^` for none.
        image_network: `conv` for 64x64 images, `mlp` for any up to 128x128, `auto` for the one that fits.
        symlog: whether vectors are squashed by `symlog`, on the way in and as targets.
        reward: makes the reward head.
        discount: whether the ends of episodes are learned; without it every step is followed by the next.

    Raises:
        ValueError: no observation is of a kind that the networks take, or a number is out of range.
    """

    def __init__(
        self,
        spaces: Spaces,
        d_action: int,
        latent: Callable[[], Latent] = CategoricalLatent,
        rssm: Callable[[int, int, Latent, int, int, Pointwise, Norm], RecurrentModel] = RSSM,
        deter: int = 200,
        hidden: int = 200,
        trunk: Trunk = DenseStack,
        head_trunk: Trunk | None = None,
        units: int = 400,
        depth: int = 48,
        activation: Pointwise = "elu",
        norm: Norm = "none",
        vector_keys: str = ".*",
        image_keys: str = ".*",
        image_network: ImageNetwork = "auto",
        symlog: bool = False,
        reward: Callable[[int, int, Trunk], Head] = Head,
        discount: bool = True,
    ) -> None:
        super().__init__()
        check_widths(deter=deter, hidden=hidden, units=units, depth=depth)
        parts = spaces.observations_by_key()
        views = {"vector_keys": vector_keys, "image_keys": image_keys, "image_network": image_network, "depth": depth}
        self.encoder = Encoder(parts, trunk, units, activation=activation, norm=norm, symlog=symlog, **views)  # type: ignore[arg-type]
        self.rssm = rssm(self.encoder.width, d_action, latent(), deter, hidden, activation, norm)
        width = self.rssm.width
        self.decoder = Decoder(parts, width, trunk, units, activation=activation, norm=norm, symlog=symlog, **views)  # type: ignore[arg-type]
        # What normalises vectors: the announced statistics, which a checkpoint then carries, or nothing.
        statistics, vectors = spaces.statistics_by_key(), self.encoder.keys.vectors
        self.normalizers = {
            key: Normalize(math.prod(shape), *statistics.get(key, ())) for key, shape in vectors.items()
        }
        self._normalizers = nn.ModuleList(self.normalizers.values())  # a module dict takes no dots in keys
        self.reward = reward(width, units, head_trunk or trunk)
        self.discount = Head(width, units, head_trunk or trunk, Bernoulli) if discount else None

    def prepare(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalise the vectors of `{key: [T, B, ...]}` and join both axes: `{key: [T * B, ...]}`."""
        flat = {key: x.flatten(0, 1) for key, x in observation.items()}
        for key, normalize in self.normalizers.items():
            flat[key] = normalize(flat[key].float())
        return flat

    def observe(
        self,
        observation: Mapping[str, Tensor],
        previous_action: Tensor,
        is_first: Tensor,
        noise: Tensor,
        state: State | None = None,
    ) -> Observed:
        """Infer the states of a window `[T, B, ...]`; see `RSSM.observe`."""
        embed = self.encoder(self.prepare(observation)).unflatten(0, is_first.shape)
        return self.rssm.observe(embed, previous_action, is_first, noise, state)

    def reconstruction_losses(self, features: Tensor, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Negative log-likelihood of `{key: [T, B, ...]}` given features `[T, B, D]`, by key, `[T * B]` each."""
        return self.decoder.losses(self.decoder(features.flatten(0, 1)), self.prepare(observation))

    def expected_reward(self, features: Tensor) -> Tensor:
        """Reward of arriving at features `[..., D]`: `[...]`."""
        return self.reward.mean(self.reward(features))

    def expected_discount(self, features: Tensor, discount: float) -> Tensor:
        """Discount after features `[..., D]`: `[...]`; the given one everywhere without a head."""
        if self.discount is None:
            return torch.full(features.shape[:-1], discount, device=features.device)
        return self.discount.mean(self.discount(features))

    @torch.no_grad()
    def decode(self, features: Tensor) -> dict[str, Tensor]:
        """Observations in their own units from features `[T, B, D]`: `{key: [T, B, ...]}`."""
        means = self.decoder.to_units(self.decoder(features.flatten(0, 1)))
        for key, normalize in self.normalizers.items():
            means[key] = normalize.raw(means[key])
        return {key: mean.unflatten(0, features.shape[:2]) for key, mean in means.items()}
