"""How a search chooses slots, and what it concludes: pUCT with Dirichlet noise, or Gumbel with sequential halving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.arguments.checks import check_group, check_positive, check_ranges, check_sizes
from modules.search.halving import visits_table
from modules.search.nodes import Nodes
from modules.search.normalisation import by_siblings, by_tree, completed


class Plan(NamedTuple):
    """All that a rule fixes for one search.

    Attributes:
        log_prior: `[B, K]` of the root, with noise where the rule has it there.
        gumbel: `[K, B]` draws of the root; None without.
        schedule: `[S + 1, B]` number of visits that a slot of the root must have to be tried, by the visits of all;
            None without.
    """

    log_prior: Tensor
    gumbel: Tensor | None = None
    schedule: Tensor | None = None


class Conclusion(NamedTuple):
    """Chosen slots `[B]`, the policy to learn from `[B, K]`, and the logarithm `[B]` of the choice's probability."""

    slot: Tensor
    target: Tensor
    log_prob: Tensor


@dataclass(frozen=True)
class PUCT:
    """MuZero's rule (Schrittwieser et al. 2020, appendix B): visits in proportion to prior and value.

    Deviations: `sqrt` and logarithm are of a node's own visits, one more than those of its slots, as in mctx, so that
    the prior acts on the first visit.

    Args:
        c1: weight of the prior.
        c2: number of visits after which that weight rises.
        dirichlet_alpha: of the noise; 0.25 for Atari, 0.3, 0.15 and 0.03 for chess, shogi and Go.
        dirichlet_share: of the noise in the root's prior; 0 is none, whatever its alpha.
        temperature: of the chosen action, which is drawn by visits to the power of its inverse; 0 takes the most
            visited one.
        normalisation: of mean returns: by a node and its slots, or by the whole tree, whose nodes are then all scored
            anew by each simulation.
        least_range: divisor of mean returns at least; EfficientZero's is 0.01.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `search.rule.c1` and so on.
    """

    c1: float = 1.25
    c2: float = 19652.0
    dirichlet_alpha: float = 0.3
    dirichlet_share: float = 0.25
    temperature: float = 1.0
    normalisation: Literal["siblings", "tree"] = "siblings"
    least_range: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse what no search can use."""
        check_group("search.rule", self)
        check_positive(**{"search.rule.c2": self.c2, "search.rule.least_range": self.least_range})
        check_positive(**{"search.rule.dirichlet_alpha": self.dirichlet_alpha})
        check_ranges(
            ("search.rule.c1", self.c1, 0.0, 1e6),
            ("search.rule.dirichlet_share", self.dirichlet_share, 0.0, 1.0),
            ("search.rule.temperature", self.temperature, 0.0, 1e6),
        )

    @property
    def tree_wide(self) -> bool:
        """Whether a score depends on more than its node."""
        return self.normalisation == "tree"

    def timetable(self, slots: int, simulations: int, dtype: torch.dtype, device: torch.device) -> None:
        """There is no order of visits."""

    def prepare(self, log_prior: Tensor, valid: Tensor, noise: Tensor | None, timetable: Tensor | None) -> Plan:
        """Mix Dirichlet draws `[B, K]` into the root's prior; they are 0 where a slot is not valid."""
        if noise is None:
            return Plan(log_prior)
        mixed = (1.0 - self.dirichlet_share) * log_prior.exp() + self.dirichlet_share * noise
        least = torch.finfo(mixed.dtype).tiny
        return Plan(torch.where(valid, mixed.clamp(min=least).log(), log_prior))

    def scores(self, nodes: Nodes, plan: Plan) -> Tensor:
        """`[K, R, B]` of which the greatest is followed."""
        normalise = by_tree if self.tree_wide else by_siblings
        own = 1.0 + nodes.total
        weight = own.sqrt() * (self.c1 + torch.log((own + self.c2 + 1.0) / self.c2))
        return normalise(nodes, self.least_range) + nodes.log_prior.exp() * weight / (1.0 + nodes.visits)

    def conclude(self, root: Nodes, plan: Plan, noise: Tensor | None) -> Conclusion:
        """Choose among roots `[K, 1, B]` by visits; a row that was never searched goes by its prior."""
        visits, valid = by_row(root.visits), by_row(root.valid)
        known = visits.sum(-1, keepdim=True) > 0
        target = torch.where(known, visits / visits.sum(-1, keepdim=True).clamp(min=1.0), plan.log_prior.exp()) * valid
        slot, log_prob = sample_by_visits(target, self.temperature if noise is not None else 0.0, noise)
        return Conclusion(slot, target, log_prob)


