"""Symmetries of boards: groups, known pictures, the rules of real games, and permutations as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.envs.board_rules import CONNECT_FOUR, TIC_TAC_TOE, Rules
from modules.functional.board_symmetries import followed, mirror, of_columns, permuted, square

GAMES = pytest.mark.parametrize(
    ("rules", "cells", "actions"),
    [
        (TIC_TAC_TOE, square(3), square(3)),
        (TIC_TAC_TOE, mirror(3, 3), mirror(3, 3)),
        (CONNECT_FOUR, mirror(6, 7), of_columns(mirror(6, 7), 7)),
    ],
    ids=["tic-tac-toe", "tic-tac-toe, mirrored", "connect four"],
)


def test_a_board_is_seen_from_all_sides() -> None:
    """`abc/def/ghi` turned by quarters to the left, then its mirror image likewise."""
    letters = np.array(list("abcdefghi"))
    seen = ["".join(letters[one]) for one in square(3).numpy()]
    assert seen[:4] == ["abcdefghi", "cfibehadg", "ihgfedcba", "gdahebifc"]
    assert seen[4:] == ["cbafedihg", "adgbehcfi", "ghidefabc", "ifchebgda"]
    assert ["".join(letters[:6][one]) for one in mirror(2, 3).numpy()] == ["abcdef", "cbafed"]
    assert of_columns(mirror(2, 3), 3).tolist() == [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize("symmetries", [square(2), square(3), square(4), mirror(3, 3), mirror(6, 7)], ids=len)
def test_symmetries_are_a_group(symmetries: Tensor) -> None:
    """All differ, the first changes nothing, and two after each other, or one backwards, are one of them."""
    members = {tuple(one.tolist()) for one in symmetries}
    assert len(members) == len(symmetries)
    assert torch.equal(symmetries[0], torch.arange(symmetries.shape[1]))
    assert {tuple(one[other].tolist()) for one in symmetries for other in symmetries} == members
    assert {tuple(one.argsort().tolist()) for one in symmetries} == members


@GAMES
def test_games_seen_so_go_by_the_same_rules(rules: Rules, cells: Tensor, actions: Tensor) -> None:
    """Step by step, what is legal, where stones come to lie, and what wins, is the same on both boards."""
    rng, wins = np.random.default_rng(0), 0
    for number in range(40 * len(cells)):
        which = number % len(cells)
        source, by_action = cells[which].numpy(), actions[which].numpy()
        place = by_action.argsort()  # where an action is seen
        here, there = (0, 0), (0, 0)
        while moves := rules.legal(here[0] | here[1]):
            assert sorted(place[moves].tolist()) == rules.legal(there[0] | there[1])
            action = int(rng.choice(moves))
            here = here[1], rules.played(*here, action)
            there = there[1], rules.played(*there, int(place[action]))
            for one, other in zip(here, there, strict=True):
                flat = rules.planes(one, 0).reshape(-1, 2)
                assert np.array_equal(flat[source], rules.planes(other, 0).reshape(-1, 2))
            assert rules.won(here[1]) == rules.won(there[1])
            if rules.won(here[1]):
                wins += 1
                break
    assert wins > 10 * len(cells)


def test_entries_and_places_change_as_loops_say() -> None:
    g = torch.Generator().manual_seed(0)
    chosen = square(2)[torch.tensor([0, 1, 5])]
    entries, places = torch.rand(4, 3, 4, 2, generator=g), torch.randint(4, (4, 3), generator=g)
    shown, seen = permuted(entries, chosen), followed(places, chosen)
    for t in range(4):
        for b in range(3):
            for j in range(4):
                assert torch.equal(shown[t, b, j], entries[t, b, chosen[b, j]])
            assert int(chosen[b, seen[t, b]]) == int(places[t, b])
