"""Planning in a learned model: searches in its latents, what a replay stores of them, and searches made anew.

A search meets a model through two functions, its root and its step, which `Planner` makes of a latent model, the slots
of a node and a discount. Letters: `L` rows of a sequence, `B` rows or sequences, `K` slots of a node, `A` width of an
action as the model sees it, `S` of the policy's statistics, `D` of a latent, `M` of the reward model's memory, `W` of a
record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from modules.agent.action_masks import ActionMask, among_valid
from modules.batch import SequenceBatch, by_key
from modules.networks.action_slots import ActionSlots
from modules.networks.actor_base import Actor
from modules.networks.value_ensemble import EnsembleHead, means_of
from modules.networks.value_heads import ValueHead
from modules.search.interface import Noise, Root, SearchResult, Step
from modules.search.search import compile_simulation, search
from modules.search.settings import SearchSettings
from modules.search.simulation import simulate
from modules.search.value_prefix import Prefix, first_prefix, next_prefix


class Plannable(Protocol):
    """A model to plan with; `modules.world_model.latent_model` says more of each.

    Attributes:
        actor: the policy on latents.
    """

    actor: Actor

    @property
    def value_head(self) -> ValueHead:
        """Meaning of predicted values; an ensemble tells of variances."""

    @property
    def reward_head(self) -> ValueHead:
        """Meaning of predicted rewards, or of sums of them where there is a horizon; an ensemble tells of variances."""

    @property
    def horizon(self) -> int | None:
        """Steps between resets of the memory that rewards are summed in; None, if each reward is told by itself."""

    def represent(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`{key: [B, ...]}` in the environment's units to latents `[B, D]`."""

    def memory(self, batch: int) -> Tensor:
        """The memory at a root, and behind a reset: `[B, M]`."""

    def step(self, latent: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Along actions `[B, A]`: latent and memory there, and the prediction of the reward."""

    def predict(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[..., D]` to the policy's statistics `[..., S]` and the prediction of values."""


class Record(NamedTuple):
    """Findings of searches, as a replay stores them with rows.

    Attributes:
        policy: `[..., K]` probabilities to learn from; all 0 where nothing was found.
        value: `[...]` of the search; 0 where nothing was found.
        log_prob: `[...]` of the chosen action: a logarithm of its probability, or of its density where actions are
            drawn from one; 0 where nothing was found.
        actions: of the slots, `[..., K]` numbers or `[..., K, A]`, as floats; None, if slots are actions.
    """

    policy: Tensor
    value: Tensor
    log_prob: Tensor
    actions: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """Bool `[...]`, whether a search has found something."""
        return self.policy.sum(-1) > 0

    def pack(self) -> Tensor:
        """Floats `[..., W]`: policy, value, log-probability, actions."""
        parts = [self.policy, self.value.unsqueeze(-1), self.log_prob.unsqueeze(-1)]
        if self.actions is not None:
            parts.append(self.actions.flatten(self.policy.dim() - 1).float())
        return torch.cat(parts, -1)


def record_width(slots: ActionSlots) -> int:
    """`W`, numbers of a record."""
    return slots.count * (1 + (0 if slots.shape is None else _numbers(slots.shape))) + 2


def unpack(stored: Tensor, slots: ActionSlots) -> Record:
    """The record in `[..., W]`, the inverse of `Record.pack`."""
    count = slots.count
    actions = None if slots.shape is None else stored[..., count + 2 :].unflatten(-1, (count, *slots.shape))
    return Record(stored[..., :count], stored[..., count], stored[..., count + 1], actions)


def rows_of(record: Record) -> Record:
    """Records `[L, B]` of what was seen in each row of sequences, from those that are stored with the next row each.

    Nothing is known of the last row.
    """
    return Record(*(None if x is None else torch.cat([x[1:], torch.zeros_like(x[:1])]) for x in record))  # type: ignore[arg-type]


def renewed(record: Record, again: Record) -> Record:
    """Records `[L, B]` in which what was found anew for the first rows of the first sequences, `[U, C]`, stands.

    The log-probability stays that of the action that was taken.
    """
    steps, count = again.value.shape

    def replaced(old: Tensor, new: Tensor) -> Tensor:
        known = again.known.reshape(steps, count, *[1] * (old.dim() - 2))
        head = torch.cat([torch.where(known, new, old[:steps, :count]), old[:steps, count:]], 1)
        return torch.cat([head, old[steps:]])

    actions = None if record.actions is None or again.actions is None else replaced(record.actions, again.actions)
    return Record(replaced(record.policy, again.policy), replaced(record.value, again.value), record.log_prob, actions)


def _numbers(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def check_uncertainty(model: Plannable, settings: SearchSettings) -> None:
    """Refuse a search that is to heed what its model does not know, where no head of the model tells that.

    Raises:
        ValueError: it names the setting.
    """
    if not any(isinstance(head, EnsembleHead) for head in (model.reward_head, model.value_head)):
        for name in ("optimism", "pessimism"):
            if getattr(settings, name):
                raise ValueError(
                    f"search.{name} is about what is not known, which heads with members tell alone: set it to 0, or "
                    "the model's value, or its reward's head, to modules.networks.value_ensemble.EnsembleHead"
                )


class Planner:
    """Searches in a model.

    Args:
        model: the model.
        slots: how a node gets its slots.
        discount: of a step; negative, if two players move in turn, whose gains are each other's losses.
        compiled: whether searches are compiled, at the first one of each number of rows.
    """

    def __init__(self, model: Plannable, slots: ActionSlots, discount: float, compiled: bool = False) -> None:
        self.model = model
        self.slots = slots
        self.discount = discount
        self.simulate = compile_simulation() if compiled else simulate

    def plan(
        self,
        observation: Mapping[str, Tensor],
        settings: SearchSettings,
        *,
        explore: bool,
        valid: Tensor | None = None,
        finished: Tensor | None = None,
        noise: Noise | None = None,
    ) -> tuple[Tensor, Record, SearchResult]:
        """Search from observations.

        Args:
            observation: `{key: [B, ...]}` in the environment's units.
            settings: how much is searched, and by which rule.
            explore: whether there is noise in the search and in the choice.
            valid: bool `[B, A]`, numbered actions that may be taken; None for all.
            finished: bool `[B]`, rows that are not searched, whose record is empty; None for none.
            noise: draws of the search, in the place of its own.

        Returns:
            Chosen actions as the model sees them, `[B, A]`; the record; and all that the search found.

        Raises:
            ValueError: a row has no valid action and is not finished.
        """
        root, stats = self.root(observation, valid, finished)
        rows, device = stats.shape[0], stats.device

        def draw(generator: torch.Generator | None) -> Tensor | None:
            return self.slots.noise(rows, device, generator)

        found = search(root, self.step, settings, explore=explore, noise=noise, draw=draw, simulate=self.simulate)
        known = ~found.failed if finished is None else ~(found.failed | finished)
        record = Record(
            found.policy_target * known.unsqueeze(-1),
            torch.where(known, found.value, 0.0),
            torch.where(known, self._log_prob(root, stats, found, valid), 0.0),
            found.actions,
        )
        return self.slots.model_action(found.action), record, found

    def root(
        self, observation: Mapping[str, Tensor], valid: Tensor | None, finished: Tensor | None
    ) -> tuple[Root, Tensor]:
        """The root of a search, and the policy's statistics `[B, S]` there; arguments as those of `plan`."""
        latent = self.model.represent(observation)
        stats, prediction = self.model.predict(latent)
        made = self.slots.slots(stats, self.slots.noise(len(latent), latent.device), valid)
        value, variance = self._told(self.model.value_head, means_of(self.model.value_head, prediction))
        embedding: dict[str, Any] = {"latent": latent, "memory": self.model.memory(len(latent))}
        head = self.model.reward_head
        if self.model.horizon is not None:
            members = (head.codec.members,) if isinstance(head, EnsembleHead) else ()
            embedding["prefix"] = first_prefix(value.new_zeros(len(value), *members))
        return Root(made.logits, value, embedding, made.valid, made.actions, variance, finished), stats

    def step(self, embedding: Mapping[str, Any], action: Tensor, noise: Any) -> Step:
        """One step of the model, for a search.

        Members of an ensemble each tell their own reward, or value; that they differ is what is not known of it.
        """
        model, slots = self.model, self.slots
        latent, memory, prediction = model.step(embedding["latent"], embedding["memory"], slots.model_action(action))
        told = means_of(model.reward_head, prediction)  # [B], or [B, members]
        after: dict[str, Any] = {"latent": latent, "memory": memory}
        if model.horizon is not None:
            told, after["prefix"] = next_prefix(embedding["prefix"], told, model.horizon)
            after["memory"] = emptied(memory, after["prefix"], model)
        reward, reward_variance = self._told(model.reward_head, told)
        stats, predicted = model.predict(latent)
        value, value_variance = self._told(model.value_head, means_of(model.value_head, predicted))
        made = slots.slots(stats, noise)
        return Step(
            reward,
            torch.full_like(reward, self.discount),
            made.logits,
            value,
            after,
            actions=made.actions,
            reward_variance=reward_variance,
            value_variance=value_variance,
        )

    def _told(self, head: ValueHead, told: Tensor) -> tuple[Tensor, Tensor | None]:
        """Numbers `[B]` and what is not known of them, a variance `[B]`, by what a head tells, or its members `[B, M]`.

        A search carries variances of rewards and values, or of neither: where one head alone has members, the other
        counts as certain.
        """
        if isinstance(head, EnsembleHead):
            return told.mean(-1), told.var(-1, correction=0)
        heads = self.model.reward_head, self.model.value_head
        return told, torch.zeros_like(told) if any(isinstance(other, EnsembleHead) for other in heads) else None

    def plan_rows(
        self,
        observation: Mapping[str, Tensor],
        settings: SearchSettings,
        valid: Tensor | None,
        finished: Tensor,
        noise: Noise | None = None,
    ) -> Record:
        """Search from all rows of sequences at once, with noise as when acting.

        Args:
            observation: `{key: [L, B, ...]}` in the environment's units.
            settings: how much is searched, and by which rule.
            valid: bool `[L, B, A]`, numbered actions that may be taken; None for all.
            finished: bool `[L, B]`, rows that are not searched.
            noise: draws of the search for `L * B` rows, in the place of its own.

        Returns:
            The record `[L, B, ...]`.
        """
        flat = {key: x.flatten(0, 1) for key, x in observation.items()}
        allowed = None if valid is None else valid.flatten(0, 1)
        _, record, _ = self.plan(flat, settings, explore=True, valid=allowed, finished=finished.flatten(), noise=noise)
        parts = (None if x is None else x.unflatten(0, finished.shape) for x in record)
        return Record(*parts)  # type: ignore[arg-type]  # only actions may be None

    def unrolled(self, rows: SequenceBatch, steps: int) -> tuple[Tensor, Tensor]:
        """Lead on from the first row of sequences along what was done.

        Args:
            rows: `[L, B]`, whose first is seen.
            steps: `U`.

        Returns:
            Latents `[U + 1, B, D]`, of which the first is seen and the others are foreseen, and predictions of rewards
            `[U, B, ...]` on arriving at these.
        """
        model = self.model
        latent = model.represent({key: x[0] for key, x in rows.observation.items()})
        memory = model.memory(len(latent))
        latents, rewards = [latent], []
        actions = model.actor.encode(rows.previous_action[1 : steps + 1])
        for number, action in enumerate(actions.unbind(), 1):
            latent, memory, reward = model.step(latent, memory, action)
            if model.horizon is not None and number % model.horizon == 0:
                memory = model.memory(len(latent))
            latents.append(latent)
            rewards.append(reward)
        return torch.stack(latents), torch.stack(rewards)

    def _log_prob(self, root: Root, stats: Tensor, found: SearchResult, valid: Tensor | None) -> Tensor:
        """`[B]` of the chosen action.

        Where actions are drawn, its density is the policy's, times how much likelier the search has made its slot:
        slots are drawn by the policy among actions that may be taken, and then one of them is chosen.
        """
        if root.actions is None:
            return found.log_prob
        logits = root.logits if root.valid is None else root.logits.masked_fill(~root.valid, -torch.inf)
        policy = self.slots.log_prob(among_valid(stats, valid), root.actions) - logits.log_softmax(-1)
        return policy.gather(-1, found.slot.unsqueeze(-1)).squeeze(-1) + found.log_prob


def emptied(memory: Tensor, prefix: Prefix, model: Plannable) -> Tensor:
    """The memory `[B, M]`, a fresh one where its prefix was just reset."""
    reset = prefix.age.view(len(memory), -1)[:, :1] == 0  # members are reset together
    return torch.where(reset, model.memory(len(memory)), memory)


class ReactivePolicy(nn.Module):
    """The policy without a search: `[B, ...]` observations to the most likely actions, in the environment's units.

    Args:
        model: its representation and policy are used.
        mask: reads which actions may be taken.
    """

    def __init__(self, model: nn.Module, mask: ActionMask) -> None:
        super().__init__()
        self.model = model
        self.mask = mask

    def forward(self, observation: Tensor | dict[str, Tensor]) -> Tensor:
        seen = by_key(observation)
        model: Any = self.model
        stats, _ = model.predict(model.represent(seen))
        valid = self.mask.valid(seen)
        if valid is not None:
            stats = stats.masked_fill(~valid, -torch.inf)
        action: Tensor = model.actor.decode(model.actor.mode(stats))
        return action
