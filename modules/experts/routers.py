"""Routers of a sparse mixture of experts: tokens in, (expert, weight) rows and balancing losses out.

Every router computes in float32 (float64 for float64 tokens), also under autocast: a rounded logit sends a token to
another expert. Letters as in `modules.experts.routing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.experts.router_base import Router, Routing, statistic_dtype
from modules.experts.routing import (
    bias_step,
    choice_weights,
    count_rows,
    expert_choice,
    expert_share,
    importance,
    noise_deviation,
    router_z_loss,
    switch_loss,
    threshold_rows,
    token_rows,
    top_indices,
    visit_probability,
)
from modules.functional.statistics import squared_variation
from modules.networks.passes import may_count, trains

EMPTY = -1e9  # logit of a place without expert: finite, so that differences of two of them are too


class NoisyChoice(NamedTuple):
    """Noisy top-k gating of the two halves of a gate's outputs.

    Attributes:
        chosen: `[N, k]` experts.
        weights: `[N, k]` softmax over the chosen logits.
        visits: `[N, E]` probability of a visit, for the smooth load; None without gradients.
    """

    chosen: Tensor
    weights: Tensor
    visits: Tensor | None


def choose_noisily(clean: Tensor, raw: Tensor, k: int, noise: bool) -> NoisyChoice:
    """The best k of `clean + normal * softplus(raw)`; of `clean` alone without noise."""
    balance = trains()
    deviation = noise_deviation(raw) if noise or balance else raw
    noisy = torch.addcmul(clean, torch.randn_like(clean), deviation) if noise else clean
    # One more than are chosen: the load's estimate asks for the best logit that is left out.
    ranking = top_indices(noisy, min(k + 1, clean.shape[1]) if balance else k)
    chosen = ranking[:, :k]
    visits = visit_probability(clean, noisy, deviation, ranking, k) if balance else None
    return NoisyChoice(chosen, choice_weights(noisy, chosen), visits)


class NoisyTopK(Router):
    """Noisy top-k gating with importance and load losses (Shazeer et al. 2017, sections 2.1 and 4, appendix A)."""

    LOSSES: ClassVar[dict[str, float]] = {"importance": 0.1, "load": 0.1}

    def __init__(self, d_in: int, num_experts: int, k: int) -> None:
        super().__init__(d_in, num_experts, k, outputs=2)

    def forward(self, x: Tensor, noise: bool) -> Routing:
        """Route with the gate's learned noise, or without."""
        clean, raw = self.gate(x).chunk(2, 1)
        chosen, weights, visits = choose_noisily(clean, raw, self.k, noise)
        rows = token_rows(chosen, weights)
        losses = {}
        if visits is not None:
            losses["importance"] = squared_variation(importance(rows, self.num_experts))
            losses["load"] = squared_variation(visits.sum(0))
        return Routing(rows, clean, losses)


class TopK(Router):
    """The k largest logits, balanced by the Switch loss and kept small by the z-loss (Fedus 2021, Zoph 2022)."""

    LOSSES: ClassVar[dict[str, float]] = {"load_balance": 0.01, "router_z": 0.001}

    def forward(self, x: Tensor, noise: bool) -> Routing:
        """Route without noise."""
        logits = self.gate(x)
        chosen = top_indices(logits, self.k)
        rows = token_rows(chosen, choice_weights(logits, chosen))
        losses = {}
        if trains():
            counts = count_rows(rows.expert, self.num_experts)[:-1]
            losses = {"load_balance": switch_loss(logits, counts), "router_z": router_z_loss(logits)}
        return Routing(rows, logits, losses)


class BiasBalanced(Router):
    """Sigmoid scores plus a bias that evens out the load without any loss (Wang et al. 2024, DeepSeek-V3).

    The bias takes part in the choice only; weights are the scores, normalised over the chosen experts.

    Args:
        d_in: width of a token.
        num_experts: `E`.
        k: experts per token.
        rate: step of the bias after each optimiser step.
    """

    bias: Tensor

    def __init__(self, d_in: int, num_experts: int, k: int, rate: float = 1e-3) -> None:
        super().__init__(d_in, num_experts, k)
        self.rate = rate
        self.register_buffer("bias", torch.zeros(num_experts, dtype=statistic_dtype()))

    def forward(self, x: Tensor, noise: bool) -> Routing:
        """Route without noise."""
        logits = self.gate(x)
        scores = logits.sigmoid()
        chosen = top_indices(scores + self.bias, self.k)
        weights = scores.gather(1, chosen)
        if self.k > 1:
            weights = weights / weights.sum(1, keepdim=True)
        return Routing(token_rows(chosen, weights), logits, {})

    @torch.no_grad()
    def rebalance(self, counts: Tensor) -> None:
        """Move the bias by one step, by the `[E]` rows that the experts of all ranks got since the last one."""
        self.bias += bias_step(counts, self.rate)

    def keep(self, kept: Tensor, optimizers: Iterable[Optimizer] = ()) -> None:
        """Forget all experts but these."""
        super().keep(kept, optimizers)
        self.bias = self.bias[kept]


