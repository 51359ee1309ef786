"""Which experts each token visits, how evenly they are used, and the losses that even it out.

Letters: `N` tokens, `E` experts, `k` experts per token, `R` rows, a row being one (token, expert) pair. Formulas of
Shazeer et al. 2017, "Outrageously Large Neural Networks" (https://arxiv.org/abs/1701.06538), unless another is named.
All of them expect float32 or float64 logits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NOISE_FLOOR = 1e-2  # least standard deviation of the gate's noise, as in the paper's own code


class Rows(NamedTuple):
    """The (token, expert) pairs to compute, sorted by token.

    Attributes:
        token: `[R]` int64 index of the token, never falling.
        expert: `[R]` int64 index of the expert; `E` marks a dropped row, which contributes nothing.
        weight: `[R]` factor of the expert's output.
        offsets: `[N]` int64 first row of each token.
        complete: no row is dropped; known without looking at the data.
        per_token: rows of every token, if they are equally many.
    """

    token: Tensor
    expert: Tensor
    weight: Tensor
    offsets: Tensor
    complete: bool = True
    per_token: int | None = None


# ----------------------------------------------------------------------------------------------- tokens choose experts
def noise_deviation(raw: Tensor) -> Tensor:
    """Standard deviation of the gate's noise, `softplus(raw)` plus a floor; `[N, E] -> [N, E]`."""
    # softplus(x) = -log(sigmoid(-x)); these two are vectorised on every CPU, `softplus` is not and costs twice as much.
    # The clamp keeps the sigmoid above the least float32, whose logarithm would be infinite.
    return NOISE_FLOOR - torch.sigmoid(-raw.clamp(max=80.0)).log()


def top_indices(scores: Tensor, k: int) -> Tensor:
    """Indices of the `k` largest of each row, largest first, no gradient: `[N, E] -> [N, k]`."""
    scores = scores.detach()
    if scores.device.type != "cpu" or k > 3 or k == scores.shape[1]:
        return scores.topk(k, dim=1).indices
    # On a CPU `topk` of a short row costs three times as much as passing over it for every winner.
    winners = [scores.argmax(1, keepdim=True)]
    for _ in range(k - 1):
        scores = scores.scatter(1, winners[-1], -math.inf)
        winners.append(scores.argmax(1, keepdim=True))
    return torch.cat(winners, 1)


def choice_weights(logits: Tensor, chosen: Tensor) -> Tensor:
    """Softmax over the chosen logits only, as in the paper; for one expert per token the softmax over all of them.

    Normalising a single weight would make it 1 whatever the router does, so that no gradient reached the router; the
    probability among all experts does (Fedus et al. 2021, Switch Transformer, https://arxiv.org/abs/2101.03961).

    Args:
        logits: `[N, E]`.
        chosen: `[N, k]` indices of the chosen experts.

    Returns:
        `[N, k]`.
    """
    if chosen.shape[1] == 1:
        return logits.softmax(1).gather(1, chosen)
    return logits.gather(1, chosen).softmax(1)


def token_rows(chosen: Tensor, weights: Tensor) -> Rows:
    """Rows of `[N, k]` chosen experts and their `[N, k]` weights."""
    n, k = chosen.shape
    offsets = torch.arange(0, n * k, k, device=chosen.device)
    token = torch.arange(n * k, device=chosen.device).div(k, rounding_mode="floor")
    return Rows(token, chosen.reshape(-1), weights.reshape(-1), offsets, per_token=k)


def limit_rows(rows: Rows, num_experts: int, capacity_factor: float) -> Rows:
    """Drop what an expert gets beyond `ceil(capacity_factor * R / E)` rows, later tokens first (Lepikhin et al. 2020).

    The rows stay in place, marked, so that no shape depends on the data; kept weights are not renormalised.
    """
    expert, weight = rows.expert, rows.weight
    capacity = math.ceil(capacity_factor * expert.shape[0] / num_experts)
    order, starts = sort_by_expert(expert, num_experts)
    position = torch.arange(expert.shape[0], device=expert.device) - starts[expert[order]]
    kept = torch.empty_like(expert, dtype=torch.bool).scatter_(0, order, position < capacity)
    expert = expert.where(kept, torch.full_like(expert, num_experts))
    return rows._replace(expert=expert, weight=weight * kept, complete=False)


def count_rows(expert: Tensor, num_experts: int) -> Tensor:
    """`[E + 1]` rows of each expert; the last entry counts dropped rows."""
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=expert.device)
    return counts.scatter_add_(0, expert, torch.ones_like(expert))


