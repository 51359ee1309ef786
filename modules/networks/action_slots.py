"""How a node of a search gets its slots: all numbered actions, or some that are drawn from the policy.

Letters: `B` rows, `K` slots of a node, `A` width of an action as the model sees it, `S` width of the actor's
statistics.

A search knows actions by what stands in its slots, a model by `A` floats, an environment by its own space:
`model_action` leads from the first to the second, the actor's `decode` on to the third.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modules.arguments.checks import check_positive, check_ranges, check_sizes
from modules.functional.gradient_estimators import one_hot
from modules.functional.proposals import distinct_proposal, gaussian_proposal
from modules.networks.actor_base import Actor
from modules.networks.actors import DiscreteActor, TanhNormalActor


class Slots(NamedTuple):
    """The slots of some nodes, for `Root` and `Step` of a search.

    Attributes:
        logits: `[B, K]` of the prior over the slots.
        actions: int64 `[B, K]` or floats `[B, K, A]`; None where the slot's number is the action.
        valid: bool `[B, K]`, whether a slot may be chosen; None, if all may.
    """

    logits: Tensor
    actions: Tensor | None
    valid: Tensor | None


class ActionSlots(ABC):
    """Slots by the statistics of a policy.

    Attributes:
        actor: the policy whose statistics are read; none of its parameters are used.
        count: number `K` of slots.
        shape: of an action in a slot, `()` or `(A,)`; None, if slots are actions.

    Args:
        actor: the policy.
        count: number `K` of slots.
        shape: of an action in a slot; None, if slots are actions.

    Raises:
        ValueError: no slots.
    """

    def __init__(self, actor: Actor, count: int, shape: tuple[int, ...] | None) -> None:
        check_sizes(slots=count)
        self.actor = actor
        self.count = count
        self.shape = shape

    @abstractmethod
    def noise(
        self, rows: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Draw the noise that `slots` needs for `B` rows, `[B, ...]`; None where nothing is drawn."""

    @abstractmethod
    def slots(self, stats: Tensor, noise: Tensor | None, valid: Tensor | None = None) -> Slots:
        """The slots of nodes.

        Args:
            stats: `[B, S]` of the actor.
            noise: of `noise`.
            valid: bool `[B, A]`, numbered actions that may be taken; None for all.

        Raises:
            ValueError: actions are no numbered ones, and yet some may not be taken.
        """

    @abstractmethod
    def log_prob(self, stats: Tensor, actions: Tensor | None) -> Tensor:
        """Log-probability, or density, that the policy gives the actions of slots: `[..., K]`.

        Args:
            stats: `[..., S]` of the actor, with a gradient where the policy is to learn.
            actions: `[..., K]` or `[..., K, A]` of the slots, numbers as floats too; None where slots are actions.
        """

    @abstractmethod
    def model_action(self, action: Tensor) -> Tensor:
        """Actions of a search, `[...]` numbers or `[..., A]`, as the model sees them: `[..., A]` floats."""


