"""The records of a batch of trees, as tensors of fixed shape, and looks at some nodes of them.

Node 0 is the root, and node `i` is made by simulation `i`: no records are added while a search runs. An edge is a slot
of a node; it has the number `node * K + slot`. A node knows which slot it would follow next (`best`) and the node that
this leads to (`jump`), itself where the slot has not been tried. A choice depends on the node's own records, so it is
made anew only where these change.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.search.interface import Root

INVALID = -1e9
"""Logarithm of the prior of a slot that may not be chosen: finite, and its probability is 0."""

LEAST_LOG_PRIOR = -1e6
"""Logarithm of the prior of a slot that may be chosen, at least."""


class Tree(NamedTuple):
    """Records of `B` trees, changed in place.

    Attributes:
        rows: int64 `[B]`, 0 to `B - 1`.
        sums: `[C, B, N * K]` per edge: number of visits, sum of returns, and with a variance the sum of that.
        child: int64 `[B, N * K]` node behind the edge; -1, if there is none yet.
        log_prior: `[B, N, K]` normalised logarithm of the prior.
        value: `[N, B]` of the model.
        reward: `[N, B]` of the step that leads to the node.
        discount: `[N, B]` of that step.
        best: int64 `[N, B]` slot that the next simulation follows.
        jump: int64 `[N, B]` node behind that slot, the node itself where there is none.
        embedding: nested tensors `[B, N, ...]`.
        low: `[B]` least mean return of any visited edge.
        high: `[B]` greatest.
        alive: bool `[B]`, whether simulations of this row count.
        depth: int64 `[B]` edges down to the deepest node.
        actions: `[B, N, K]` or `[B, N, K, D]`, or None.
        value_variance: `[N, B]`, or None.
        reward_variance: `[N, B]`, or None.
    """

    rows: Tensor
    sums: Tensor
    child: Tensor
    log_prior: Tensor
    value: Tensor
    reward: Tensor
    discount: Tensor
    best: Tensor
    jump: Tensor
    embedding: Any
    low: Tensor
    high: Tensor
    alive: Tensor
    depth: Tensor
    actions: Tensor | None
    value_variance: Tensor | None
    reward_variance: Tensor | None


class Nodes(NamedTuple):
    """Some nodes of each tree, as a rule of selection sees them.

    Rows come last here: whatever is computed of slots is then done for neighbouring rows at once, however few slots
    there are.

    Attributes:
        visits: `[K, R, B]`.
        q: `[K, R, B]` mean return, 0 where there was no visit.
        log_prior: `[K, R, B]`.
        value: `[R, B]` of the model.
        root: bool `[R, B]`, whether a node is the root.
        low: `[B]` least mean return in the whole tree.
        high: `[B]` greatest.
    """

    visits: Tensor
    q: Tensor
    log_prior: Tensor
    value: Tensor
    root: Tensor
    low: Tensor
    high: Tensor

    @property
    def valid(self) -> Tensor:
        """Bool `[K, R, B]`, whether a slot may be chosen."""
        return self.log_prior > INVALID / 2

    @property
    def total(self) -> Tensor:
        """`[R, B]` visits of all slots."""
        return self.visits.sum(0)

    @property
    def mean(self) -> Tensor:
        """`[R, B]` mean of the model's value and of all returns."""
        return (self.value + (self.visits * self.q).sum(0)) / (1.0 + self.total)


def plant(root: Root, simulations: int) -> Tree:
    """Trees of a root each, whose prior has no noise yet; rows with numbers that are none do not live.

    There is no room for embeddings yet: a compiled beginning would pass through all of it to fill the first place.
    """
    rows, slots = root.logits.shape
    nodes, device = simulations + 1, root.value.device
    dtype = torch.promote_types(root.value.dtype, torch.float32)

    def numbers(first: Tensor) -> Tensor:
        """`[N, B]` with the root's `[B]` at the first place."""
        full = zeros.new_zeros(nodes, rows)
        full[0] = first
        return full

    # A row without numbers, without a choice or without a future stays as it is.
    finite = are_numbers(root.value, root.logits)
    alive = finite & searchable(root)

    # Room for all nodes; the root's is filled.
    zeros = torch.zeros(rows, dtype=dtype, device=device)
    priors = zeros.new_zeros(rows, nodes, slots)
    priors[:, 0] = log_prior_of(root.logits.to(dtype), root.valid, finite)
    itself = torch.arange(nodes, device=device).unsqueeze(1).repeat(1, rows)
    return Tree(
        rows=torch.arange(rows, device=device),
        sums=zeros.new_zeros(2 if root.value_variance is None else 3, rows, nodes * slots),
        child=torch.full((rows, nodes * slots), -1, device=device),
        log_prior=priors,
        value=numbers(torch.where(finite, root.value, 0.0)),
        reward=zeros.new_zeros(nodes, rows),
        discount=zeros.new_zeros(nodes, rows),
        best=torch.zeros_like(itself),
        jump=itself,
        embedding=None,
        low=zeros + math.inf,
        high=zeros - math.inf,
        alive=alive,
        depth=torch.zeros(rows, dtype=torch.int64, device=device),
        actions=None if root.actions is None else room(root.actions, nodes),
        value_variance=None if root.value_variance is None else numbers(root.value_variance),
        reward_variance=None if root.value_variance is None else zeros.new_zeros(nodes, rows),
    )


def room(first: Tensor, nodes: int) -> Tensor:
    """`[B, N, ...]` with the root's `[B, ...]` at the first place; others are written before they are read."""
    full = first.new_empty(len(first), nodes, *first.shape[1:])
    full[:, 0] = first
    return full


def searchable(root: Root) -> Tensor:
    """Bool `[B]`, rows that have a choice and a future."""
    every = torch.ones_like(root.value, dtype=torch.bool)
    if root.valid is not None:
        every = every & root.valid.any(-1)
    return every if root.finished is None else every & ~root.finished


def look(tree: Tree, nodes: Tensor, optimism: float) -> Nodes:
    """The records of nodes `[R, B]`; `optimism` deviations are added to mean returns."""
    rows, slots = len(tree.alive), tree.log_prior.shape[-1]
    sums = tree.sums.view(len(tree.sums), rows, -1, slots)[:, tree.rows, nodes].permute(0, 3, 1, 2)
    visits = sums[0]
    tried = visits.clamp(min=1.0)
    q = sums[1] / tried
    if optimism:
        q = q + optimism * (sums[2] / tried).sqrt()
    log_prior = tree.log_prior[tree.rows, nodes].permute(2, 0, 1)
    return Nodes(visits, q, log_prior, tree.value.gather(0, nodes), nodes == 0, tree.low, tree.high)


def log_prior_of(logits: Tensor, valid: Tensor | None, finite: Tensor) -> Tensor:
    """Normalised `[B, K]` over valid slots; the same for all of them in rows that are not finite."""
    logits = torch.where(finite.unsqueeze(-1), logits, 0.0)
    if valid is None:
        return logits.log_softmax(-1).clamp(min=LEAST_LOG_PRIOR)
    masked = logits.masked_fill(~valid, INVALID).log_softmax(-1).clamp(min=LEAST_LOG_PRIOR)
    return masked.masked_fill(~valid, INVALID)


def are_numbers(*values: Tensor) -> Tensor:
    """Bool `[B]`, whether all of a row's numbers are finite; a logit `[B, K]` may be minus infinity."""
    finite = [x.isfinite() if x.dim() == 1 else (x < math.inf).all(-1) for x in values]  # with NaN it is False
    return torch.stack(finite).all(0)