@dataclass(frozen=True)
class Gumbel:
    """Gumbel MuZero (Danihelka et al. 2022): sequential halving at the root, and completed values everywhere.

    It improves the policy with as few as two simulations, and has no noise to be tuned.

    Args:
        considered: slots that are tried at the root at most.
        scale: of the Gumbel noise.
        value_scale: `c_scale`, the weight of returns against logits; the paper's is 1 for board games.
        visit_offset: `c_visit`.
        rescale: whether returns are brought to [0, 1] over the slots of a node first; without it, `value_scale` must
            suit the scale of returns.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `search.rule.scale` and so on.
    """

    considered: int = 16
    scale: float = 1.0
    value_scale: float = 0.1
    visit_offset: float = 50.0
    rescale: bool = True

    tree_wide = False

    def __post_init__(self) -> None:
        """Refuse what no search can use."""
        check_group("search.rule", self)
        check_sizes(**{"search.rule.considered": self.considered})
        check_positive(**{"search.rule.value_scale": self.value_scale})
        check_ranges(
            ("search.rule.scale", self.scale, 0.0, 1e6), ("search.rule.visit_offset", self.visit_offset, 0.0, 1e6)
        )

    def timetable(self, slots: int, simulations: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """`[X, S + 1]` visits that each halving asks for, by the number of valid slots up to `X - 1`."""
        return visits_table(min(self.considered, slots), simulations, dtype, device)

    def prepare(self, log_prior: Tensor, valid: Tensor, noise: Tensor | None, timetable: Tensor | None) -> Plan:
        """Fix Gumbel draws `[B, K]`, and how many visits each halving asks for in rows of so many valid slots."""
        assert timetable is not None, "a search by Gumbel has its timetable"
        schedule = timetable[valid.sum(-1).clamp(max=len(timetable) - 1)]
        gumbel = torch.zeros_like(log_prior) if noise is None else self.scale * noise
        return Plan(log_prior, gumbel.t().contiguous(), schedule.t().contiguous())

    def scores(self, nodes: Nodes, plan: Plan) -> Tensor:
        """`[K, R, B]` of which the greatest is followed; the root has a rule of its own, and is the first node."""
        assert plan.schedule is not None, "a search by Gumbel has a schedule"
        total = nodes.total
        logits = nodes.log_prior + self._sigma(nodes)
        improved = logits.softmax(0) - nodes.visits / (1.0 + total)
        considered = plan.schedule.gather(0, total[:1].long())
        return torch.where(nodes.root, self._root_scores(logits, nodes.visits, considered, plan), improved)

    def conclude(self, root: Nodes, plan: Plan, noise: Tensor | None) -> Conclusion:
        """Choose the best of the most visited slots of roots `[K, 1, B]`; learn from the improved policy."""
        logits, valid = root.log_prior + self._sigma(root), by_row(root.valid)
        scores = by_row(self._root_scores(logits, root.visits, root.visits.amax(0), plan))
        slot = scores.masked_fill(~valid, -torch.inf).argmax(-1)
        target = by_row(logits).softmax(-1) * valid
        chosen = target.gather(1, slot.unsqueeze(1)).squeeze(1)
        drawn = torch.where(valid.any(-1), chosen.clamp(min=torch.finfo(target.dtype).tiny).log(), 0.0)
        return Conclusion(slot, target, torch.zeros_like(drawn) if noise is None else drawn)

    def _sigma(self, nodes: Nodes) -> Tensor:
        return completed(nodes, self.value_scale, self.visit_offset, self.rescale)

    def _root_scores(self, logits: Tensor, visits: Tensor, considered: Tensor, plan: Plan) -> Tensor:
        """`[K, R, B]` of slots with as many visits as are `considered` `[1, B]`; minus infinity elsewhere."""
        assert plan.gumbel is not None, "a search by Gumbel has its draws"
        return torch.where(visits == considered, (plan.gumbel.unsqueeze(1) + logits).clamp(min=-1e9), -torch.inf)


def by_row(roots: Tensor) -> Tensor:
    """`[B, K]` of what is known of the slots of roots `[K, 1, B]`."""
    return roots.squeeze(1).t().contiguous()


def sample_by_visits(target: Tensor, temperature: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """A slot drawn by visit probabilities to the power of an inverse temperature.

    Args:
        target: `[B, K]` visits, or their share.
        temperature: 0 takes the most visited slot.
        noise: `[B, K]` Gumbel draws; None likewise takes the most visited slot.

    Returns:
        int64 `[B]` slot, and `[B]` logarithm of its probability.
    """
    if temperature == 0.0 or noise is None:
        slot = target.argmax(-1)
        return slot, torch.zeros_like(target[:, 0])
    logits = (target / target.amax(-1, keepdim=True).clamp(min=torch.finfo(target.dtype).tiny)).log() / temperature
    some = target.amax(-1, keepdim=True) > 0
    logits = torch.where(some, logits, 0.0).log_softmax(-1)
    slot = torch.where(some, logits + noise, 0.0).argmax(-1)
    return slot, torch.where(some.squeeze(1), logits.gather(1, slot.unsqueeze(1)).squeeze(1), 0.0)


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel draws in the shape of a tensor."""
    device = like.device if generator is None else generator.device
    drawn = torch.empty(like.shape, dtype=like.dtype, device=device).exponential_(generator=generator)
    return -drawn.clamp(min=torch.finfo(like.dtype).tiny).log().to(like.device)
