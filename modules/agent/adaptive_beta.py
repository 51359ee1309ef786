"""A weight of the Bellman error that is learned, so that pessimism costs no more of it than a bound; experimental.

The critic's objective `L + beta E` is the Lagrangian of: minimise the pessimism `L` where the Bellman error `E` is at
most a bound. So the bound may be given in the place of beta, which then follows by dual ascent. An error has a scale of
its own, that of the rewards and of the noise in the data, so the bound is a multiple of the error that the warm start,
without pessimism, ends with. No source has this for ATAC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modules.agent.multiplier import LARGEST, Multiplier
from modules.agent.population import one_or_more
from modules.arguments.changed import no_effect
from modules.arguments.checks import check_group, check_ranges
from modules.networks.replicas import average_over_ranks

LEAST_BETA = 1e-3
"""Below it all is pessimism, and beta would take long to come back."""

AVERAGE_RATE = 0.01
"""Share of the newest update in the average of the warm start's error: the last hundred updates make it."""


@dataclass(frozen=True)
class AdaptiveBeta:
    """How much Bellman error pessimism may cost.

    Args:
        tolerance: bound of the critics' Bellman error, in multiples of the one that the warm start ends with, best
            above 1: `beta` is then where a learned weight starts, which grows while the error is above the bound and
            falls while it is below; null leaves beta as it is. Experimental.
        lr: Adam learning rate of the logarithm of beta; it says nothing without a tolerance.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `adaptive_beta.tolerance` and so on.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {"tolerance": "beta has been learned, or has not, under the one before"}

    tolerance: float | None = None
    lr: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse what is no bound."""
        check_group("adaptive_beta", self)
        check_ranges(("adaptive_beta.lr", self.lr, 0.0, 1e3))
        if self.tolerance is not None:
            check_ranges(("adaptive_beta.tolerance", self.tolerance, 1e-6, 1e6))

    def check(self, beta: Sequence[float], warm_updates: int, warm_critic: bool) -> None:
        """Refuse a bound that is never measured, or a start of beta outside of where it is learned.

        Args:
            beta: values that it starts from.
            warm_updates: updates of the warm start.
            warm_critic: whether the critics learn in it.

        Raises:
            ValueError: one of the two.
        """
        if self.tolerance is None:
            return
        if warm_updates == 0 or not warm_critic:
            raise ValueError(
                "adaptive_beta.tolerance multiplies the Bellman error that the warm start ends with: set "
                "warm_start.updates above 0 and warm_start.critic to true"
            )
        check_ranges(*(("beta, from which adaptive_beta starts,", x, LEAST_BETA, LARGEST) for x in beta))

    def refuse_other_start(self, old: Any, new: Any) -> None:
        """Refuse to start a beta that has been learned from elsewhere.

        Args:
            old: the argument `beta` of the checkpoint's run.
            new: the argument now.

        Raises:
            ValueError: they differ, and beta is learned.
        """
        if self.tolerance is not None and one_or_more(old) != one_or_more(new):
            raise ValueError(no_effect("model.beta", old, new, "it has been learned since, see adaptive_beta"))

    def make_bound(self, beta: Sequence[float], share: Tensor) -> BellmanBound | None:
        """The bound and its weight, with the arguments of `BellmanBound`; None without a tolerance."""
        if self.tolerance is None:
            return None
        return BellmanBound(self.tolerance, self.lr, beta, share)


class BellmanBound(nn.Module):
    """Keeps the Bellman error of `M` members' critics at a bound, by the weight that it has against pessimism.

    Args:
        tolerance: bound in multiples of the error that the warm start ends with.
        lr: Adam learning rate of the logarithm of beta.
        beta: values at the start, one per member.
        share: `[2, 1]` weight of each critic in the error: 0 for one that learns without pessimism.

    Attributes:
        settled: `[M]` moving average of the error in the warm start, over all ranks.
    """

    settled: Tensor
    updates: Tensor
    share: Tensor

    def __init__(self, tolerance: float, lr: float, beta: Sequence[float], share: Tensor) -> None:
        super().__init__()
        self.tolerance = tolerance
        self.multiplier = Multiplier(beta, lr, LEAST_BETA)
        self.register_buffer("settled", torch.zeros(len(beta)))
        self.register_buffer("updates", torch.tensor(0.0))
        self.register_buffer("share", share / share.sum(), persistent=False)

    def weigh(self, error: Tensor, warm_starting: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The weight of this update's error: as it starts in the warm start, then after a step of dual ascent.

        Args:
            error: `[2, M]` of the critics, detached.
            warm_starting: whether the critics learn without pessimism; the average is of these updates.

        Returns:
            `[M]` betas, and the metrics `beta` and `bellman_bound`, all detached.
        """
        error = (self.share * error).sum(0)
        if warm_starting:
            self._average(error)
        bound = self.tolerance * self.settled
        beta = self.multiplier.log_value.detach().exp() if warm_starting else self.multiplier.update(bound - error)
        return beta, {"beta": beta, "bellman_bound": bound}

    def _average(self, error: Tensor) -> None:
        (mean,) = average_over_ranks([error], [self.settled])
        self.updates += 1.0
        self.settled += (1.0 / self.updates).clamp(min=AVERAGE_RATE) * (mean - self.settled)
