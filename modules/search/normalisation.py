"""Mean returns on a scale that does not depend on rewards, and stand-ins for slots that were never tried."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.search.nodes import Nodes


def by_siblings(nodes: Nodes, least_range: float) -> Tensor:
    """`[K, R, B]` in [0, 1]: by least and greatest of the node's own value and its visited slots, as mctx does.

    Untried slots count as the least.
    """
    visited = nodes.visits > 0
    mean = nodes.mean
    known = torch.where(visited, nodes.q, mean)
    low = torch.minimum(mean, known.amin(0))
    high = torch.maximum(mean, known.amax(0))
    return torch.where(visited, nodes.q - low, 0.0) / (high - low).clamp(min=least_range)


def by_tree(nodes: Nodes, least_range: float) -> Tensor:
    """`[K, R, B]` in [0, 1]: by least and greatest mean return that any edge of the tree has had (MuZero, appendix B).

    Untried slots count as the least. The paper leaves returns as they are until they differ; here they are 0.
    """
    scaled = ((nodes.q - nodes.low) / (nodes.high - nodes.low).clamp(min=least_range)).clamp(
        0.0, 1.0
    )  # optimism may leave the range
    return torch.where(nodes.visits > 0, scaled, 0.0)


def completed(nodes: Nodes, value_scale: float, visit_offset: float, rescale: bool) -> Tensor:
    """`[K, R, B]` completed and transformed returns, `sigma(q)` of Danihelka et al. 2022, equations 8 and 33.

    Untried slots get the value of the node, mixed of the model's and of the visited slots' returns by their priors.

    Args:
        nodes: of which it is asked.
        value_scale: `c_scale`.
        visit_offset: `c_visit`.
        rescale: whether to bring returns to [0, 1] over the slots first, as mctx does.
    """
    visited = nodes.visits > 0
    prior = nodes.log_prior.exp().clamp(min=torch.finfo(nodes.q.dtype).tiny)
    weight = torch.where(visited, prior, 0.0)
    visited_prior = weight.sum(0)
    weighted = (weight * nodes.q).sum(0) / torch.where(visited_prior > 0, visited_prior, 1.0)
    total = nodes.total
    mixed = (nodes.value + total * weighted) / (1.0 + total)
    q = torch.where(visited, nodes.q, mixed)
    if rescale:
        low, high = q.amin(0), q.amax(0)
        q = (q - low) / (high - low).clamp(min=1e-8)
    return (visit_offset + nodes.visits.amax(0)) * value_scale * q
