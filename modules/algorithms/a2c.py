"""A2C: a synchronous advantage actor-critic, with V-trace for what an older policy did.

Sources: Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning" (https://arxiv.org/abs/1602.01783), in
its synchronous form; Espeholt et al. 2018, "IMPALA" (https://arxiv.org/abs/1802.01561), for the targets.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from modules.agent.descent import descend_clipped, make_adam, weighted_sum
from modules.agent.event_rewards import EventRewards
from modules.agent.on_policy import MakeCritic, OnPolicy, of
from modules.agent.remembering import MakeMemory
from modules.arguments.checks import check_choice, check_ranges
from modules.arguments.tunable import Change
from modules.batch import Spaces, StoredWindows
from modules.contracts import Update
from modules.functional.pessimism import with_residual
from modules.functional.returns import generalised_advantages, vtrace, vtrace_advantages
from modules.networks.actors import DiscreteActor, TruncatedNormalActor
from modules.networks.auxiliary_losses import collecting
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.make_actor import MakeContinuous, MakeDiscrete
from modules.networks.perception import MakeEncoder
from modules.networks.trunks import Trunk
from modules.networks.value_heads import Head


class A2C(OnPolicy):
    """A policy and a value on one shared trunk, one update per batch of windows.

    The windows `[B, T]` hold the log-probability of every action under the policy that took it, as what is stored;
    with `replay: LatestWindows` they are what the present policy just did, every step once, and `T` varies. Transitions
    lead from each row to the next, unless that one starts an episode; a time-out is bootstrapped. With a memory they
    also hold its state before every row, and a window goes on from that of its first one.

    Args:
        spaces: announced by the datamodule.
        encoder: makes the network that reads observations, called with their spaces, `trunk` and `units`.
        trunk: makes dense networks from their widths of input and output: in the encoder, and the one that policy and
            value share, which have only an output layer of their own.
        units: width that each trunk gives.
        memory: makes the memory between the encoder and the shared trunk, called with the width of its input: what the
            encoder gives, the previous action and the previous reward; None for none.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        critic: makes the value head. With the codec Normalized, as of `PopArtHead`, advantages are in units of its
            sigma.
        task_key: key of the observation that tells the task as a one-hot vector, for a value head with an output per
            task; the policy sees it as all others.
        internal: rewards of events, which are learned from in place of the environment's; evaluations report the
            environment's.
        discount: discount factor gamma per step.
        lambda_: share of later corrections in the V-trace targets; 1 sums all rewards of the window.
        advantage: weights of the policy's gradient: `vtrace` is IMPALA's, the reward and the target of what follows,
            minus the value; `gae` the generalised advantage, the target minus the value. Both are the same where
            `lambda_` is 1.
        entropy: scale of the policy's entropy.
        critic_scale: weight of the value's loss.
        residual_weight: share of the Bellman residual in the value's loss: of targets made of the values that learn,
            whose gradient counts, too; 0 in the papers.
        lr: Adam learning rate.
        clip_norm: Euclidean norm that the gradient is scaled down to.
        compile: `update` compiles the whole update as one graph, for each length of the windows anew: up to `T + 1`
            graphs with LatestWindows, unless every episode is long.

    Raises:
        ValueError: the spaces are not of a kind that it can learn from or tell no events, `task_key` or
            `residual_weight` does not fit the value head, or a number is out of range.
    """

    batch_source = "OnlineDataModule, for A2C learns from what it did itself"
    tunable: ClassVar[dict[str, Change]] = {
        **dict.fromkeys(("lr", "entropy", "critic_scale", "clip_norm", "internal.weights"), "scale"),
        **dict.fromkeys(("discount", "lambda_"), "horizon"),
    }

    def __init__(
        self,
        spaces: Spaces | None = None,
        encoder: MakeEncoder = Encoder,
        trunk: Trunk = DenseStack,
        units: int = 64,
        memory: MakeMemory | None = None,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = TruncatedNormalActor,
        critic: MakeCritic = Head,
        task_key: str | None = None,
        internal: EventRewards | None = None,
        discount: float = 0.99,
        lambda_: float = 1.0,
        advantage: Literal["vtrace", "gae"] = "vtrace",
        entropy: float = 0.01,
        critic_scale: float = 0.5,
        residual_weight: float = 0.0,
        lr: float = 1e-3,
        clip_norm: float = 1.0,
        compile: Literal["off", "update"] = "off",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        # Before any network is made, so that a mistake is named at once.
        check_ranges(
            ("discount", discount, 0.0, 1.0),
            ("lambda_", lambda_, 0.0, 1.0),
            ("entropy", entropy, 0.0, 1e12),
            ("critic_scale", critic_scale, 0.0, 1e12),
            ("residual_weight", residual_weight, 0.0, 1.0),
            ("lr", lr, 0.0, 1e3),
            ("clip_norm", clip_norm, 1e-12, 1e12),
        )
        self.keep_makers(encoder, trunk, units, discrete, continuous, critic, task_key, memory=memory)
        self.internal = internal
        self.discount = discount
        self.lambda_ = lambda_
        self.residual_weight = residual_weight
        self.lr = lr
        self.clip_norm = clip_norm
        check_choice("compile", compile, ("off", "update"))
        check_choice("advantage", advantage, ("vtrace", "gae"))
        self.advantage = advantage
        self.scales = {"policy": 1.0, "critic": critic_scale, "entropy": entropy}
        self.compile_mode = compile
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.build_networks(spaces)
        self.optimizer = make_adam(self.parameters(), self.lr)

    def learn(self, batch: StoredWindows, noise: Tensor | None = None) -> Update:
        rows, log_prob = batch.sequence, batch.stored[..., 0]  # [T, B]
        with collecting(self) as auxiliary:
            features = self.features_of(self.perception(rows.observation), batch, noise)  # [T, B, D]
            policy = self.actor(features[:-1])
        valid, taken, discount, reward = self.steps_of(rows)  # `[T - 1, B]`
        present = self.actor.log_prob(policy, taken)
        task = self.task_of(rows.observation)  # [T, B]
        # Targets and advantages; rows of an episode's start have no action before them and count nothing.
        with torch.no_grad():
            value = self.critic.mean(self.critic(features), **of(task))
            rho = torch.where(valid, (present - log_prob[1:]).exp(), 0.0)
            targets = vtrace(reward, discount, value, rho, self.lambda_)
            if self.advantage == "gae":
                advantage = generalised_advantages(value, targets)
            else:
                advantage = vtrace_advantages(reward, discount, value, targets, rho)
        tasks, task = task, None if task is None else task[:-1]
        metrics = self.announce("on_targets", (self.critic,), targets, valid, task) or {}

        # From here on the value head may be another one, which gives the same values.
        residual = self.residual_weight > 0.0  # looks at the last value, too
        with auxiliary:
            predictions = self.critic(features if residual else features[:-1])
        prediction = predictions[: len(targets)]
        error = self.critic.loss(prediction, targets, **of(task))
        if residual:
            own = vtrace(reward, discount, self.critic.mean(predictions, **of(tasks)), rho, self.lambda_)
            error = with_residual(error, self.critic.loss(prediction, own, **of(task)), self.residual_weight)
        entropy = self.actor.entropy(policy)
        terms = {"policy": -present * advantage / self.unit_of(task), "critic": error, "entropy": -entropy}
        losses = {name: (term * valid).mean() for name, term in terms.items()}  # the same weights on every rank
        balance = auxiliary.losses
        loss = weighted_sum(losses | balance, self.scales | auxiliary.weights)
        norm = descend_clipped(self.optimizer, loss, self.clip_norm)
        metrics |= {f"{name}_loss": loss.detach() for name, loss in losses.items() if name != "entropy"}
        metrics |= {name: loss.detach() for name, loss in balance.items()}
        seen = valid.float().mean().clamp_min(1e-9)
        means = {"entropy": entropy.detach(), "target": targets, "rho": rho}
        return Update(metrics | {"norm": norm} | {name: (x * valid).mean() / seen for name, x in means.items()})
