"""The update of proximal policies: several passes of minibatches over steps that the policy took.

Sources: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (https://arxiv.org/abs/1707.06347); Schulman et
al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
(https://arxiv.org/abs/1506.02438), for the advantages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from modules.agent.descent import descend_clipped, weighted_sum
from modules.agent.on_policy import OnPolicy, of
from modules.batch import StoredWindows
from modules.contracts import Update
from modules.functional.proximal import (
    approximate_kl,
    beyond_clip,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    standardised,
)
from modules.functional.recurrent_state import map_leaves
from modules.functional.returns import generalised_advantages, vtrace
from modules.networks.auxiliary_losses import collecting
from modules.networks.replicas import add_over_ranks

PATIENCE = 1.5
"""Multiple of `target_kl` behind which no further step is taken."""


class Taken(NamedTuple):
    """Steps that the policy took, with what was known of them before it learned, `[n]` each.

    Attributes:
        observation: `[n, ...]` by key.
        action: `[n, A]` as the actor sees actions.
        log_prob: `[n]` of the action, under the policy that took it.
        advantage: `[n]`.
        target: `[n]` of the value, in the units of the reward.
        before: `[n, ...]` predictions of the value head; None where they may go anywhere.
        task: `[n]` int64; None for one task.
    """

    observation: dict[str, Tensor]
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    before: Tensor | None
    task: Tensor | None

    def at(self, index: Tensor) -> Taken:
        """The steps of an index of the leading axes."""
        found: Taken = map_leaves(lambda x: None if x is None else x[index], self)
        return found


class Proximal(OnPolicy):
    """Base of agents whose policy and value learn in several passes from each batch of what the policy just did.

    An update is all that is learned from one batch of fresh windows `[B, T]`. Advantages and targets are computed once,
    with the values as they are before it; a time-out is bootstrapped. Then each pass deals all steps of the batch to
    minibatches at random, and each minibatch is a step of Adam. The ratio is against the log-probabilities that were
    stored when the actions were taken.

    Attributes:
        optimizer: Adam of the policy and the value.
        lambda_: share of later errors in the generalised advantages; 1 sums all rewards of a window.
        passes: passes over the steps of a batch.
        minibatches: minibatches that each pass deals them to, of the same size give or take one.
        clip: distance from 1 that the ratio of the policies' probabilities may reach.
        value_clip: distance that a value may move from what it was; None for any.
        target_kl: the steps on a batch end where the policy has moved by 1.5 times this, in nats; None for all passes.
        scales: weights of the losses `policy`, `critic` and `entropy`.
        clip_norm: Euclidean norm that the gradient is scaled down to.
    """

    optimizer: torch.optim.Adam
    lambda_: float
    passes: int
    minibatches: int
    clip: float
    value_clip: float | None = None
    target_kl: float | None = None
    scales: dict[str, float]
    clip_norm: float

    def draw_order(self, batch: StoredWindows) -> Tensor:
        """Draw the order of the `n` steps of windows in each pass: int64 `[P, n]`."""
        count = count_steps(batch)
        return torch.stack([torch.randperm(count) for _ in range(self.passes)]).to(batch.stored.device)

    def learn(self, batch: StoredWindows, order: Tensor) -> Update:
        """All passes over a batch, whose steps are counted through row by row: `[P, n]` in the order of each pass."""
        taken, metrics = self._look_back(batch)
        found: list[dict[str, Tensor]] = []
        for part, share in self._deal(taken, order):
            # The first step is always taken: fresh data are of the policy that learns.
            if self.target_kl is not None and found and self._divergence(part, share) > PATIENCE * self.target_kl:
                break
            found.append(self.step(part, share))
        metrics |= {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
        return Update(metrics | {"steps": torch.tensor(float(len(found)), device=order.device)})

    @torch.no_grad()
    def _look_back(self, batch: StoredWindows) -> tuple[Taken, dict[str, Tensor]]:
        """All steps with advantages and targets by the values of before the update, and metrics about these."""
        rows, log_prob = batch.sequence, batch.stored.squeeze(-1)  # [T, B]
        valid, action, discount, reward = self.steps_of(rows)  # `[T - 1, B]`
        task = self.task_of(rows.observation)  # [T, B]
        features = self.value_features(rows.observation)
        value = self.critic.mean(self.critic(features), **of(task))
        # The policy that learns is the one that acted: the ratio is 1 wherever there was a step.
        target = vtrace(reward, discount, value, valid.float(), self.lambda_)
        advantage = generalised_advantages(value, target)
        task = None if task is None else task[:-1]
        metrics = self.announce("on_targets", (self.critic,), target, valid, task) or {}

        # From here on the value head may be another one, which gives the same values.
        advantage = advantage / self.unit_of(task)
        before = None if self.value_clip is None else self.critic(features[:-1])
        observation = {key: x[:-1] for key, x in rows.observation.items()}
        every = Taken(observation, action, log_prob[1:], advantage, target, before, task)
        taken = every.at(valid)
        explained = explained_variance(value[:-1][valid], taken.target)
        return taken, metrics | {"target": taken.target.mean(), "explained_variance": explained}

    def _deal(self, taken: Taken, order: Tensor) -> Iterator[tuple[Taken, Tensor]]:
        """Minibatches of all passes, with advantages standardised over each, and their weights.

        A minibatch is those of all ranks together, which may differ in size: the weight is the size in relation to the
        mean of the ranks.
        """
        world = dist.get_world_size() if dist.is_initialized() else 1
        sizes = torch.tensor([len(part) for part in order[0].tensor_split(self.minibatches)], device=order.device)
        index = torch.arange(self.minibatches, device=order.device).repeat_interleave(sizes)  # `[n]` of each place
        advantage = taken.advantage[order]  # [P, n]
        numbers = torch.stack([torch.ones_like(advantage), advantage, advantage.square()]).double()
        sums = numbers.new_zeros(3, len(order), self.minibatches).index_add_(2, index, numbers)
        (joined,) = add_over_ranks(sums)
        share = (world * sums[0] / joined[0]).to(advantage.dtype)  # [P, minibatches]
        advantage = standardised(advantage, *joined[:, :, index])
        for drawn, standard, shares in zip(order, advantage, share, strict=True):
            pairs = zip(drawn.tensor_split(self.minibatches), standard.tensor_split(self.minibatches), strict=True)
            for (rows, mine), one in zip(pairs, shares, strict=True):
                yield taken.at(rows)._replace(advantage=mine), one

    @torch.no_grad()
    def _divergence(self, part: Taken, share: Tensor) -> float:
        """Approximate KL divergence of the policy from the one that acted, over the minibatch of all ranks."""
        policy = self.actor(self.features(_as_row(part.observation))[0])
        kl = approximate_kl(self.actor.log_prob(policy, part.action) - part.log_prob).mean()
        total, shares = add_over_ranks(share * kl, share)
        return float(total / shares)

    def step(self, part: Taken, share: Tensor) -> dict[str, Tensor]:
        """One step of Adam on a minibatch, whose loss counts by `share`; returns metrics."""
        seen = _as_row(part.observation)
        with collecting(self) as auxiliary:
            features = self.features(seen)
            policy = self.actor(features[0])
            prediction = self.critic(self.value_features(seen)[0] if self.separate else features[0])
        log_ratio = self.actor.log_prob(policy, part.action) - part.log_prob
        terms = {
            "policy": clipped_surrogate(log_ratio, part.advantage, self.clip),
            "critic": self._value_loss(prediction, part),
            "entropy": -self.actor.entropy(policy),
        }
        losses = {name: term.mean() for name, term in terms.items()}
        balance = auxiliary.losses
        loss = share * weighted_sum(losses | balance, self.scales | auxiliary.weights)
        norm = descend_clipped(self.optimizer, loss, self.clip_norm)
        change = log_ratio.detach()
        told = {f"{name}_loss": losses[name].detach() for name in ("policy", "critic")}
        told |= {name: loss.detach() for name, loss in balance.items()}
        told |= {"entropy": -losses["entropy"].detach(), "norm": norm}
        told |= {"clip_fraction": beyond_clip(change, self.clip).mean()}
        return told | {"approximate_kl": approximate_kl(change).mean()}

    def _value_loss(self, prediction: Tensor, part: Taken) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            return self.critic.loss(x, part.target, **of(part.task))

        if part.before is None or self.value_clip is None:
            return loss(prediction)
        return clipped_value_loss(loss, prediction, part.before, self.value_clip)


def count_steps(batch: StoredWindows) -> int:
    """Number of steps in windows."""
    return int((~batch.sequence.is_first[1:]).sum())


def _as_row(observation: dict[str, Tensor]) -> dict[str, Tensor]:
    """Observations `[n, ...]` as networks of windows take them, `[1, n, ...]`."""
    return {key: x.unsqueeze(0) for key, x in observation.items()}
