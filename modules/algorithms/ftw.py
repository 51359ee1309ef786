"""For The Win: a policy on two timescales, which learns to foresee rewards and to change what it sees beside its game.

Sources: Jaderberg et al. 2019, "Human-level performance in 3D multiplayer games with population-based reinforcement
learning" (https://arxiv.org/abs/1807.01281); Jaderberg et al. 2017, "Reinforcement Learning with Unsupervised Auxiliary
Tasks" (https://arxiv.org/abs/1611.05397), for these tasks; Espeholt et al. 2018, "IMPALA"
(https://arxiv.org/abs/1802.01561), for the targets.
"""

from __future__ import annotations

from typing import ClassVar

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.agent.descent import descend_clipped, make_rmsprop, weighted_sum
from modules.agent.event_rewards import EventRewards
from modules.agent.on_policy import MakeCritic, OnPolicy
from modules.agent.remembering import MakeMemory
from modules.arguments.checks import check_ranges, check_sizes
from modules.arguments.tunable import Change
from modules.batch import SequenceBatch, Spaces, StoredWindows, brief, is_image
from modules.contracts import Update
from modules.functional.auxiliary_tasks import CLASSES, balanced, cells_of, pixel_changes, recent, reward_class
from modules.functional.returns import vtrace, vtrace_advantages
from modules.networks.actors import DiscreteActor, TruncatedNormalActor
from modules.networks.auxiliary_losses import collecting
from modules.networks.blocks import DenseStack, OutputLinear
from modules.networks.encoders import Encoder
from modules.networks.make_actor import MakeContinuous, MakeDiscrete
from modules.networks.perception import MakeEncoder
from modules.networks.pixel_control import PixelControl
from modules.networks.trunks import Trunk
from modules.networks.two_timescale import TwoTimescale
from modules.networks.value_heads import Head

RECENT = 3
"""Observations that a reward is foreseen from."""


