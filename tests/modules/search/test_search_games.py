"""Searches with a true model find the best play, and any search improves on the policy that it begins with."""

from __future__ import annotations

from typing import Any

import pytest
import tic_tac_toe
import torch
from torch import Tensor

from modules.search.interface import Root, Step
from modules.search.rules import PUCT, Gumbel
from modules.search.search import search
from modules.search.settings import SearchSettings

ENDGAMES = ("xx./oo./...", "x.o/.ox/...", "oo./x../x..", "xox/oo./.x.", "x.o/o.x/..x", "o.x/.x./o..")


@pytest.mark.parametrize("rule", [Gumbel(considered=9), PUCT()], ids=["gumbel", "puct"])
def test_endgames_of_tic_tac_toe_are_played_as_by_minimax(rule: Gumbel | PUCT) -> None:
    boards = torch.stack([tic_tac_toe.board(text) for text in ENDGAMES])
    settings = SearchSettings(250, rule=rule)
    result = search(tic_tac_toe.root(boards), tic_tac_toe.step, settings, explore=False)
    for row, cells in enumerate(boards.tolist()):
        value, moves = tic_tac_toe.minimax(tuple(cells))
        assert int(result.action[row]) in moves, ENDGAMES[row]
        best = result.q[row, int(result.action[row])]
        assert abs(float(best) - value) < 0.25, ENDGAMES[row]


def tree_of_arms(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    """Rewards `[B, 3, 3, 3]` of three choices in a row, of which one leaf pays 1, and the way to it begins `[B]`."""
    g = torch.Generator().manual_seed(seed)
    rewards = 0.5 * torch.rand(rows, 27, generator=g)
    treasure = torch.randint(27, (rows,), generator=g)
    rewards[torch.arange(rows), treasure] = 1.0
    return rewards.view(rows, 3, 3, 3), treasure // 9


@pytest.mark.parametrize("rule", [Gumbel(considered=3, value_scale=0.02), PUCT(c1=4.0)], ids=["gumbel", "puct"])
def test_the_optimum_of_a_tree_is_found_with_its_true_simulator(rule: Gumbel | PUCT) -> None:
    """Both weigh returns less than by default, as nothing but them says where the treasure is."""
    rewards, best = tree_of_arms(0, 16)
    rows = torch.arange(16)

    def step(path: Tensor, action: Tensor, noise: Any) -> Step:
        depth = path[:, 0]
        after = path.clone()
        after[rows, depth.clamp(max=2) + 1] = action
        after[:, 0] += 1
        paid = torch.where(depth == 2, rewards[rows, after[:, 1], after[:, 2], after[:, 3]], 0.0)
        return Step(paid, torch.where(depth == 2, 0.0, 1.0), torch.zeros(16, 3), torch.ones(16), after)

    root = Root(torch.zeros(16, 3), torch.ones(16), torch.zeros(16, 4, dtype=torch.int64))
    result = search(root, step, SearchSettings(150, rule=rule), explore=False)
    assert torch.equal(result.action, best)
    assert torch.equal(result.q.argmax(1), best)
    assert float(result.q[rows, best].min()) > 0.55  # no other leaf pays more than 0.5
    assert (result.depth >= 3).all()


def test_few_simulations_improve_the_policy_of_a_bandit_in_each_row() -> None:
    """With 82 arms and 4 simulations: the claim of Danihelka et al. 2022, which no search by visits can make."""
    g = torch.Generator().manual_seed(0)
    rows, arms = 300, 82
    logits = torch.randn(rows, arms, generator=g)
    q = torch.rand(rows, arms, generator=g)
    prior = logits.softmax(-1)
    value = (prior * q).sum(-1)

    def step(embedding: Tensor, action: Tensor, noise: Any) -> Step:
        zeros = torch.zeros(rows)
        return Step(q[torch.arange(rows), action], zeros, logits, zeros, embedding)

    root = Root(logits, value, torch.zeros(rows))
    for simulations in (2, 4):
        result = search(root, step, SearchSettings(simulations), g)
        improvement = (result.policy_target * q).sum(-1) - value
        assert float(improvement.min()) >= -1e-6
        assert float(improvement.mean()) > 0.01
        chosen = q.gather(1, result.action.unsqueeze(1))[:, 0] - value
        assert float(chosen.mean()) > 0.05
