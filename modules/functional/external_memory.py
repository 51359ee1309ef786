"""An external memory's formulas: reading by content, the least used row, and writing into it and into those before it.

Letters: `R` rows of the memory, `K` heads that read it, `D` width of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6
"""Added to squared norms: a row of zeros is at right angles to every key."""


def read_weights(key: Tensor, sharpness: Tensor, matrix: Tensor) -> Tensor:
    """Weights of the rows of a memory for each key, `softmax_i(sharpness * cos(key, M_i))`.

    Source: Wayne et al. 2018, "Unsupervised Predictive Memory in a Goal-Directed Agent"
    (https://arxiv.org/abs/1803.10760), methods, after Graves et al. 2016, "Hybrid computing using a neural network with
    dynamic external memory".

    Args:
        key: `[B, K, D]`.
        sharpness: `[B, K]`, not negative.
        matrix: `[B, R, D]`.

    Returns:
        `[B, K, R]`, which sum to 1 over the rows.
    """
    unit = key * torch.rsqrt(key.square().sum(-1, keepdim=True) + EPSILON)
    length = torch.linalg.vector_norm(matrix, dim=-1).square() + EPSILON  # no copy of the matrix
    cosine = torch.bmm(unit, matrix.mT) * torch.rsqrt(length).unsqueeze(1)
    return torch.softmax(sharpness.unsqueeze(-1) * cosine, -1)


def least_used(usage: Tensor) -> Tensor:
    """The row of each memory that was used least, the first of them, as a one-hot vector: `[B, R]` to `[B, R]`."""
    return F.one_hot(usage.argmin(-1), usage.shape[-1]).to(usage.dtype)


def add_reads(usage: Tensor, weights: Tensor) -> Tensor:
    """Usage of the rows after they were read with some weights: `[B, R]` and `[B, K, R]` to `[B, R]`.

    Rows that nothing was written into have a usage of 0 and keep it, whatever weight the softmax gives them: they are
    filled, one after the other, before any row is written a second time.
    """
    return torch.where(usage > 0.0, usage + weights.sum(1), usage)


def use_after_write(usage: Tensor, written: Tensor) -> Tensor:
    """Usage after a write into a row: 1 there, for what was in it is gone; `[B, R]` both."""
    return torch.where(written > 0.0, 1.0, usage)


def retroactive_weights(trace: Tensor, written: Tensor) -> Tensor:
    """Weights with which a moment is added to what came before it: the trace, less the row that is overwritten."""
    return trace * (1.0 - written)


def next_trace(retroactive: Tensor, written: Tensor, decay: float) -> Tensor:
    """`decay * retroactive + (1 - decay) * written`, `[B, R]`: the weights of the next retroactive write.

    A row that was written `n` writes ago gets the next moment with the weight `(1 - decay) decay^(n - 1)`, so that its
    second half becomes a discounted sum of what came after. Source: Wayne et al. 2018, methods.
    """
    return decay * retroactive + (1.0 - decay) * written


def plain_write(matrix: Tensor, moment: Tensor, written: Tensor, retroactive: Tensor | None) -> Tensor:
    """The memory after a write: `(1 - w) M + w [z, 0] + v [0, z]`.

    Args:
        matrix: `[B, R, D]`.
        moment: `[B, d]` what is written; `D` is `2 d`, and `d` without a retroactive write.
        written: `[B, R]` one-hot `w`.
        retroactive: `[B, R]` weights `v`; None for none.
    """
    added = written.unsqueeze(-1) * moment.unsqueeze(1)
    if retroactive is not None:
        added = torch.cat([added, retroactive.unsqueeze(-1) * moment.unsqueeze(1)], -1)
    return matrix * (1.0 - written).unsqueeze(-1) + added
