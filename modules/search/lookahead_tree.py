"""A tree of what a policy might do in a model that it looks ahead in, with the policy's own value at the leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.lookahead_contracts import GoesBack, PlansAhead
from modules.search.interface import Root, Step
from modules.search.nodes import Tree
from modules.search.rules import Gumbel
from modules.search.search import search
from modules.search.settings import SearchSettings
from modules.search.simulation import simulate

VALUE_SCALE = 0.02
"""Weight of returns against priors, a fifth of what a search by a learned policy has: this prior knows nothing but the
base policy's action, and the choice is by the best return that was found, so that it pays to look around.
"""


class Scores(NamedTuple):
    """Candidates for the first action, of which number 0 is the base policy's own.

    Attributes:
        returns: `[K, N, C]` best return that each of `K` models found behind each; NaN where it failed.
        first: `[N, C, ...]` the actions.
    """

    returns: Tensor
    first: Tensor


class LookaheadTree:
    """Trees whose nodes hold the base policy's action, with half of the prior, and others.

    Each opinion of the model searches by itself, so that their returns can be compared. Of numbered actions a node has
    all; of others it has deviations from the base policy's, which are drawn by simulation, the same in every row and
    every search. There is no noise otherwise: where the model draws nothing, the search is a function of its root.

    Args:
        policy: what the model shows of a state, `[R, ...]`, to actions in the environment's units.
        model: model that is looked ahead in.
        value: what the model shows, `[R, ...]`, to the return `[R]` of the policy from there on.
        reward: map from the model's rewards to those that the value is of.
        discount: discount factor gamma per step.
        rollout: steps of the policy between a leaf and the value.
        simulations: of each tree, at least as many as a node has actions.
        depth: steps from the root at most; None for as many as there are simulations.
        numbers: the first number and the count of numbered actions; None for others.
        deviate: makes of base actions `[R, ...]` and deviations `[R or 1, C, ...]` actions `[R, C, ...]`.
        draw: by a generator, deviations `[1, C, ...]` for one simulation.
        seed: seed of these.
    """

    def __init__(
        self,
        policy: Callable[[Tensor], Tensor],
        model: PlansAhead,
        value: Callable[[Tensor], Tensor],
        reward: Callable[[Tensor], Tensor] | None,
        discount: float,
        rollout: int,
        simulations: int,
        depth: int | None,
        numbers: tuple[int, int] | None,
        deviate: Callable[[Tensor, Tensor], Tensor],
        draw: Callable[[torch.Generator], Tensor],
        seed: int,
    ) -> None:
        self.policy = policy
        self.model = model
        self.value = value
        self.reward = reward
        self.discount = discount
        self.rollout = rollout
        self.numbers = numbers
        self.deviate = deviate
        self.draw = draw
        self.seed = seed
        self.settings = SearchSettings(simulations, depth, rule=Gumbel(simulations, value_scale=VALUE_SCALE))

    def score(self, memory: Any, deviations: Tensor) -> Scores:
        """Search from what the model begins with, of `N` rows, with deviations `[N or 1, C - 1, ...]` at the root."""
        model = self.model
        state = model.begin(memory, 1)
        kept = self._keep(state)
        base = self.policy(model.view(state))
        if len(deviations) > 1:  # rows of their own, the same for each opinion
            deviations = deviations.repeat(model.opinions, *[1] * (deviations.ndim - 1))
        actions, logits = self._slots(base, deviations)
        root = Root(logits, self._value(state, base), kept, actions=actions)
        generator = torch.Generator().manual_seed(self.seed)
        draw = None if self.numbers is not None else lambda _: self.draw(generator)
        trees: list[Tree] = []

        def watched(tree: Tree, *arguments: Any) -> None:
            trees[:] = [tree]
            simulate(tree, *arguments)

        found = search(root, self._step, self.settings, explore=False, draw=draw, simulate=watched)

        # By opinion; all of them began with the same observation, and so with the same actions.
        best = best_returns(trees[0]).masked_fill(found.failed.unsqueeze(-1), torch.nan)
        returns = best.unflatten(0, (model.opinions, -1))
        rows = returns.shape[1]
        if actions is not None:
            return Scores(returns, actions[:rows])
        start, count = self.numbers or (0, 0)
        every = torch.arange(start, start + count, device=base.device, dtype=base.dtype).expand(rows, -1)
        own = (base[:rows] - start).long().unsqueeze(-1)
        first = torch.cat([base[:rows].unsqueeze(-1), every], -1)
        own_return = returns.gather(-1, own.expand(model.opinions, -1, -1))
        return Scores(torch.cat([own_return, returns], -1), first)

    def _step(self, embedding: Any, action: Tensor, noise: Any) -> Step:
        """Follow one action of each node, and see what the base policy would do from there on."""
        model = self.model
        before = model.back(embedding) if isinstance(model, GoesBack) else embedding
        state, reward, ended = model.step(before, action if self.numbers is None else action + self.numbers[0])
        kept = self._keep(state)
        base = self.policy(model.view(state))
        actions, logits = self._slots(base, noise)
        return Step(
            reward=self._earned(reward),
            discount=self.discount * (1.0 - ended),
            logits=logits,
            value=self._value(state, base),
            embedding=kept,
            actions=actions,
        )

    def _keep(self, state: Any) -> Any:
        return self.model.keep(state) if isinstance(self.model, GoesBack) else state

    def _earned(self, reward: Tensor) -> Tensor:
        return reward if self.reward is None else self.reward(reward)

    def _slots(self, base: Tensor, deviations: Tensor) -> tuple[Tensor | None, Tensor]:
        """Actions of nodes, None for all numbered ones, and logits `[R, C]`.

        The base action has half of the prior, and a little more, so that it is tried first.
        """
        if self.numbers is not None:
            start, count = self.numbers
            logits = base.new_zeros(len(base), count, dtype=torch.float32)
            own = (base - start).long().unsqueeze(-1)
            return None, logits.scatter(1, own, math.log(count))
        actions = torch.cat([base.unsqueeze(1), self.deviate(base, deviations)], 1)
        logits = base.new_zeros(actions.shape[:2])
        logits[:, 0] = math.log(actions.shape[1])
        return actions, logits

    def _value(self, state: Any, action: Tensor) -> Tensor:
        """`[R]` return of the base policy from states on, whose actions there are known: rewards of a rollout, and the
        value behind it.
        """
        total, weight = torch.zeros(()), torch.ones(())
        for t in range(self.rollout):
            state, reward, ended = self.model.step(state, action if t == 0 else self.policy(self.model.view(state)))
            total = total + weight * self._earned(reward)
            weight = weight * self.discount * (1.0 - ended)
        return total + weight * self.value(self.model.view(state))


def best_returns(tree: Tree) -> Tensor:
    """`[B, K]` return of each slot of the root when the best of the tried slots is followed from every node on.

    Means over simulations, as the search itself uses them, count what was only tried: a slot would look the worse the
    more there was found behind it. Slots that were never tried have minus infinity.
    """
    nodes, rows = tree.value.shape
    child = tree.child.view(rows, nodes, -1)
    value, reward, discount = tree.value.t().clone(), tree.reward.t(), tree.discount.t()
    found = value
    for node in range(nodes - 1, -1, -1):  # what a node leads to has a greater number
        below, tried = child[:, node].clamp(min=0), child[:, node] >= 0
        along = reward.gather(1, below) + discount.gather(1, below) * value.gather(1, below)
        found = along.masked_fill(~tried, -torch.inf)
        value[:, node] = torch.where(tried.any(-1), found.amax(-1), value[:, node])
    return found
