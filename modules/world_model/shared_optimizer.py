"""One optimiser of world model, actor and critic, as in DreamerV3, in the place of one for each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modules.agent.descent import descend_parts, make_adam
from modules.agent.laprop import LaProp
from modules.batch import SequenceBatch
from modules.world_model.actor_critic import ADAM_EPS, Losses
from modules.world_model.foresight import Foreseeing
from modules.world_model.plan2explore import Plan2Explore
from modules.world_model.rssm import Observed


class SharedOptimizer(Foreseeing):
    """The part of an agent with a world model that has one optimiser of all its networks, or one for each.

    Attributes:
        exploration: a second behaviour, or None.
        reward_transform: transform of the environment's rewards.
        model_lr: Adam learning rate of the world model; None where `make_optimizer` is not.
        make_optimizer: makes the optimiser of all, called with their parameters; None for one of each.
        replay_value_scale: weight of the critic's loss on what was played.
        optimizer: the optimiser of all, or None.
        model_optimizer: the world model's own, or None.
    """

    exploration: Plan2Explore | None
    reward_transform: Callable[[Tensor], Tensor]
    model_lr: float | None
    make_optimizer: Callable[[list[nn.Parameter]], LaProp] | None
    replay_value_scale: float
    optimizer: LaProp | None
    model_optimizer: torch.optim.Adam | None

    def _make_optimizers(self) -> None:
        """One optimiser of all; or one of the model, where the behaviours have their own.

        Raises:
            ValueError: learning rates would be ignored or are missing, or a part cannot learn by such an optimiser.
        """
        self.optimizer = self.model_optimizer = None
        given = [self.model_lr is not None, self.behaviour.actor_optimizer is not None]
        if self.make_optimizer is None:
            if self.model_lr is None or not all(given):
                raise ValueError(
                    "model_lr, behaviour.actor_lr and behaviour.critic_lr must be numbers where there is no optimizer"
                )
            if self.replay_value_scale:
                raise ValueError(
                    "replay_value_loss_scale above 0 needs optimizer, which trains model and critic at once"
                )
            self.model_optimizer = make_adam(self.world_model.parameters(), self.model_lr, ADAM_EPS)
            return
        if any(given):
            raise ValueError(
                "optimizer has its own learning rate: set model_lr, behaviour.actor_lr and behaviour.critic_lr to null"
            )
        if self.exploration is not None:
            raise ValueError("exploration has learning rates of its own: leave out either it or optimizer")
        if self.replay_value_scale and self.behaviour.value_of != "future":
            raise ValueError("replay_value_loss_scale above 0 needs behaviour.value_of: future")
        self.optimizer = self.make_optimizer([p for network in self._trained for p in network.parameters()])

    @property
    def _trained(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The networks that learn, in the order in which `optimizer` has them."""
        return self.world_model, self.behaviour.critic, self.behaviour.actor

    def _descend_together(
        self, optimizer: LaProp, loss: Tensor, batch: SequenceBatch, observed: Observed, found: Losses
    ) -> dict[str, Tensor]:
        """One step on the loss of the model, those of actor and critic, and the critic's on what was played."""
        loss, metrics = loss + found.critic, {}
        if self.replay_value_scale:
            ends, reward = (batch.terminated, batch.truncated), self.reward_transform(batch.reward)
            replay = self.behaviour.replay_loss(observed.state.features, reward, *ends, found.imagined, self.gamma)
            loss = loss + self.replay_value_scale * replay
            metrics["replay_value_loss"] = replay.detach()
        *shared, actor = (list(network.parameters()) for network in self._trained)
        parts = (loss, [p for parameters in shared for p in parameters]), (found.actor, actor)
        return metrics | {"gradient_norm": descend_parts(optimizer, parts)}