class NumberedSlots(ActionSlots):
    """A slot for every action of a Discrete space: the slot's number is the action, counted from 0.

    Args:
        actor: policy of a Discrete space.

    Raises:
        ValueError: the policy is of another space.
    """

    def __init__(self, actor: Actor) -> None:
        check_numbered(actor, "a slot for every action")
        super().__init__(actor, actor.width, None)

    def noise(
        self, rows: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Nothing is drawn."""

    def slots(self, stats: Tensor, noise: Tensor | None, valid: Tensor | None = None) -> Slots:
        """The policy itself, with the mask of actions as that of slots."""
        return Slots(stats, None, valid)

    def log_prob(self, stats: Tensor, actions: Tensor | None) -> Tensor:
        """The policy's log-probabilities, `[..., A]`."""
        return stats

    def model_action(self, action: Tensor) -> Tensor:
        """Numbers `[...]` to one-hot vectors `[..., A]`."""
        return one_hot(action.long(), torch.empty(self.actor.width, device=action.device))


class DistinctSlots(ActionSlots):
    """Different actions of a Discrete space that has too many, drawn from the policy without replacement.

    Actions that may not be taken come last, and their slots are not valid.

    Args:
        actor: policy of a Discrete space.
        count: number `K` of slots, at most that of actions.

    Raises:
        ValueError: the policy is of another space, or there are no slots, or more than actions.
    """

    def __init__(self, actor: Actor, count: int = 16) -> None:
        check_numbered(actor, "drawing different actions")
        if count > actor.width:
            raise ValueError(
                f"{count} slots of different actions are more than the {actor.width} actions: set "
                f"model.slots.init_args.count to {actor.width} or less, or leave model.slots out for all of them"
            )
        super().__init__(actor, count, ())

    def noise(
        self, rows: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform draws `[B, A]`, never 0."""
        drawn = torch.rand(rows, self.actor.width, device=device, generator=generator)
        return drawn.clamp(min=torch.finfo(drawn.dtype).tiny)

    def slots(self, stats: Tensor, noise: Tensor | None, valid: Tensor | None = None) -> Slots:
        """`[B, K]` different numbers, with the policy's own logits."""
        assert noise is not None
        logits = stats if valid is None else stats.masked_fill(~valid, -torch.inf)
        actions, prior = distinct_proposal(logits, self.count, -(-noise.log()).log())
        if valid is None:
            return Slots(prior, actions, None)
        allowed = valid.gather(-1, actions)
        return Slots(stats.gather(-1, actions), actions, allowed)

    def log_prob(self, stats: Tensor, actions: Tensor | None) -> Tensor:
        """`[..., K]` of numbers `[..., K]`."""
        assert actions is not None
        return stats.gather(-1, actions.long())

    def model_action(self, action: Tensor) -> Tensor:
        """Numbers `[...]` to one-hot vectors `[..., A]`."""
        return one_hot(action.long(), torch.empty(self.actor.width, device=action.device))


class SampledSlots(ActionSlots):
    """Actions drawn from the policy, each by itself: of a Box, or of a MultiDiscrete space.

    All slots have the same prior: how often actions like it were drawn already says how likely one is (Hubert et al.
    2021, https://arxiv.org/abs/2104.06303). Some may be drawn from a wider distribution, as EfficientZero V2 does (Wang
    et al. 2024, https://arxiv.org/abs/2403.00564); their prior is the ratio of both densities.

    Args:
        actor: policy of these spaces.
        count: number `K` of slots.
        widened: number of slots that are drawn with a greater deviation; a tanh-normal policy alone has any.
        widening: factor of that deviation.

    Raises:
        ValueError: the policy is of a Discrete space, or has no deviation to be widened, or a number is out of range.
    """

    def __init__(self, actor: Actor, count: int = 20, widened: int = 0, widening: float = 3.0) -> None:
        if _is_numbered(actor):
            raise ValueError(
                "actions of a Discrete space are drawn without replacement: name "
                "modules.networks.action_slots.DistinctSlots, or NumberedSlots for all of them"
            )
        super().__init__(actor, count, (actor.width,))
        check_ranges(("widened", widened, 0, count))
        check_positive(widening=widening)
        if widened and not isinstance(actor, TanhNormalActor):
            raise ValueError(
                f"widened slots need a tanh-normal policy, and this one is a {type(actor).__name__}: set widened to 0, "
                "or the model's `continuous` to modules.networks.actors.TanhNormalActor"
            )
        self.widened = widened
        self.widening = widening

    def noise(
        self, rows: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """`[B, K, N]` draws of the actor's noise."""
        return self.actor.noise(rows, self.count, device=device, generator=generator)

    def slots(self, stats: Tensor, noise: Tensor | None, valid: Tensor | None = None) -> Slots:
        """`[B, K, A]` actions; the widened ones are the last."""
        assert noise is not None
        if valid is not None:
            raise ValueError("a mask of actions is for those of a Discrete space; leave it out of the observations")
        if self.widened:
            mean, std = stats.chunk(2, -1)
            factor = noise.new_ones(self.count)
            factor[self.count - self.widened :] = self.widening
            actions, logits = gaussian_proposal(mean, std.log(), noise, factor)
            return Slots(logits, actions, None)
        actions = self.actor.executed(self.actor.sample(stats.unsqueeze(-2), noise))
        return Slots(actions.new_zeros(actions.shape[:-1]), actions, None)

    def log_prob(self, stats: Tensor, actions: Tensor | None) -> Tensor:
        """`[..., K]` of `[..., K, A]` actions."""
        assert actions is not None
        return self.actor.log_prob(stats.unsqueeze(-2), actions)

    def model_action(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action


MakeSlots = Callable[[Actor], ActionSlots]
"""A class of slots, or a partial of one, called with the policy."""


def make_slots(actor: Actor) -> ActionSlots:
    """The kind that fits a policy: a slot for every action of a Discrete space, else 20 that are drawn."""
    return NumberedSlots(actor) if _is_numbered(actor) else SampledSlots(actor)


def check_numbered(actor: Actor, purpose: str) -> None:
    """Refuse a policy of another than a Discrete space.

    Raises:
        ValueError: it names the kind of slots for others.
    """
    if not _is_numbered(actor):
        raise ValueError(
            f"{purpose} needs a Discrete space of actions, and the policy is a {type(actor).__name__} of {actor.width} "
            "numbers: name modules.networks.action_slots.SampledSlots"
        )


def _is_numbered(actor: Actor) -> bool:
    return isinstance(actor, DiscreteActor) and actor.single