class FTW(OnPolicy):
    """A recurrent policy and value, with reward prediction and pixel control on the same features.

    It learns from windows `[B, T]` of what it did, as A2C with a memory does: they hold the log-probability of every
    action, the memory's noise and its state, from which a window goes on. The memory sees what the encoder gives, the
    previous action and the previous reward; its own losses, such as the divergences of `TwoTimescale`, have the weights
    that it is given. Of the paper's agent the external memory that both units share is left out; arguments that the
    paper evolves are arguments here.

    Args:
        spaces: announced by the datamodule.
        encoder: makes the network that reads observations, called with their spaces, `trunk` and `units`.
        trunk: makes dense networks from their widths of input and output.
        units: width that each trunk gives.
        memory: makes the recurrent core, called with the width of its input.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        critic: makes the value head. With the codec Normalized, as of `PopArtHead`, advantages are in units of its
            sigma.
        internal: rewards of events, which are learned from in place of the environment's; evaluations report the
            environment's.
        discount: discount factor gamma per step.
        entropy: scale of the policy's entropy.
        critic_scale: weight of the value's loss.
        reward_prediction: weight of the loss of foreseeing whether the next reward is none, positive or negative, from
            the newest three observations; 0 for none. Steps with a reward count as much as all others together.
        pixel_control: weight of the loss of values of changing the pixels of each cell, summed over cells; 0 for none.
            It needs images, and numbered actions.
        cell: side of a cell in pixels.
        pixel_discount: discount factor per step of these changes.
        lr: learning rate of RMSProp.
        rms_decay: decay of its mean of squared gradients.
        rms_eps: added to the root of that mean.
        clip_norm: Euclidean norm that the gradient is scaled down to.

    Raises:
        ValueError: the spaces are not of a kind that it can learn from, tell no events or show nothing to control, or a
            number is out of range.
    """

    batch_source = "OnlineDataModule, for FTW learns from what it did itself"
    tunable: ClassVar[dict[str, Change]] = {
        **dict.fromkeys(("lr", "entropy", "critic_scale", "reward_prediction", "pixel_control"), "scale"),
        **dict.fromkeys(("clip_norm", "internal.weights", "memory.kl_scale", "memory.slow_kl_scale"), "scale"),
        **dict.fromkeys(("discount", "pixel_discount"), "horizon"),
        "memory.tau": "whole",
    }

    def __init__(
        self,
        spaces: Spaces | None = None,
        encoder: MakeEncoder = Encoder,
        trunk: Trunk = DenseStack,
        units: int = 256,
        memory: MakeMemory = TwoTimescale,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = TruncatedNormalActor,
        critic: MakeCritic = Head,
        internal: EventRewards | None = None,
        discount: float = 0.99,
        entropy: float = 1e-3,
        critic_scale: float = 0.5,
        reward_prediction: float = 0.1,
        pixel_control: float = 0.0,
        cell: int = 4,
        pixel_discount: float = 0.9,
        lr: float = 1e-4,
        rms_decay: float = 0.99,
        rms_eps: float = 1e-5,
        clip_norm: float = 40.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        # Before any network is made, so that a mistake is named at once.
        check_sizes(cell=cell)
        tasks = {"reward_prediction": reward_prediction, "pixel_control": pixel_control}
        check_ranges(
            ("discount", discount, 0.0, 1.0),
            ("entropy", entropy, 0.0, 1e12),
            ("critic_scale", critic_scale, 0.0, 1e12),
            *((name, scale, 0.0, 1e12) for name, scale in tasks.items()),
            ("pixel_discount", pixel_discount, 0.0, 1.0),
            ("lr", lr, 0.0, 1e3),
            ("rms_decay", rms_decay, 0.0, 1.0),
            ("rms_eps", rms_eps, 1e-12, 1e3),
            ("clip_norm", clip_norm, 1e-12, 1e12),
        )
        self.keep_makers(encoder, trunk, units, discrete, continuous, critic, task_key=None, memory=memory)
        self.internal = internal
        self.discount = discount
        self.scales = {"policy": 1.0, "critic": critic_scale, "entropy": entropy}
        self.scales |= {name: scale for name, scale in tasks.items() if scale > 0.0}
        self.cell = cell
        self.pixel_discount = pixel_discount
        self.lr = lr
        self.rms_decay = rms_decay
        self.rms_eps = rms_eps
        self.clip_norm = clip_norm
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.build_networks(spaces)
        self.foresight: nn.Module | None = None
        self.control: PixelControl | None = None
        self.images = [key for key, space in spaces.observations_by_key().items() if is_image(space)]
        if "reward_prediction" in self.scales:
            width = RECENT * self.perception.width
            self.foresight = nn.Sequential(self.make_trunk(width, self.units), OutputLinear(self.units, CLASSES))
        if "pixel_control" in self.scales:
            self.control = self._make_control(spaces)
        self.optimizer = make_rmsprop(self.parameters(), self.lr, self.rms_decay, self.rms_eps)

    def _make_control(self, spaces: Spaces) -> PixelControl:
        action = spaces.action
        if not self.images:
            raise ValueError(
                f"pixel_control {self.scales['pixel_control']:g} needs images, and the observations are "
                f"{brief(spaces.observation)}; set model.pixel_control to 0"
            )
        if not isinstance(action, gym.spaces.Discrete):
            raise ValueError(
                f"pixel_control {self.scales['pixel_control']:g} has a value for every action, and the actions are "
                f"{brief(action)}; set model.pixel_control to 0"
            )
        shapes = [spaces.observations_by_key()[key].shape for key in self.images]
        cells = sum(cells_of(shape[0], shape[1], self.cell) for shape in shapes if shape is not None)
        return PixelControl(self.units, self.units, self.make_trunk, int(action.n), cells)

    # --------------------------------------------------------------------------------------------------------- update
    def learn(self, batch: StoredWindows, noise: Tensor | None = None) -> Update:
        rows, log_prob = batch.sequence, batch.stored[..., 0]  # [T, B]
        with collecting(self) as auxiliary:
            seen = self.perception(rows.observation)
            features = self.features_of(seen, batch, noise)  # [T, B, D]
            policy = self.actor(features[:-1])
        valid, taken, discount, reward = self.steps_of(rows)  # `[T - 1, B]`
        present = self.actor.log_prob(policy, taken)
        # Targets and advantages; rows of an episode's start have no action before them and count nothing.
        with torch.no_grad():
            value = self.critic.mean(self.critic(features))
            rho = torch.where(valid, (present - log_prob[1:]).exp(), 0.0)
            targets = vtrace(reward, discount, value, rho, 1.0)
            advantage = vtrace_advantages(reward, discount, value, targets, rho)
        metrics = self.announce("on_targets", (self.critic,), targets, valid, None) or {}

        # From here on the value head may be another one, which gives the same values.
        with auxiliary:
            error = self.critic.loss(self.critic(features[:-1]), targets)
            tasks, told = self._tasks(rows, seen, features, taken, valid, reward)
        entropy = self.actor.entropy(policy)
        terms = {"policy": -present * advantage / self.unit_of(None), "critic": error, "entropy": -entropy}
        losses = {name: (term * valid).mean() for name, term in terms.items()} | tasks  # the same weights on every rank
        balance = auxiliary.losses
        loss = weighted_sum(losses | balance, self.scales | auxiliary.weights)
        norm = descend_clipped(self.optimizer, loss, self.clip_norm)
        metrics |= {f"{name}_loss": loss.detach() for name, loss in losses.items() if name != "entropy"}
        metrics |= {name: loss.detach() for name, loss in balance.items()} | told
        share = valid.float().mean().clamp_min(1e-9)
        means = {"entropy": entropy.detach(), "target": targets, "rho": rho}
        return Update(metrics | {"norm": norm} | {name: (x * valid).mean() / share for name, x in means.items()})

    def _tasks(
        self, rows: SequenceBatch, seen: Tensor, features: Tensor, taken: Tensor, valid: Tensor, reward: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the tasks beside the game, by name, and metrics."""
        losses, metrics = {}, {}
        if self.foresight is not None:
            answer = reward_class(reward)
            logits = self.foresight(recent(seen, rows.is_first, RECENT)[:-1])
            weight = balanced(answer > 0, valid)
            wrong = F.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none").view_as(weight)
            losses["reward_prediction"] = (weight * wrong).sum()
            right = (logits.argmax(-1) == answer).float()
            metrics["reward_accuracy"] = (weight * right).sum() / weight.sum().clamp_min(1e-9)
        if self.control is not None:
            losses["pixel_control"] = self._control_loss(rows, features, taken, valid)
        return losses, metrics

    def _control_loss(self, rows: SequenceBatch, features: Tensor, taken: Tensor, valid: Tensor) -> Tensor:
        """Of values of changing pixels, by returns of the window that end in the best value of its last row."""
        assert self.control is not None
        values = self.control(features)  # [T, B, A, K]
        with torch.no_grad():
            change = torch.cat([pixel_changes(rows.observation[key], self.cell) for key in self.images], -1)
            ahead = self.pixel_discount * (valid & ~rows.terminated[1:]).unsqueeze(-1)
            targets = vtrace(change, ahead, values.amax(-2), valid.float().unsqueeze(-1), 1.0)  # [T - 1, B, K]
        chosen = (values[:-1] * taken.unsqueeze(-1)).sum(-2)
        return ((targets - chosen).square().sum(-1) * 0.5 * valid).mean()