class ExpertChoice(Router):
    """Every expert takes its best tokens of the batch (Zhou et al. 2022; Shazeer et al. 2017, appendix F).

    A choice among the tokens of a batch makes a token's output depend on its neighbours. It is made in training passes
    only, those with gradients; without them each expert takes every token that scores above its own threshold, a
    running mean of the lowest score that it took in training.

    Args:
        d_in: width of a token.
        num_experts: `E`.
        k: mean number of experts per token.
        decay: decay of the running mean.
    """

    thresholds: Tensor

    def __init__(self, d_in: int, num_experts: int, k: int, decay: float = 0.99) -> None:
        super().__init__(d_in, num_experts, k)
        self.decay = decay
        self.register_buffer("thresholds", torch.full((num_experts,), math.nan, dtype=statistic_dtype()))

    def forward(self, x: Tensor, noise: bool) -> Routing:
        """Route without noise; thresholds are learned while `training`."""
        logits = self.gate(x)
        scores = logits.softmax(1)
        if not (self.training and trains()) or x.shape[0] == 0:
            # Before any training an expert takes what is above the even share of `k` in `E`.
            even = torch.topk(scores, self.k, dim=1).values[:, -1:]
            return Routing(
                threshold_rows(scores, torch.where(self.thresholds.isnan(), even, self.thresholds)), logits, {}
            )
        rows, lowest = expert_choice(scores, expert_share(x.shape[0], self.num_experts, self.k))
        if may_count():
            with torch.no_grad():
                moved = torch.lerp(lowest.to(self.thresholds.dtype), self.thresholds, self.decay)
                self.thresholds.copy_(torch.where(self.thresholds.isnan(), lowest, moved))
        return Routing(rows, logits, {})

    def keep(self, kept: Tensor, optimizers: Iterable[Optimizer] = ()) -> None:
        """Forget all experts but these."""
        super().keep(kept, optimizers)
        self.thresholds = self.thresholds[kept]


class Soft(Router):
    """Every expert for every token, softmax weights: the dense mixture that sparse ones approximate."""

    def __init__(self, d_in: int, num_experts: int, k: int) -> None:
        super().__init__(d_in, num_experts, num_experts)

    def forward(self, x: Tensor, noise: bool) -> Routing:
        """Route everything everywhere."""
        logits = self.gate(x)
        chosen = torch.arange(self.num_experts, device=x.device).expand(x.shape[0], -1)
        return Routing(token_rows(chosen, logits.softmax(1)), logits, {})


