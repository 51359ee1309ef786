"""Beliefs that a planning agent is to hold of sequences: values by rewards and searches, and the policies these found.

Letters: `L` rows of a sequence, `U` unrolled steps, `B` sequences, `C` of them that are searched anew, `W` width of a
record.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.agent.action_masks import ActionMask, among_valid
from modules.agent.augmentation import Augmentation
from modules.agent.planning import Planner, Record, renewed, rows_of, unpack
from modules.batch import PrioritizedSequences, SequenceBatch
from modules.functional.planning_targets import ValueRows, ValueTarget
from modules.functional.unrolled import mean_by_age
from modules.search.settings import SearchSettings

AGES = (500, 1000, 2000, 4000, 8000, 16_000, 32_000)
"""Transitions from which a sequence belongs to the second and each later group by age."""

NONE = -1.0
"""Mean horizon of a group that a batch has nothing of: what is not finite would be taken for diverged training."""


class Prepared(NamedTuple):
    """All that is drawn and looked up for an update before it, outside of its graph.

    Attributes:
        updates: int64 scalar, the number of updates so far.
        again: records `[U + 1, C]` of the first rows of the first sequences, searched anew; None for none.
        draws: how the sequences that are learned from are changed; None for not at all.
        others: int64 `[L, B]` sequences whose first actions stand for those behind ends; None, if none are needed.
    """

    updates: Tensor
    again: Record | None = None
    draws: tuple[Tensor, ...] | None = None
    others: Tensor | None = None


@torch.no_grad()
def prepare(
    batch: PrioritizedSequences,
    updates: int,
    count: int,
    planner: Planner,
    settings: SearchSettings,
    unroll: int,
    mask: ActionMask,
    augmentation: Augmentation | None,
    absorbing: bool,
) -> Prepared:
    """Search the first `U + 1` rows of `count` sequences anew, all in one search, and draw how they are changed.

    Args:
        batch: sequences.
        updates: number of updates so far.
        count: `C`, of the first sequences; 0 for none.
        planner: with the target model.
        settings: of the search.
        unroll: `U`.
        mask: reads which actions may be taken.
        augmentation: changes what is learned from; None for nothing.
        absorbing: whether something is done behind ends.
    """
    device, again = batch.weight.device, None
    if count:
        observation = {key: x[: unroll + 1, :count] for key, x in batch.sequence.observation.items()}
        over = batch.padding[1 : unroll + 2, :count]  # nothing follows
        again = planner.plan_rows(observation, settings, mask.valid(observation), over)
    draws = None if augmentation is None else augmentation.draw(len(batch.weight), device)
    others = torch.randint(batch.padding.shape[1], batch.padding.shape, device=device) if absorbing else None
    return Prepared(torch.tensor(updates, device=device), again, draws, others)


def acted_on(rows: SequenceBatch, padding: Tensor, others: Tensor) -> SequenceBatch:
    """Rows in which something is done behind ends, too: what was done first in other sequences, `others` `[L, B]`.

    A search goes on behind a terminal state by any action, so that none of them must be a sign of it.
    """
    action = rows.previous_action
    behind = padding.reshape(*padding.shape, *[1] * (action.dim() - 2))
    return rows._replace(previous_action=torch.where(behind, action[1][others], action))


class Beliefs(NamedTuple):
    """All that is to be learned of the first `U + 1` rows of sequences, apart from rewards.

    Attributes:
        value: `[U + 1, B]` targets of values.
        horizon: `[B]` steps of the data that are in those of the first row.
        age: `[B]` transitions that were written since.
        record: `[U + 1, B]` of the searches; the policies are targets.
        stored: `[L, B, W]` records as a replay may keep them from now on.
    """

    value: Tensor
    horizon: Tensor
    age: Tensor
    record: Record
    stored: Tensor


@torch.no_grad()
def beliefs(
    batch: PrioritizedSequences,
    prepared: Prepared,
    planner: Planner,
    target: ValueTarget,
    unroll: int,
    mask: ActionMask,
) -> Beliefs:
    """Targets of values and policies, as the target model judges what is known of the sequences.

    Args:
        batch: sequences with stored records.
        prepared: of the update.
        planner: with the target model.
        target: what values learn.
        unroll: `U`.
        mask: reads which actions may be taken.
    """
    assert batch.stored is not None
    rows, model = batch.sequence, planner.model
    stored = unpack(batch.stored, planner.slots)
    record = old = rows_of(stored)
    if prepared.again is not None:
        record = renewed(record, prepared.again)

    # One pass of the target model over all rows.
    stats, values = model.predict(model.represent({key: x.flatten(0, 1) for key, x in rows.observation.items()}))
    value, stats = (x.unflatten(0, batch.padding.shape) for x in (model.value_head.mean(values), stats))
    allowed = among_valid(stats, mask.valid(rows.observation))
    log_policy = model.actor.log_prob(allowed[:-1], model.actor.encode(rows.previous_action[1:]))  # [L - 1, B]
    # Where nobody knows by which probability an action was taken, it counts as this policy's own.
    log_taken = torch.where(old.known[:-1], old.log_prob[:-1], log_policy)
    age = torch.zeros_like(batch.index) if batch.age is None else batch.age
    known = ValueRows(
        rows.reward, rows.terminated, batch.padding, value, record.value, record.known, log_policy - log_taken,
        planner.discount, age, unroll, prepared.updates,
    )  # fmt: skip
    kept = record._replace(log_prob=torch.cat([log_taken, torch.zeros_like(log_taken[:1])]))
    first = Record(*(None if x is None else x[: unroll + 1] for x in record))  # type: ignore[arg-type]
    again = torch.cat([batch.stored[:1], kept.pack()[:-1]])
    return Beliefs(target(known), target.horizon(known)[0], age, first, again)


def about_horizons(believed: Beliefs) -> dict[str, Tensor]:
    """Mean horizon of the first rows, and that of each group by age, `NONE` where the batch has nothing of one."""
    groups = mean_by_age(believed.horizon, believed.age, AGES).nan_to_num(NONE).unbind()
    by_age = {f"horizon_from_age/{age}": mean for age, mean in zip((0, *AGES), groups, strict=True)}
    return {"horizon": believed.horizon.mean(), **by_age}


def about_policies(record: Record, entropy: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Share of the counted policies that a search has found, their mean entropy, and that of the learned ones.

    Args:
        record: `[U + 1, B]` of the searches.
        entropy: `[U + 1, B]` of the learned policies.
        counted: bool `[U + 1, B]`.
    """
    known = record.known & counted
    theirs = -(record.policy * record.policy.clamp_min(1e-9).log()).sum(-1)
    count = counted.sum().clamp_min(1)
    return {
        "searched": known.sum() / count,
        "target_entropy": (theirs * known).sum() / known.sum().clamp_min(1),
        "entropy": (entropy * counted).sum() / count,
    }
