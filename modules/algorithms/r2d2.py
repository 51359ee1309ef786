"""R2D2: values of actions from a recurrent network, learned from prioritised sequences of replayed experience.

Source: Kapturowski, Ostrovski, Quan, Munos & Dabney 2019, "Recurrent Experience Replay in Distributed Reinforcement
Learning" (https://openreview.net/forum?id=r1lyTjAqYX); what the paper leaves open is as in the code of acme and
seed_rl.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from modules.agent.agent import Agent
from modules.agent.descent import descend_clipped, make_adam, weighted_sum
from modules.arguments.checks import check_choice, check_ranges, check_sizes
from modules.arguments.tunable import Change
from modules.batch import PrioritizedSequences, SequenceBatch, Spaces, by_key
from modules.contracts import Feedback, ReplayOffer, Update
from modules.functional.pessimism import bellman_backup, with_residual
from modules.functional.sequence_targets import choose, mixed_priority, n_step_backup
from modules.functional.transforms import signed_hyperbolic
from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import follow
from modules.networks.recurrent import ActionValues
from modules.networks.updates import set_noise
from modules.networks.value_heads import ActionHead


class Carried(NamedTuple):
    """State that the agent carries from one step to the next.

    Attributes:
        memory: `[B, S]` state of the network's memory.
        action: `[B]` last action.
        reward: `[B]` reward of that action.
        first: `[B]` bool, whether no action was taken yet.
    """

    memory: Tensor
    action: Tensor
    reward: Tensor
    first: Tensor


class R2D2(Agent):
    """Recurrent double Q-learning from prioritised sequences, with stored states and a burn-in.

    Batches are `PrioritizedSequences`, of an `OnlineDataModule` or an `OfflineSequenceDataModule` whose replay is
    `PrioritizedReplay`; how sequences are cut is the replay's to say.

    Args:
        spaces: announced by the datamodule; the actions are Discrete.
        network: makes the network of the actions' values, called with the spaces and the number of discounts.
        discounts: discount factors gamma, each with values of its own on the shared network; the last one acts and sets
            priorities.
        n_step: number of rows that a target looks ahead.
        lr: Adam learning rate.
        adam_eps: Adam's epsilon.
        clip_norm: Euclidean norm that the gradient is scaled down to.
        target_period: number of updates between two copies of the network into the target network.
        eta: share of the largest error of a sequence in its priority; the rest is the mean one.
        epsilon: chance of a random action of the first environment; those of the others fall from there.
        epsilon_alpha: environment `i` of `N` has `epsilon ** (1 + epsilon_alpha * i / (N - 1))`.
        residual_weight: share of the Bellman residual in the loss: of the same network's value of what follows, at the
            action of the target, whose gradient counts, too; 0 in the paper.
        compile: `update` compiles the whole update as one graph.

    Raises:
        ValueError: the actions are not Discrete, the residual's weight does not fit the codec, or a number is out of
            range.
    """

    events = frozenset({"on_targets"})
    batch_type = PrioritizedSequences
    tunable: ClassVar[dict[str, Change]] = {
        **dict.fromkeys(("lr", "clip_norm", "epsilon"), "scale"),
        **dict.fromkeys(("n_step", "target_period"), "whole"),
        "discounts": "horizon",
    }
    batch_source = (
        "OnlineDataModule or OfflineSequenceDataModule with replay: datamodules.replay.prioritized.PrioritizedReplay"
    )
    held_out_loss = None
    gamma: Tensor

    def __init__(
        self,
        spaces: Spaces | None = None,
        network: Callable[[Spaces, int], ActionValues] = ActionValues,
        discounts: list[float] = [0.997],  # noqa: B006
        n_step: int = 5,
        lr: float = 1e-4,
        adam_eps: float = 1e-3,
        clip_norm: float = 40.0,
        target_period: int = 2500,
        eta: float = 0.9,
        epsilon: float = 0.4,
        epsilon_alpha: float = 7.0,
        residual_weight: float = 0.0,
        compile: Literal["off", "update"] = "off",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        # Before any network is made, so that a mistake is named at once.
        check_choice("compile", compile, ("off", "update"))
        check_sizes(discounts=len(discounts), n_step=n_step, target_period=target_period)
        check_ranges(
            *(("discounts", gamma, 0.0, 1.0) for gamma in discounts),
            ("lr", lr, 0.0, 1e3),
            ("adam_eps", adam_eps, 0.0, 1e3),
            ("clip_norm", clip_norm, 1e-12, 1e12),
            ("eta", eta, 0.0, 1.0),
            ("epsilon", epsilon, 0.0, 1.0),
            ("epsilon_alpha", epsilon_alpha, 0.0, 1e12),
            ("residual_weight", residual_weight, 0.0, 1.0),
        )
        self.make_network = network  # made in `build`, when the spaces are known
        self.n_step = n_step
        self.lr = lr
        self.adam_eps = adam_eps
        self.clip_norm = clip_norm
        self.target_period = target_period
        self.eta = eta
        self.epsilon = epsilon
        self.epsilon_alpha = epsilon_alpha
        self.residual_weight = residual_weight
        self.compile_mode = compile
        self.register_buffer("gamma", torch.tensor(discounts), persistent=False)
        # Two facts of the replay, which `meet` fills in.
        self.burn_in = 0
        """Rows at the start of a sequence that only warm the memory up."""
        self.refreshed_row: int | None = None
        """Row of a sequence at which the replay wants to know the state; None for none."""
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.network = self.make_network(spaces, len(self.gamma))
        set_noise(self.network, False)  # its values are the same in an update as where it acts
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.network.head.check_residual(self.residual_weight)
        self.stored_width = self.network.memory.state_width
        self.optimizer = make_adam(self.network.parameters(), self.lr, self.adam_eps)

    def meet(self, replay: ReplayOffer | None) -> None:
        """Take over how the replay cuts sequences.

        Raises:
            ValueError: it has no prioritised sequences, or they are shorter than a target looks ahead.
        """
        if replay is None or not replay.prioritized:
            raise ValueError(f"R2D2 learns from prioritised sequences: give it data of the class {self.batch_source}")
        self.burn_in = replay.burn_in
        self.refreshed_row = replay.stride if replay.refreshed else None
        self._check_length(replay.rows)
        longest = self.network.memory.longest
        if longest is not None and replay.rows > longest:
            raise ValueError(
                f"a sequence has {replay.rows} rows, its burn-in included, and the network's memory holds {longest}: "
                f"set the rows of network.memory to {replay.rows} or more, or shorten data.sequence_length"
            )

    def _check_length(self, rows: int) -> None:
        trained = rows - self.burn_in - 1
        if trained < self.n_step:
            raise ValueError(
                f"a sequence of {rows} rows, of which {self.burn_in} are its burn-in, has {trained} transitions, but "
                f"n_step is {self.n_step}; lengthen data.sequence_length"
            )

    # -------------------------------------------------------------------------------------------------------- acting
    def initial_state(self, batch: int) -> Carried:
        memory = self.network.initial(batch)
        nothing = torch.zeros(batch, device=memory.device)
        return Carried(memory, nothing.long(), nothing, nothing == 0)

    @torch.no_grad()
    def act(
        self, observation: Tensor | dict[str, Tensor], state: Any = None, *, explore: bool
    ) -> tuple[Tensor, Carried]:
        """Actions of the greatest value for `[B, ...]` observations; some are random with `explore`, see `chances`."""
        seen = {key: x.unsqueeze(0) for key, x in by_key(observation).items()}
        count = next(iter(seen.values())).shape[1]
        before: Carried = self.initial_state(count) if state is None else state
        action, reward, first = (x.unsqueeze(0) for x in before[1:])
        unknown = torch.zeros_like(first)  # what only shows later
        rows = SequenceBatch(seen, action, reward, first, unknown, unknown)
        features, memory = self.network.unroll(rows, before.memory)
        best = self.network.head.mean(self._predict(self.network.head, features))[0, :, -1].argmax(-1)
        if explore:
            random = torch.randint(len(self.network.choices), (count,), device=best.device)
            best = torch.where(torch.rand(count, device=best.device) < self.chances(count), random, best)
        chosen = self.network.choices[best]
        return chosen, Carried(memory, chosen, torch.zeros_like(before.reward), torch.zeros_like(before.first))

    def rewarded(self, state: Carried, reward: Tensor) -> Carried:
        return state._replace(reward=reward)

    def acted(self, state: Carried, action: Tensor) -> Carried:
        return state._replace(action=action)

    def stored_state(self, state: Carried) -> Tensor:
        return state.memory

    def chances(self, count: int) -> Tensor:
        """Chances of a random action in the `count` environments of this rank: `[count]`, a ladder over all ranks."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        rung = torch.arange(self.rank * count, (self.rank + 1) * count, device=self.device)
        return self.epsilon ** (1.0 + self.epsilon_alpha * rung / max(1, world * count - 1))

    # -------------------------------------------------------------------------------------------------------- update
    def check_batch(self, batch: PrioritizedSequences) -> None:
        """Refuse sequences without the states of this agent, or too short ones."""
        width = batch.start_state.shape[1]
        if width != self.stored_width:
            raise ValueError(f"start states have a width of {width}, the agent's {self.stored_width}")
        self._check_length(len(batch.padding))

    def learn(self, batch: PrioritizedSequences) -> Update:
        """One step; priorities, and the states at the row that the replay wants to know, go back to it."""
        head, target_head = self.network.head, self.target_network.head
        state, slow, refreshed = self._warm_up(batch)
        rows = batch.sequence.between(self.burn_in)
        with collecting(self.network) as auxiliary:
            features, _ = self.network.unroll(rows, state)  # [T + 1, B, W]
        backup = n_step_backup(rows.reward, rows.terminated, batch.padding[self.burn_in :], self.gamma, self.n_step)
        row = backup.row.unsqueeze(-1)  # [T, B, 1]
        # Targets: the learning network chooses, the target network judges; all atoms of its distribution are kept.
        with torch.no_grad():
            greedy = head.mean(self._predict(head, features)).argmax(-1)  # [T + 1, B, G]
            values, chances = target_head.atoms(choose(self._predict(target_head, slow), greedy))  # [T + 1, B, G, J]
            values, chances = (torch.take_along_dim(x, row.unsqueeze(-1), 0) for x in (values, chances))
            atoms = backup.reward.unsqueeze(-1) + backup.discount.unsqueeze(-1) * values
            target = (chances * atoms).sum(-1)  # [T, B, G]
        counted = backup.mask.unsqueeze(-1).expand_as(target)
        answer = self.announce("on_targets", (head, target_head), target, counted, None)

        # From here on the heads may have other statistics, which give the same values.
        with auxiliary:
            predictions = self._predict(head, features)
        # What was done in a row is what led to the next one; padding may say what is no action.
        done = (rows.previous_action[1:] - self.network.choices[0]).clamp_min(0)
        prediction = choose(predictions[:-1], done.unsqueeze(-1).expand_as(target))
        loss = head.loss(prediction, atoms, chances)
        if self.residual_weight > 0.0:
            following = torch.take_along_dim(head.mean(choose(predictions, greedy)), row, 0)
            own = bellman_backup(backup.reward, backup.discount, following)
            loss = with_residual(loss, head.loss(prediction, own), self.residual_weight)
        terms = {"loss": (batch.weight * (loss * counted).sum((0, 2))).mean()}
        terms |= auxiliary.losses
        norm = descend_clipped(self.optimizer, weighted_sum(terms, {"loss": 1.0, **auxiliary.weights}), self.clip_norm)

        # Priorities are of errors under the transform, of the last discount, which acts.
        value, aim = head.mean(prediction.detach())[..., -1], target[..., -1]
        error = signed_hyperbolic(value) - signed_hyperbolic(aim)
        priority = mixed_priority(error, backup.mask, self.eta)
        share = backup.mask / backup.mask.sum().clamp_min(1)
        means = {name: (share * x).sum() for name, x in {"value": value, "target": aim, "error": error.abs()}.items()}
        metrics = {name: term.detach() for name, term in terms.items()}
        metrics |= {"norm": norm, "priority": priority.mean(), **means}
        return Update(metrics | (answer or {}), Feedback(batch.index, priority, refreshed))

    @torch.no_grad()
    def _warm_up(self, batch: PrioritizedSequences) -> tuple[Tensor, Tensor, Tensor | None]:
        """The memory's state behind the burn-in, what the target network's head takes in all rows behind it, and the
        state to write back.
        """  # fmt: skip
        burn_in, refreshed, rows, state = self.burn_in, self.refreshed_row, batch.sequence, batch.start_state
        if burn_in:
            _, state = self.network.unroll(rows.between(0, burn_in), state)
        slow, _ = self.target_network.unroll(rows, batch.start_state)
        if refreshed is None:
            return state, slow[burn_in:], None
        begin, before = (burn_in, state) if refreshed >= burn_in else (0, batch.start_state)
        if refreshed > begin:
            _, before = self.network.unroll(rows.between(begin, refreshed), before)
        return state, slow[burn_in:], before

    def _predict(self, head: ActionHead, features: Tensor) -> Tensor:
        """`[T, B, W]` features to predictions `[T, B, G, A, ...]`, which a head with one discount has no `G` in."""
        prediction = head(features)
        return prediction.unsqueeze(2) if len(self.gamma) == 1 else prediction

    def advance(self) -> None:
        super().advance()
        if self.updates % self.target_period == 0:
            follow(self.target_network, self.network, 1.0)