class Hierarchical(Router):
    """Two levels of noisy top-k gating: groups first, then experts within each chosen group (appendix B).

    Args:
        d_in: width of a token.
        num_experts: `E` over all groups, group by group.
        k: experts per token, a multiple of `k_groups`.
        groups: number of groups, a divisor of `E`.
        k_groups: groups per token.

    Raises:
        ValueError: groups that cannot hold the experts, or the choice.
    """

    LOSSES: ClassVar[dict[str, float]] = {"importance": 0.1, "load": 0.1}
    group: Tensor
    table: Tensor

    def __init__(self, d_in: int, num_experts: int, k: int, groups: int, k_groups: int) -> None:
        if not 0 < groups <= num_experts or num_experts % groups:
            raise ValueError(f"groups must divide num_experts={num_experts}, got {groups}")
        if not 0 < k_groups <= groups or k % k_groups or k // k_groups > num_experts // groups:
            raise ValueError(
                f"k must be k_groups (1 to {groups}) times the experts per group (1 to {num_experts // groups}), "
                f"got k={k}, k_groups={k_groups}"
            )
        super().__init__(d_in, num_experts, k, outputs=2)
        self.k_within = k // k_groups
        self.primary = NoisyTopK(d_in, groups, k_groups)
        self.register_buffer("group", torch.arange(num_experts) // (num_experts // groups))
        self._tabulate()
        self.register_load_state_dict_post_hook(_tabulate_anew)

    def _tabulate(self) -> None:
        """`[G, S]` experts of each group; pruning makes groups of different sizes, filled up with `E`."""
        members = [(self.group == g).nonzero().squeeze(1) for g in range(self.primary.num_experts)]
        table = nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=self.num_experts)
        self.register_buffer("table", table, persistent=False)
        self.k_within = min(self.k_within, table.shape[1])
        self.k = self.primary.k * self.k_within

    def forward(self, x: Tensor, noise: bool) -> Routing:
        """Weights are products of both levels; a group with too few experts leaves rows without an expert."""
        group_logits, group_raw = self.primary.gate(x).chunk(2, 1)
        clean, raw = self.gate(x).chunk(2, 1)
        groups = choose_noisily(group_logits, group_raw, self.primary.k, noise)
        candidates = self.table[groups.chosen].flatten(0, 1)  # [N * k_groups, S] experts
        within = choose_noisily(
            self._gather(clean, candidates, EMPTY), self._gather(raw, candidates, 0.0), self.k_within, noise
        )
        expert = candidates.gather(1, within.chosen)
        weight = within.weights * groups.weights.reshape(-1, 1)
        rows = token_rows(expert.view(-1, self.k), weight.view(-1, self.k))
        rows = rows._replace(complete=self.table.numel() == self.num_experts)
        losses = {}
        if groups.visits is not None and within.visits is not None:
            losses["importance"] = squared_variation(importance(rows, self.num_experts))
            losses["load"] = squared_variation(self._load(groups, within.visits, candidates))
        # Logits over all experts whose softmax is the product of both levels: p(group) p(expert | group).
        members = clean.detach().new_full((x.shape[0], 1), EMPTY)
        members = torch.cat([clean.detach(), members], 1)[:, self.table.flatten()].unflatten(1, self.table.shape)
        share = group_logits.detach().log_softmax(1) - members.logsumexp(2)
        return Routing(rows, clean.detach() + share[:, self.group], losses)

    def _load(self, groups: NoisyChoice, visits: Tensor, candidates: Tensor) -> Tensor:
        """`[E]` product of a group's load and the mean visits of its expert by the tokens that chose the group."""
        assert groups.visits is not None
        total = visits.new_zeros(self.num_experts + 1).index_add(0, candidates.flatten(), visits.flatten())
        tokens = count_rows(groups.chosen.flatten(), self.primary.num_experts)[:-1].clamp(min=1)
        return (groups.visits.sum(0) / tokens)[self.group] * total[:-1]

    def _gather(self, values: Tensor, candidates: Tensor, empty: float) -> Tensor:
        """`[N, E]` values at `[N * k_groups, S]` experts, `empty` where there is none."""
        padded = torch.cat([values, values.new_full((values.shape[0], 1), empty)], 1)
        return padded.repeat_interleave(self.primary.k, 0).gather(1, candidates)

    def keep(self, kept: Tensor, optimizers: Iterable[Optimizer] = ()) -> None:
        """Forget all experts but these, and groups that become empty."""
        optimizers = list(optimizers)
        super().keep(kept, optimizers)
        groups, self.group = torch.unique(self.group[kept], return_inverse=True)
        self.primary.keep(groups, optimizers)
        self._tabulate()

    def room_for(self, number: int, state: Mapping[str, Any], prefix: str) -> Tensor:
        """As many experts of each group as the saved router has.

        Raises:
            ValueError: its groups are more or larger than the own ones.
        """
        saved, own = (group.bincount().tolist() for group in (state[f"{prefix}group"], self.group))
        if len(saved) > len(own) or any(s > o for s, o in zip(saved, own, strict=False)):
            raise ValueError(f"the state holds groups of {saved} experts, this layer of {own}: set num_experts, groups")
        return torch.cat([(self.group == g).nonzero().squeeze(1)[:size] for g, size in enumerate(saved)])


def _tabulate_anew(router: Hierarchical, _: Any) -> None:
    """Follow the groups that were loaded."""
    router._tabulate()


ROUTERS: dict[str, type[Router]] = {
    "noisy_top_k": NoisyTopK,
    "top_k": TopK,
    "bias_balanced": BiasBalanced,
    "expert_choice": ExpertChoice,
    "hierarchical": Hierarchical,
    "soft": Soft,
}
