"""A population of policies: how its members act, draw noise, and are given what they learn from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from modules.agent.population import Population
from modules.batch import PLAIN, Spaces, Transition, brief
from modules.contracts import ReplayOffer, ReportsCollection
from modules.networks.action_units import BoxUnits, DiscreteUnits, action_units
from modules.networks.blocks import Normalize
from modules.networks.perception import MakeEncoder
from modules.networks.policies import DeterministicPolicy, StackedPolicy
from modules.networks.stacked_encoders import FlatImages, ImageFront, make_encoder
from modules.networks.trunks import Trunk


class PolicyPopulation(LightningModule):
    """The part of an agent of `M` members that stacks their policies along the first axis of every weight.

    Attributes:
        population: the members, made by the agent's constructor.
        normalize: normaliser of observations; of images, which are not normalised, what makes rows of them.
        trunk: layers of the agent's networks; encoders come before them where observations are images.
        make_encoder: makes the encoder of one network; None for the usual one.
        units: units of the environment's actions.
        actor: the policies, made by the agent.
    """

    population: Population
    rank: int
    normalize: Normalize | FlatImages
    trunk: Trunk | None
    make_encoder: MakeEncoder | None = None
    takes_images: ClassVar[bool] = False
    """Whether the agent makes its networks by `self.trunk`, with which they see images."""
    units: BoxUnits | DiscreteUnits
    actor: StackedPolicy

    def _observe(self, spaces: Spaces, discrete: bool = False) -> tuple[int, int]:
        """Make the normaliser of these observations and the units of these actions.

        Args:
            spaces: the announced spaces.
            discrete: whether the agent takes numbered actions, too.

        Returns:
            Width `D` of an observation, and width `A` of an action, or the number of actions.

        Raises:
            ValueError: spaces of another kind, or an encoder of images where there are none.
        """
        flat, seen = spaces, spaces.observation
        image = seen if self.takes_images and isinstance(seen, gym.spaces.Box) and len(seen.shape) == 3 else None
        if image is not None:
            flat = replace(spaces, observation=gym.spaces.flatten_space(image))
        observations, actions = flat.flat_boxes_or_discrete() if discrete else flat.flat_boxes()
        (d_observation,) = observations.shape
        if image is None:
            if self.make_encoder is not None:
                raise ValueError(
                    f"encoder is for images [H, W, C], and the observations are {brief(seen)}: leave it out; `hidden` "
                    "and `trunk` are the layers that see vectors"
                )
            self.normalize = Normalize(d_observation, *spaces.statistics_by_key().get(PLAIN, ()))
        else:
            self.normalize = FlatImages(image.shape)
            self.trunk = ImageFront(image, self.trunk, self.make_encoder or make_encoder)
        self.units = action_units(actions)
        return d_observation, self.units.width

    def meet(self, replay: ReplayOffer | None) -> None:
        """See that data from a replay are single transitions.

        Raises:
            ValueError: they are sequences.
        """
        if replay is not None and not replay.transitions:
            raise ValueError(
                f"{type(self).__name__} learns from single transitions: set data.replay to "
                "datamodules.replay.single_steps.TransitionReplay, and data.sequence_length to 2"
            )

    def check_run(self, trainer: Trainer, data: object) -> None:
        """Refuse several members that would have to share what each of them plays."""
        super().check_run(trainer, data)  # type: ignore[misc]  # the agent's, of which this is a part
        if isinstance(data, ReportsCollection) and len(self.population) > 1:
            raise ValueError(
                f"{type(self).__name__} plays for its own data with one member, and has {len(self.population)}: run "
                "one process per seed"
            )

    @property
    def member_names(self) -> tuple[str, ...]:
        return self.population.names

    @property
    def acting(self) -> StackedPolicy:
        """The policy that acts: the learned one, unless the agent keeps another."""
        return self.actor

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        rows, policy = self.normalize(observation).unflatten(0, (len(self.population), -1)), self.acting
        if explore:
            noise = torch.randn(*rows.shape[:2], policy.d_noise, device=rows.device)
            action = policy.sample(noise, *policy(rows))
        else:
            action = policy.likeliest(rows)
        return self.units.played(action.flatten(0, 1)), state

    def policy(self, member: int = 0) -> nn.Module:
        acting = self.acting
        normalize, units = copy.deepcopy(self.normalize), copy.deepcopy(self.units)
        return DeterministicPolicy(normalize, acting.network.member(member), acting.decide, units)

    def rank_state(self) -> dict[str, Any]:
        return {"noise": self.population.state_dict()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        self.population.load_state_dict(state["noise"], self.device, self.rank)

    def _reference_actions(self, policy: nn.Module, observation: Tensor) -> Tensor:
        """The model's own actions `[M, B, ...]` of a policy of raw observations, for normalised ones `[M, B, D]`."""
        rows = self.normalize.raw(observation).flatten(0, 1)
        return self.units.learned(policy(rows)).unflatten(0, observation.shape[:2])

    def _split(self, transition: Transition, minibatches: int) -> Transition:
        """The rows `[M, B, ...]` that the members learn from: normalised observations, actions as the model's."""
        initial = transition.initial_observation
        prepared = transition._replace(
            observation=self.normalize(transition.observation),
            action=self.units.learned(transition.action),
            next_observation=self.normalize(transition.next_observation),
            initial_observation=None if initial is None else self.normalize(initial),
        )
        return Transition(*(x if x is None else self.population.spread(x, minibatches) for x in prepared))  # type: ignore[arg-type]
