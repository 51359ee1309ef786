"""Targets of values for planning agents, from sequences of single episodes, time-major.

Row `i` holds an observation, the action that led to it, and the reward that was received on arriving there. The targets
of values differ in what they believe: rewards of a fixed number of steps, of fewer the older a sequence is, of all
steps with weights, those that the present policy would have taken too, or what a search has found. Each is a class
that a configuration can name: called with the rows it gives the targets, and `horizon` says how many steps of the data
are in them. Letters: `L` rows, `U` unrolled steps, `B` sequences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.arguments.checks import check_counts, check_group, check_ranges, check_sizes
from modules.functional.returns import discount_unless_terminal, lambda_returns, n_step_returns, vtrace


class ValueRows(NamedTuple):
    """Sequences of which the values of the first `U + 1` rows are to be learned, with padding behind their ends.

    Attributes:
        reward: `[L, B]` received on arriving at a row.
        terminated: `[L, B]` bool, the row is a terminal state: nothing follows.
        padding: `[L, B]` bool, the row lies behind the end of the episode.
        value: `[L, B]` of each row, by a target network.
        search_value: `[L, B]` of each row, by a search; anything where there was none.
        searched: `[L, B]` bool, whether a search has found something there.
        log_ratio: `[L - 1, B]` logarithm of the probability of the action that followed a row, under the policy that is
            judged, less that under which it was taken; 0 where this is not known. Padding does not matter.
        discount: of a step; negative, if two players move in turn, whose gains are each other's losses.
        age: `[B]` transitions that came since the sequence did.
        unroll: `U`, less than `L - 1`.
        updates: int64 scalar, that the agent has made so far.
    """

    reward: Tensor
    terminated: Tensor
    padding: Tensor
    value: Tensor
    search_value: Tensor
    searched: Tensor
    log_ratio: Tensor
    discount: float
    age: Tensor
    unroll: int
    updates: Tensor


class ValueTarget(ABC):
    """Makes the targets of values.

    An argument `Callable[[], ValueTarget]` takes any subclass and any `functools.partial` of one; in YAML, its
    `class_path` and `init_args`.
    """

    @abstractmethod
    def __call__(self, rows: ValueRows) -> Tensor:
        """Targets `[U + 1, B]`; 0 in padding and in terminal states."""

    @abstractmethod
    def horizon(self, rows: ValueRows) -> Tensor:
        """Number `[U + 1, B]` of steps of the data that the targets hold, each by the weight of its error in them."""

    @property
    def steps(self) -> int:
        """Rows behind the last unrolled one that are needed."""
        return 1


class _Steps(NamedTuple):
    """Steps between rows as returns see them: behind the end of its episode a row goes on as the last one.

    Attributes:
        reward: `[L - 1, B]`; 0 behind the end.
        discount: `[L - 1, B]` of what follows; 0 into a terminal state, 1 behind the end.
        value: `[L, B]`; that of the last row behind the end, so that it counts where the episode was cut.
        follows: `[L - 1, B]` bool, the step was taken.
    """

    reward: Tensor
    discount: Tensor
    value: Tensor
    follows: Tensor


def _steps(rows: ValueRows) -> _Steps:
    follows = ~rows.padding[1:]
    alive = discount_unless_terminal(rows.discount, rows.terminated[1:])
    last = torch.minimum(torch.arange(len(rows.value), device=rows.value.device).unsqueeze(1), follows.sum(0))
    value = torch.where(rows.terminated, 0.0, rows.value).gather(0, last)
    return _Steps(torch.where(follows, rows.reward[1:], 0.0), torch.where(follows, alive, 1.0), value, follows)


def _of_unrolled(rows: ValueRows, found: Tensor) -> Tensor:
    """The first `U + 1` of `[T, B]` numbers, 0 in padding."""
    count = rows.unroll + 1
    return torch.where(rows.padding[:count], 0.0, found[:count])


def _n_step(rows: ValueRows, n: int) -> Tensor:
    """Targets `[U + 1, B]` of `n` steps."""
    steps = _steps(rows)
    return _of_unrolled(rows, n_step_returns(steps.reward, steps.discount, steps.value, n))


def _n_step_horizon(rows: ValueRows, n: int) -> Tensor:
    """Steps `[U + 1, B]` of the data that they hold: `n`, or those that are left."""
    steps = _steps(rows)
    left = steps.follows.flip(0).cumsum(0).flip(0)
    return _of_unrolled(rows, left.clamp_max(n).to(steps.value))


def _weights_of_errors(follows: Tensor, first: Tensor, carry: Tensor) -> Tensor:
    """`[T, B]` sums of the weights of the steps from each row on: `first` of the next step, that of each later one
    `first` there times `carry` of all before it; steps that were not taken have none.
    """
    total, sums = torch.zeros_like(first[0]), []
    for one, share, taken in zip(*(reversed(x.unbind()) for x in (first, carry, follows)), strict=True):
        total = torch.where(taken, one + share * total, 0.0)
        sums.append(total)
    return torch.stack(sums[::-1])


@dataclass(frozen=True)
class NStep(ValueTarget):
    """Rewards of `n` steps and the value of where they lead, as in MuZero (Schrittwieser et al. 2020).

    Within `n` steps of the end of the rows, the return is that of the steps that are left.

    Args:
        n: number of steps.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `value_target.n`.
    """

    n: int = 10

    def __post_init__(self) -> None:
        """Refuse what is no number of steps."""
        check_group("value_target", self)
        check_sizes(**{"value_target.n": self.n})

    @property
    def steps(self) -> int:
        """Rows behind the last unrolled one that are needed."""
        return self.n

    def __call__(self, rows: ValueRows) -> Tensor:
        """Targets `[U + 1, B]`."""
        return _n_step(rows, self.n)

    def horizon(self, rows: ValueRows) -> Tensor:
        """Steps of the data, `[U + 1, B]`."""
        return _n_step_horizon(rows, self.n)


@dataclass(frozen=True)
class DynamicHorizon(ValueTarget):
    """Rewards of fewer steps the older a sequence is: the off-policy correction of EfficientZero (Ye et al. 2021).

    Its number is `n - floor(age / shrink_every)`, but at least 1.

    Args:
        n: number of steps of new sequences.
        shrink_every: transitions after which a sequence has one step less; 30,000 for 100,000 steps of Atari.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `value_target.n` and so on.
    """

    n: int = 5
    shrink_every: int = 30_000

    def __post_init__(self) -> None:
        """Refuse what is no number of steps."""
        check_group("value_target", self)
        check_sizes(**{"value_target.n": self.n, "value_target.shrink_every": self.shrink_every})

    @property
    def steps(self) -> int:
        """Rows behind the last unrolled one that are needed."""
        return self.n

    def __call__(self, rows: ValueRows) -> Tensor:
        """Targets `[U + 1, B]`."""
        return self._chosen(rows, [_n_step(rows, n) for n in range(1, self.n + 1)])

    def horizon(self, rows: ValueRows) -> Tensor:
        """Steps of the data, `[U + 1, B]`."""
        return self._chosen(rows, [_n_step_horizon(rows, n) for n in range(1, self.n + 1)])

    def _chosen(self, rows: ValueRows, by_steps: list[Tensor]) -> Tensor:
        index = (self.n - 1 - rows.age // self.shrink_every).clamp_min(0)
        return torch.stack(by_steps).gather(0, index.expand(1, len(by_steps[0]), -1)).squeeze(0)


@dataclass(frozen=True)
class TDLambda(ValueTarget):
    """Exponentially weighted mean of the returns of all numbers of steps, see `lambda_returns`.

    Args:
        lambda_: 0 for one step, 1 for all rows that a sequence has.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `value_target.lambda_`.
    """

    lambda_: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        check_group("value_target", self)
        check_ranges(("value_target.lambda_", self.lambda_, 0.0, 1.0))

    def __call__(self, rows: ValueRows) -> Tensor:
        """Targets `[U + 1, B]`."""
        steps = _steps(rows)
        return _of_unrolled(rows, lambda_returns(steps.reward, steps.discount, steps.value, self.lambda_))

    def horizon(self, rows: ValueRows) -> Tensor:
        """Steps of the data, `[U + 1, B]`: the sum of `lambda ** k` over those that are left."""
        steps = _steps(rows)
        ones, carry = torch.ones_like(steps.reward), torch.full_like(steps.reward, self.lambda_)
        return _of_unrolled(rows, _weights_of_errors(steps.follows, ones, carry))


@dataclass(frozen=True)
class VTrace(ValueTarget):
    """Returns of all steps, cut where the policy would hardly have acted so, see `vtrace` (Espeholt et al. 2018).

    Where the policy still is the one that acted and `lambda_` is 1, it is the return of as many steps as there are.

    Args:
        lambda_: share of the later steps that counts.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `value_target.lambda_`.
    """

    lambda_: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        check_group("value_target", self)
        check_ranges(("value_target.lambda_", self.lambda_, 0.0, 1.0))

    def __call__(self, rows: ValueRows) -> Tensor:
        """Targets `[U + 1, B]`."""
        steps = _steps(rows)
        return _of_unrolled(
            rows, vtrace(steps.reward, steps.discount, steps.value, self._clipped(rows, steps), self.lambda_)
        )

    def horizon(self, rows: ValueRows) -> Tensor:
        """Steps of the data, `[U + 1, B]`: each by the ratios up to it."""
        steps = _steps(rows)
        rho = self._clipped(rows, steps)
        return _of_unrolled(rows, _weights_of_errors(steps.follows, rho, self.lambda_ * rho))

    def _clipped(self, rows: ValueRows, steps: _Steps) -> Tensor:
        """`[L - 1, B]` ratios of probabilities, at most 1, which cannot overflow; 1 behind the end."""
        return torch.where(steps.follows, rows.log_ratio, 0.0).clamp_max(0.0).exp()


class SearchValue(ValueTarget):
    """Findings of a search; where there was none, the return of as many steps as there are behind the unrolled ones."""

    def __call__(self, rows: ValueRows) -> Tensor:
        """Targets `[U + 1, B]`."""
        return torch.where(_found(rows), rows.search_value[: rows.unroll + 1], _n_step(rows, _behind(rows)))

    def horizon(self, rows: ValueRows) -> Tensor:
        """Steps of the data, `[U + 1, B]`: none where there was a search."""
        return torch.where(_found(rows), 0.0, _n_step_horizon(rows, _behind(rows)))


def _found(rows: ValueRows) -> Tensor:
    return (rows.searched & ~rows.padding & ~rows.terminated)[: rows.unroll + 1]


def _behind(rows: ValueRows) -> int:
    return len(rows.reward) - 1 - rows.unroll


class Mixed(ValueTarget):
    """Returns for what is new, and for all while the agent is young, what a search has found otherwise.

    As in EfficientZero V2 (Wang et al. 2024): searches of old data are made anew by the present model, so that they are
    better than what old policies did; of an agent that knows nothing they are worth nothing.

    Args:
        young_below: age from which a sequence is old, in transitions; the paper's is 5,000 to 20,000.
        first_updates: updates before which all sequences are young; the paper's are 30,000 to 40,000.
        young: target of the young ones.

    Raises:
        ValueError: a number is negative.
    """

    def __init__(
        self, young_below: int = 20_000, first_updates: int = 0, young: Callable[[], ValueTarget] = NStep
    ) -> None:
        check_counts(0, **{"value_target.young_below": young_below, "value_target.first_updates": first_updates})
        self.young_below = young_below
        self.first_updates = first_updates
        self.young = young()
        self.old = SearchValue()

    @property
    def steps(self) -> int:
        """Rows behind the last unrolled one that are needed."""
        return self.young.steps

    def __call__(self, rows: ValueRows) -> Tensor:
        """Targets `[U + 1, B]`."""
        return torch.where(self._are_young(rows), self.young(rows), self.old(rows))

    def horizon(self, rows: ValueRows) -> Tensor:
        """Steps of the data, `[U + 1, B]`."""
        return torch.where(self._are_young(rows), self.young.horizon(rows), self.old.horizon(rows))

    def _are_young(self, rows: ValueRows) -> Tensor:
        return (rows.age < self.young_below) | (rows.updates < self.first_updates)