def sort_by_expert(expert: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """`[R]` order that sorts rows by expert, earlier tokens first, and `[E + 1]` first place of each expert in it.

    Dropped rows come last; the last entry of the second is the number of rows that are not dropped.
    """
    # Sorting bytes is five times faster than sorting int64.
    keys = expert.to(torch.uint8 if num_experts < 256 else torch.int32)
    counts = count_rows(expert, num_experts)
    return torch.argsort(keys, stable=True), counts.cumsum(0) - counts


# ----------------------------------------------------------------------------------------------- experts choose tokens
def expert_share(num_tokens: int, num_experts: int, k: int) -> int:
    """Tokens that each expert takes from a batch so that tokens get `k` experts on average, at least one of them."""
    return min(num_tokens, math.ceil(k * num_tokens / num_experts))


def expert_choice(scores: Tensor, share: int) -> tuple[Rows, Tensor]:
    """Every expert takes the tokens that score best for it, so that all are equally loaded.

    Source: Shazeer et al. 2017, appendix F ("strictly balanced gating"); Zhou et al. 2022, "Mixture-of-Experts with
    Expert Choice Routing" (https://arxiv.org/abs/2202.09368). A token may get any number of experts, also none.

    Args:
        scores: `[N, E]`, softmax over experts.
        share: tokens per expert.

    Returns:
        `E * share` rows, and the `[E]` lowest score that each expert took.
    """
    n, num_experts = scores.shape
    best, chosen = scores.topk(share, dim=0)  # [share, E]
    token, order = torch.sort(chosen.reshape(-1), stable=True)
    # Places in `[share, E]`, flattened: the column is the expert.
    expert = order % num_experts
    offsets = torch.searchsorted(token, torch.arange(n, device=token.device))
    return Rows(token, expert, best.reshape(-1)[order], offsets), best[-1].detach()


def threshold_rows(scores: Tensor, thresholds: Tensor) -> Rows:
    """Rows of all pairs whose score reaches the expert's threshold; does not depend on the other tokens of the batch.

    Args:
        scores: `[N, E]`.
        thresholds: `[E]`, running means of what `expert_choice` returned in training.

    Returns:
        `N * E` rows; those below the threshold are marked as dropped.
    """
    n, num_experts = scores.shape
    taken = scores >= thresholds
    none = torch.full((), num_experts, device=scores.device)
    chosen = torch.arange(num_experts, device=scores.device).expand(n, -1).where(taken, none)
    return token_rows(chosen, scores * taken)._replace(complete=False)


# ---------------------------------------------------------------------------------------------- loads and their losses
def importance(rows: Rows, num_experts: int) -> Tensor:
    """`[E]` sum of the weights that each expert gets over the batch."""
    weight = rows.weight
    return weight.new_zeros(num_experts + 1).index_add(0, rows.expert, weight)[:num_experts]


def visit_probability(clean: Tensor, noisy: Tensor, deviation: Tensor, ranking: Tensor, k: int) -> Tensor:
    """Probability that each expert is among the `k` best of a token if its own noise is drawn again.

    All values are logits, never probabilities: thresholds after a softmax would make the estimate meaningless.

    Args:
        clean: `[N, E]` logits without noise.
        noisy: `[N, E]` logits with the noise that was drawn.
        deviation: `[N, E]` standard deviation of the noise.
        ranking: `[N, k + 1]` indices of the largest noisy logits, largest first; not looked at if `k = E`.
        k: experts per token.

    Returns:
        `[N, E]`; its sum over tokens is the smooth load, whose sum over experts is about `k * N`.
    """
    if k == clean.shape[1]:
        return torch.ones_like(clean)
    last_in, first_out = noisy.gather(1, ranking[:, k - 1 : k + 1]).chunk(2, 1)
    # What an expert must beat is the k-th best of the others.
    threshold = torch.where(noisy >= last_in, first_out, last_in)
    return torch.special.ndtr((clean - threshold) / deviation)


def switch_loss(logits: Tensor, counts: Tensor) -> Tensor:
    """`E * sum(f * P)` of the share of rows `f` and the mean probability `P` of each expert; 1 when even.

    Source: Fedus et al. 2021. `P` is over all experts, not only the chosen ones.

    Args:
        logits: `[N, E]`.
        counts: `[E]` rows of each expert.
    """
    share = counts / counts.sum().clamp(min=1)
    return logits.shape[1] * torch.dot(share.to(logits.dtype), logits.softmax(1).sum(0) / max(logits.shape[0], 1))


def router_z_loss(logits: Tensor) -> Tensor:
    """Mean squared log partition function of `[N, E]` logits (Zoph et al. 2022, https://arxiv.org/abs/2202.08906)."""
    return logits.logsumexp(1).square().sum() / max(logits.shape[0], 1)


def bias_step(counts: Tensor, rate: float) -> Tensor:
    """How far the selection bias of each expert moves after an update: up where underused, down where overused.

    Source: Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing" (https://arxiv.org/abs/2408.15664). The mean step is
    taken off, as only differences matter and the bias would otherwise drift.

    Args:
        counts: `[E]` rows of each expert since the last step.
        rate: size of a step.
    """
    counts = counts.float()
    step = rate * torch.sign(counts.mean() - counts)
    return step - step.mean()


def routing_entropy(logits: Tensor) -> Tensor:
    """Mean entropy in nats of the softmax over experts, `[N, E] -> []`; `log(E)` when the router is indifferent."""
    log_probability = logits.log_softmax(1)
    return -(log_probability.exp() * log_probability).sum(1).mean()
