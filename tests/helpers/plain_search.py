"""A tree search with a node as an object and one row at a time, written plainly from the papers' formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from search_models import Game

from modules.search.rules import PUCT, Gumbel
from modules.search.settings import SearchSettings


@dataclass
class Node:
    state: int
    value: float
    prior: list[float]
    returns: list[list[float]]
    """Of each slot, one return per visit."""
    children: dict[int, Node] = field(default_factory=dict)

    def visits(self) -> list[int]:
        return [len(r) for r in self.returns]

    def q(self, slot: int) -> float:
        return sum(self.returns[slot]) / len(self.returns[slot])

    def mean(self) -> float:
        every = [self.value, *(g for r in self.returns for g in r)]
        return sum(every) / len(every)


def softmax(x: list[float]) -> list[float]:
    e = [math.exp(v - max(x)) for v in x]
    return [v / sum(e) for v in e]


class PlainSearch:
    """One row of a search in a game of tables; `noise` is the root's, of each slot, and may be zeros."""

    def __init__(self, game: Game, settings: SearchSettings, state: int, noise: list[float]) -> None:
        self.game = game
        self.settings = settings
        self.noise = noise
        self.seen: list[float] = []
        self.root = self.make(state)
        if isinstance(settings.rule, PUCT) and any(noise):
            share = settings.rule.dirichlet_share
            self.root.prior = [(1 - share) * p + share * n for p, n in zip(self.root.prior, noise, strict=True)]
        for _ in range(settings.simulations):
            self.simulate()

    def make(self, state: int) -> Node:
        prior = softmax(self.game.logits[state].tolist())
        return Node(state, float(self.game.value[state]), prior, [[] for _ in prior])

    def simulate(self) -> None:
        node, path = self.root, []
        while True:
            slot = self.best(node)
            path.append((node, slot))
            if slot not in node.children or len(path) == self.settings.levels:
                break
            node = node.children[slot]
        last, slot = path[-1]
        if slot not in last.children:
            last.children[slot] = self.make(int(self.game.next[last.state, slot]))
        value = last.children[slot].value
        for node, slot in reversed(path):
            at = node.state, slot
            value = float(self.game.reward[at]) + float(self.game.discount[at]) * value
            node.returns[slot].append(value)
        self.seen += [node.q(slot) for node, slot in path]

    def best(self, node: Node) -> int:
        scores = self.puct(node) if isinstance(self.settings.rule, PUCT) else self.gumbel(node)
        return scores.index(max(scores))

    def puct(self, node: Node) -> list[float]:
        rule, visits = self.settings.rule, node.visits()
        assert isinstance(rule, PUCT)
        known = self.seen if rule.normalisation == "tree" else [node.mean()]
        known = known + [node.q(a) for a, n in enumerate(visits) if n] if rule.normalisation == "siblings" else known
        low, high = (min(known), max(known)) if known else (0.0, 0.0)
        width = max(high - low, rule.least_range)
        own = sum(visits) + 1
        weight = math.sqrt(own) * (rule.c1 + math.log((own + rule.c2 + 1) / rule.c2))
        return [
            ((node.q(a) - low) / width if n else 0.0) + node.prior[a] * weight / (1 + n) for a, n in enumerate(visits)
        ]

    def completed(self, node: Node) -> list[float]:
        rule, visits = self.settings.rule, node.visits()
        assert isinstance(rule, Gumbel)
        tried = [a for a, n in enumerate(visits) if n]
        mixed = node.value
        if tried:
            share = sum(node.prior[a] for a in tried)
            weighted = sum(node.prior[a] * node.q(a) for a in tried) / share
            mixed = (node.value + sum(visits) * weighted) / (1 + sum(visits))
        q = [node.q(a) if n else mixed for a, n in enumerate(visits)]
        if rule.rescale:
            q = [(x - min(q)) / max(max(q) - min(q), 1e-8) for x in q]
        return [(rule.visit_offset + max(visits)) * rule.value_scale * x for x in q]

    def gumbel(self, node: Node) -> list[float]:
        visits = node.visits()
        logits = [math.log(p) + s for p, s in zip(node.prior, self.completed(node), strict=True)]
        if node is not self.root:
            return [p - n / (1 + sum(visits)) for p, n in zip(softmax(logits), visits, strict=True)]
        considered = self.considered()
        return [
            g + x if n == considered else -math.inf for g, x, n in zip(self.noise, logits, visits, strict=True)
        ]  # fmt: skip

    def considered(self) -> int:
        """Visits of the slots in the race, by playing the rounds of sequential halving up to now."""
        rule, budget = self.settings.rule, self.settings.simulations
        assert isinstance(rule, Gumbel)
        alive = min(rule.considered, len(self.root.prior))
        rounds, so_far, visits = max(1, math.ceil(math.log2(alive))), sum(self.root.visits()), 0
        while True:
            each = max(1, budget // (rounds * alive))
            for _ in range(each):
                if so_far < alive:
                    return visits
                so_far -= alive
                visits += 1
            alive = max(2, alive // 2)
