"""A model to plan with, which keeps of observations only what rewards, values and policies need (MuZero).

Three networks share a latent: the representation makes it of an observation, the dynamics lead on from it along an
action, and the prediction reads policy and value off it. Nothing is reconstructed. Source: Schrittwieser et al. 2020,
"Mastering Atari, Go, chess and shogi by planning with a learned model" (https://arxiv.org/abs/1911.08265), appendices F
and G.

An agent uses a `PlanningModel`. A class to be named in a config takes the spaces as its first argument, derives from
it, hands the width of its latents to `super().__init__`, and defines `represent` and `transition`. Latents are flat,
`[..., D]`, whatever shape they have within the model, and scaled: both methods end with `to_unit_range`, in the same
way, so that latents that are seen and latents that are foreseen lie in one range. What it inherits: `step`, `predict`,
`foreseen`, `memory`, `actor`, `value_head`, `reward_head`, `horizon`.

Letters: `B` rows, `D` width of the latent, `M` width of the reward model's memory, `A` width of an action as the model
sees it, `S` of the policy's statistics, `K` outputs of a head's codec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_widths
from modules.batch import SequenceBatch, Spaces
from modules.functional.elementwise import scale_gradient
from modules.functional.transforms import to_unit_range
from modules.networks.actors import DiscreteActor, TanhNormalActor
from modules.networks.blocks import DenseStack, OutputLinear, WithOne
from modules.networks.encoders import Encoder
from modules.networks.make_actor import MakeContinuous, MakeDiscrete, check_makers, make_actor
from modules.networks.perception import MakeEncoder, Perception
from modules.networks.reward_models import MakeHead, MakeReward, StepReward, make_head
from modules.networks.trunks import Trunk
from modules.networks.value_heads import MakeCodec, ValueHead

ENTRY = 0.5
"""Share of the gradient that goes back through the entry of each step: long unrolls weigh no more than short ones."""

normalised_layer: Trunk = partial(DenseStack, layers=1, activation="relu", norm="layer")
"""The trunk where none is named: a dense layer, a LayerNorm and a ReLU."""


class PlanningModel(nn.Module, ABC):
    """Heads on a latent, and the unrolling of it; see the module on what a subclass defines.

    Last layers of the heads start at zero: the first policy is uniform over numbered actions, and first values and
    rewards are 0, as far as the codec's bins are symmetric.

    Attributes:
        width: width `D` of the latent.
        actor: the policy on latents; its `encode` makes `[..., A]` of an environment's actions.
        value_head: values of latents.
        reward: the reward model.

    Args:
        spaces: announced by the datamodule, without parts that are no observation, such as a mask of actions.
        width: `D`.
        units: width of hidden layers.
        trunk: makes the hidden layers of heads from their widths of input and output.
        codec: makes the meaning of values; None for `two_hot`.
        reward: makes the reward model.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        value: makes another head of values, such as an `EnsembleHead`; None for a `Head` with that codec.

    Raises:
        ValueError: the space of actions is none that a policy can have, a width is out of range, or another head and a
            codec are given.
    """

    def __init__(
        self,
        spaces: Spaces,
        width: int,
        units: int,
        trunk: Trunk,
        codec: MakeCodec | None,
        reward: MakeReward,
        discrete: MakeDiscrete,
        continuous: MakeContinuous,
        value: MakeHead | None = None,
    ) -> None:
        super().__init__()
        check_widths(latent=width, units=units)
        self.width = width
        check_makers(type(self), spaces.action, discrete, continuous)
        self.actor = make_actor(spaces.action, width, trunk, units, discrete=discrete, continuous=continuous)
        self.value_head = make_head(width, units, trunk, codec, value)
        self.reward = reward(width, units, trunk)
        last = [head.output_layers for head in (self.value_head, self.reward.head)]
        for layer in (self.actor.output, *(layer for layers in last for layer, _ in layers)):
            nn.init.zeros_(layer.weight)

    @property
    def reward_head(self) -> ValueHead:
        """Meaning of predicted rewards, or of sums of them where there is a horizon."""
        return self.reward.head

    @property
    def horizon(self) -> int | None:
        """Steps between resets of the reward model's memory; None, if rewards are told one by one."""
        return self.reward.horizon

    @abstractmethod
    def represent(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`{key: [B, ...]}` in the environment's units to latents `[B, D]` in [0, 1]; further keys are not read."""

    @abstractmethod
    def transition(self, latent: Tensor, action: Tensor) -> Tensor:
        """Latents `[B, D]` and actions `[B, A]` to the latents `[B, D]` in [0, 1] where they lead."""

    def memory(self, batch: int) -> Tensor:
        """The reward model's memory at a root, and behind a reset: `[B, M]` zeros."""
        return self.actor.output.weight.new_zeros(batch, self.reward.memory_width)

    def step(self, latent: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lead on along actions.

        Args:
            latent: `[B, D]`; half of the gradient goes on through it.
            memory: `[B, M]`; zeros behind a root or a reset.
            action: `[B, A]`, as the model sees actions.

        Returns:
            Latent `[B, D]`, memory `[B, M]`, and prediction of the reward `[B, K]`, for `reward_head`.
        """
        latent = self.transition(scale_gradient(latent, ENTRY), action)
        reward, memory = self.reward(latent, memory)
        return latent, memory, reward

    def foreseen(self, batch: SequenceBatch, steps: int) -> Tensor:
        """Latents that are seen and foreseen in `[T, B]` windows, `[steps + 1, T, B, D]`, in the order of
        `modules.model_contracts.HasLatents`.
        """
        shape, action = batch.reward.shape, self.actor.encode(batch.previous_action)
        latents = [self.represent({key: x.flatten(0, 1) for key, x in batch.observation.items()})]
        for k in range(1, steps + 1):
            latents.append(self.transition(latents[-1], action.roll(-k, 0).flatten(0, 1)))
        return torch.stack(latents).unflatten(1, shape)

    def predict(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[..., D]` to the policy's statistics `[..., S]` and the prediction of values `[..., K]`."""
        return self.actor(latent), self.value_head(latent)


class LatentModel(PlanningModel):
    """Dense networks: vectors and images through an encoder, then a residual layer per step.

    Args:
        spaces: announced by the datamodule, without parts that are no observation, such as a mask of actions.
        latent: width `D` of the latent.
        units: width of hidden layers.
        encoder: makes the network that reads observations, called with their spaces, `trunk` and `units`.
        trunk: makes hidden layers from their widths of input and output; None for `normalised_layer`.
        codec: makes the meaning of values; None for `two_hot`.
        reward: makes the reward model, called with `D`, `units` and `trunk`.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        value: makes another head of values, such as an `EnsembleHead`; None for a `Head` with that codec.

    Raises:
        ValueError: no observation is of a kind that the encoder takes, the space of actions is none that a policy can
            have, a width is out of range, or another head and a codec are given.
    """

    def __init__(
        self,
        spaces: Spaces,
        latent: int = 64,
        units: int = 128,
        encoder: MakeEncoder = Encoder,
        trunk: Trunk | None = None,
        codec: MakeCodec | None = None,
        reward: MakeReward = StepReward,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = TanhNormalActor,
        value: MakeHead | None = None,
    ) -> None:
        trunk = trunk or normalised_layer
        super().__init__(spaces, latent, units, trunk, codec, reward, discrete, continuous, value)
        vectors = any(len(space.shape or ()) < 2 for space in spaces.observations_by_key().values())
        seen: Trunk = partial(WithOne, trunk=trunk) if vectors else trunk  # whose length counts, too
        self.perception = Perception(spaces, encoder, seen, units)
        self.representation = OutputLinear(self.perception.width, latent)
        self.dynamics_trunk = trunk(latent + self.actor.width, units)
        self.dynamics = OutputLinear(units, latent)

    def represent(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`{key: [B, ...]}` to `[B, D]` in [0, 1]."""
        rows = {key: x.unsqueeze(0) for key, x in observation.items()}
        return to_unit_range(self.representation(self.perception(rows).squeeze(0)))

    def transition(self, latent: Tensor, action: Tensor) -> Tensor:
        """`[B, D]` and `[B, A]` to `[B, D]` in [0, 1]."""
        change = self.dynamics(self.dynamics_trunk(torch.cat([latent, action], -1)))
        return to_unit_range(latent + change)
