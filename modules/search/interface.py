"""The types of a search: how a model speaks to it, and how it answers.

Letters: `B` rows, each a tree of its own; `K` action slots of a node; `S` simulations; `N = S + 1` nodes of a tree. A
slot is a place among the actions of a node. Where actions are few and numbered, slot and action are the same number;
where they are drawn, every node has `K` actions of its own, and the slot says which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Draw = Callable[[torch.Generator | None], Any]
"""Nested tensors of everything that a model draws in one simulation."""


class Root(NamedTuple):
    """The states that are searched from, as a model sees them.

    Attributes:
        logits: `[B, K]` of the policy over the slots; need not be normalised.
        value: `[B]` of the states.
        embedding: any nested structure of tensors `[B, ...]`; the search hands it to the model and never looks inside.
        valid: bool `[B, K]`, whether a slot may be chosen; None, if all may.
        actions: `[B, K]` or `[B, K, D]` actions of the slots; None, if the number of the slot is the action.
        value_variance: `[B]` epistemic variance of the value; None, if the model tells of none.
        finished: bool `[B]`, rows whose episode is over: only these may have no valid slot. Such a row is not searched.
    """

    logits: Tensor
    value: Tensor
    embedding: Any
    valid: Tensor | None = None
    actions: Tensor | None = None
    value_variance: Tensor | None = None
    finished: Tensor | None = None


class Step(NamedTuple):
    """One step of the model, from a node along one action of it, and the node where it leads.

    Attributes:
        reward: `[B]` of the step.
        discount: `[B]` of everything behind the step: gamma; 0, if the episode ends; negative, if the other player
            moves next, whose gains are this one's losses.
        logits: as of `Root`, as is all below.
        value: of the state where the step leads, seen by who moves there.
        embedding: of the same structure as the root's.
        valid: may be None, though the root's is not.
        actions: where the root has them.
        reward_variance: `[B]` epistemic variance of the reward, where the root has a variance of the value.
        value_variance: `[B]`, the same.
    """

    reward: Tensor
    discount: Tensor
    logits: Tensor
    value: Tensor
    embedding: Any
    valid: Tensor | None = None
    actions: Tensor | None = None
    reward_variance: Tensor | None = None
    value_variance: Tensor | None = None


class Recurrent(Protocol):
    """The model of one step; it is called once per simulation, with all rows."""

    def __call__(self, embedding: Any, action: Tensor, noise: Any) -> Step:
        """Follow one action.

        Args:
            embedding: of the nodes that are left, `[B, ...]`.
            action: int64 `[B]`, or `[B, D]`: one of the node's actions per row.
            noise: drawn by the `draw` that the search was given; None without one.
        """


class Noise(NamedTuple):
    """Everything that a search draws by itself; `draw_noise` makes it.

    Attributes:
        root: `[B, K]` of the rule: Gumbel draws, or Dirichlet draws over valid slots; None for a search without noise.
        action: `[B, K]` Gumbel draws, by which pUCT samples its action; None takes the most visited one.
        ties: `[S, B, K]`, far below any difference that matters; None leaves ties to the first slot.
    """

    root: Tensor | None = None
    action: Tensor | None = None
    ties: Tensor | None = None


class SearchResult(NamedTuple):
    """Findings of a search.

    Attributes:
        action: int64 `[B]`, or `[B, D]`: the chosen action; 0 in rows without a valid slot.
        slot: int64 `[B]` its slot.
        policy_target: `[B, K]` probabilities of an improved policy; all 0 in rows without a valid slot.
        log_prob: `[B]` logarithm of the probability by which the action was chosen: of pUCT by visits and temperature,
            of Gumbel by the improved policy; 0 for a search without noise.
        value: `[B]` mean of the model's value and of all simulations' returns.
        visits: `[B, K]` of the root's slots, counts as floats; `S` together, and fewer in failed and finished rows.
        q: `[B, K]` mean return of each slot; 0 where there was no visit.
        depth: int64 `[B]` steps from the root to the deepest node.
        failed: bool `[B]`, the model gave something that is no number in this row. It was searched until then: mask it.
        actions: the root's, `[B, K]` or `[B, K, D]`; None, if slots are actions.
        variance: `[B]` epistemic variance of the value, carried up the tree; None, if the model tells of none.
    """

    action: Tensor
    slot: Tensor
    policy_target: Tensor
    log_prob: Tensor
    value: Tensor
    visits: Tensor
    q: Tensor
    depth: Tensor
    failed: Tensor
    actions: Tensor | None
    variance: Tensor | None
