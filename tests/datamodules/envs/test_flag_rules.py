"""Rules of capture the flag: known positions, a match that is played player by player, and its mirror image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datamodules.envs.flag_players import BUILT_IN, FAR, STEPS_TO, TOWARDS, planned_players
from datamodules.envs.flag_rules import COLUMNS, EVENTS, LAYOUT, MIRRORED, NUMBERS, PLANES, Matches

STAY, UP, DOWN, LEFT, RIGHT = range(5)
STARTS = [(2, 1), (4, 1), (2, 7), (4, 7)]
STANDS = [(3, 1), (3, 7)]


def cell(row: int, column: int) -> int:
    return row * COLUMNS + column


def spot(number: Any) -> tuple[int, int]:
    row, column = divmod(int(number), COLUMNS)
    return row, column


def placed(*players: tuple[int, int], flags: Any = STANDS, carriers: Any = (-1, -1), **arguments: int) -> Matches:
    """A match with four players and two flags in given cells."""
    match = Matches(1, arguments.get("steps", 100), arguments.get("respawn", 5))
    match.place[0] = [cell(*player) for player in players]
    match.flag[0] = [cell(*flag) for flag in flags]
    match.carrier[0] = carriers
    return match


def step(match: Matches, *actions: int) -> list[int]:
    """Captures of both teams; the actions are as the players of each side see them."""
    found: list[int] = match.step(np.array([actions]))[0].tolist()
    return found


def events(match: Matches, player: int) -> set[str]:
    return {EVENTS[n] for n in np.flatnonzero(match.events[0, player])}


# ----------------------------------------------------------------------------------------------------- known positions
def test_a_match_begins_on_both_sides_alike() -> None:
    match = Matches(3, 100, 5)
    for row in range(3):
        assert [spot(x) for x in match.place[row]] == STARTS
        assert [spot(x) for x in match.flag[row]] == STANDS
    assert (match.carrier == -1).all()
    assert all(row == row[::-1] for row in LAYOUT)


def test_walls_and_edges_stop_and_players_share_cells() -> None:
    match = placed((0, 0), (2, 2), (2, 2), (6, 8))
    step(match, UP, UP, UP, DOWN)  # the wall at (1, 2) is above the two in the middle, which touch abroad and at home
    assert spot(match.place[0, 0]) == (0, 0)
    assert spot(match.place[0, 1]) == (2, 2)
    assert spot(match.place[0, 3]) == (6, 8)
    assert spot(match.place[0, 2]) == STARTS[2]  # it was tagged
    step(match, RIGHT, LEFT, STAY, LEFT)  # left is home for each side: for the right team it leads to the right
    assert [spot(match.place[0, n]) for n in (0, 1, 3)] == [(0, 1), (2, 1), (6, 8)]


def test_a_flag_is_picked_up_carried_and_captured() -> None:
    match = placed((3, 6), (0, 0), (0, 8), (6, 8))
    assert step(match, RIGHT, STAY, STAY, STAY) == [0, 0]
    assert match.carrier[0].tolist() == [-1, 0]
    assert events(match, 0) == {"pick_up_own"}
    assert events(match, 1) == {"pick_up_mate"}
    assert events(match, 2) == events(match, 3) == {"pick_up_others"}
    for column in (6, 5, 4, 3, 2):
        assert step(match, LEFT, STAY, STAY, STAY) == [0, 0]
        assert spot(match.flag[0, 1]) == spot(match.place[0, 0]) == (3, column)
        assert events(match, 0) == set()
    assert step(match, LEFT, STAY, STAY, STAY) == [1, 0]
    assert (events(match, 0), events(match, 3)) == ({"capture_own"}, {"capture_others"})
    assert match.score[0].tolist() == [1, 0]
    assert [spot(x) for x in match.flag[0]] == STANDS
    assert match.carrier[0].tolist() == [-1, -1]


def test_a_carrier_who_is_touched_abroad_drops_the_flag_and_waits() -> None:
    match = placed((2, 6), (0, 0), (2, 7), (6, 8), flags=(STANDS[0], (2, 6)), carriers=(-1, 0), respawn=2)
    step(match, STAY, STAY, RIGHT, STAY)  # to the left, as the others see it
    assert match.carrier[0].tolist() == [-1, -1]
    assert spot(match.flag[0, 1]) == (2, 6)
    assert spot(match.place[0, 0]) == STARTS[0]
    assert (events(match, 0), events(match, 1)) == ({"tagged", "tag_others"}, {"tag_others"})
    assert (events(match, 2), events(match, 3)) == ({"tag_own"}, {"tag_mate"})
    # Whose flag it is brings it back by being there; who was tagged waits for two steps.
    step(match, RIGHT, STAY, STAY, STAY)
    assert spot(match.flag[0, 1]) == STANDS[1]
    assert (events(match, 2), events(match, 0)) == ({"return_own"}, {"return_others"})
    step(match, RIGHT, STAY, STAY, STAY)
    assert spot(match.place[0, 0]) == STARTS[0]
    step(match, RIGHT, STAY, STAY, STAY)
    assert spot(match.place[0, 0]) == (2, 2)


def test_a_dropped_flag_is_picked_up_again_by_who_comes_first() -> None:
    match = placed((2, 5), (6, 0), (0, 8), (6, 8), flags=(STANDS[0], (2, 6)))
    step(match, RIGHT, STAY, STAY, STAY)
    assert match.carrier[0].tolist() == [-1, 0]
    # Both sides at once: it is returned, and who came for it is tagged there.
    match = placed((2, 5), (6, 0), (2, 7), (6, 8), flags=(STANDS[0], (2, 6)))
    step(match, RIGHT, STAY, RIGHT, STAY)
    assert spot(match.flag[0, 1]) == STANDS[1]
    assert events(match, 0) == {"tagged", "return_others", "tag_others"}
    # Two of one team: the first of them has it.
    match = placed((3, 7), (3, 7), (0, 8), (6, 8))
    step(match, STAY, STAY, STAY, STAY)
    assert match.carrier[0, 1] == 0
    assert events(match, 1) == {"pick_up_mate"}


@pytest.mark.parametrize(
    ("left", "right", "tagged"),
    [
        ((0, 5), (0, 5), [True, False]),  # in the right half
        ((0, 3), (0, 3), [False, True]),
        ((0, 4), (0, 4), [False, False]),  # in the middle column
    ],
)
def test_who_is_abroad_is_tagged(left: tuple[int, int], right: tuple[int, int], tagged: list[bool]) -> None:
    match = placed(left, (6, 0), right, (6, 8))
    step(match, STAY, STAY, STAY, STAY)
    assert ["tagged" in events(match, n) for n in (0, 2)] == tagged


@pytest.mark.parametrize(("column", "tagged"), [(3, [False, True]), (4, [True, False]), (6, [True, False])])
def test_who_changes_places_touches(column: int, tagged: list[bool]) -> None:
    match = placed((0, column), (6, 0), (0, column + 1), (6, 8))
    step(match, RIGHT, STAY, RIGHT, STAY)
    assert ["tagged" in events(match, n) for n in (0, 2)] == tagged
    assert ["tag_own" in events(match, n) for n in (0, 2)] == tagged[::-1]


def test_who_waits_touches_nothing() -> None:
    match = placed((2, 7), (6, 0), (2, 7), (6, 8))
    match.waits[0, 2] = 2
    step(match, STAY, STAY, RIGHT, STAY)
    assert events(match, 0) == set()
    assert spot(match.place[0, 2]) == (2, 7)
    match = placed((3, 7), (6, 0), (0, 8), (6, 8))
    match.waits[0, 0] = 1
    step(match, STAY, STAY, STAY, STAY)
    assert match.carrier[0, 1] == -1
    step(match, STAY, STAY, STAY, STAY)
    assert match.carrier[0, 1] == 0


def test_both_teams_may_carry_and_capture_at_once() -> None:
    match = placed((3, 2), (0, 0), (3, 6), (6, 8), flags=((3, 6), (3, 2)), carriers=(2, 0))
    assert step(match, LEFT, STAY, LEFT, STAY) == [1, 1]
    assert [spot(x) for x in match.flag[0]] == STANDS


# ------------------------------------------------------------------------------------------- a match player by player
class Slow:
    """One match by the words of `Matches`, with loops over players and places as rows and columns."""

    def __init__(self, respawn: int) -> None:
        self.respawn = respawn
        self.place, self.waits = list(STARTS), [0] * 4
        self.flag, self.carrier, self.score = list(STANDS), [-1, -1], [0, 0]

    def step(self, actions: list[int]) -> None:
        # Moves.
        before, ready = list(self.place), [w == 0 for w in self.waits]
        for n in range(4):
            if ready[n]:
                self.place[n] = self.moved(self.place[n], actions[n], n // 2)
            self.waits[n] = max(self.waits[n] - 1, 0)
        # Flags: carried along, returned or picked up, captured.
        for team in (0, 1):
            mine, others = [2 * team, 2 * team + 1], [2 - 2 * team, 3 - 2 * team]
            if self.carrier[team] >= 0:
                self.flag[team] = self.place[self.carrier[team]]
            elif self.flag[team] != STANDS[team] and any(self.touches(n, team, ready) for n in mine):
                self.flag[team] = STANDS[team]
            else:
                there = [n for n in others if self.touches(n, team, ready)]
                self.carrier[team] = there[0] if there else -1
        for team in (0, 1):
            if self.carrier[team] >= 0 and self.flag[team] == STANDS[1 - team]:
                self.score[1 - team] += 1
                self.flag[team], self.carrier[team] = STANDS[team], -1
        # Touches.
        touching = [
            (a, b)
            for a in (0, 1)
            for b in (2, 3)
            if ready[a] and ready[b]
            if self.place[a] == self.place[b] or (self.place[a] == before[b] and before[a] == self.place[b])
        ]
        tagged = {a for a, _ in touching if self.place[a][1] > 4} | {b for _, b in touching if self.place[b][1] < 4}
        for n in tagged:
            self.place[n], self.waits[n] = STARTS[n], self.respawn
            self.carrier = [-1 if n == who else who for who in self.carrier]

    def touches(self, n: int, team: int, ready: list[bool]) -> bool:
        return ready[n] and self.place[n] == self.flag[team]

    @staticmethod
    def moved(place: tuple[int, int], action: int, team: int) -> tuple[int, int]:
        down, right = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)][action]
        row, column = place[0] + down, place[1] + (-right if team else right)
        free = 0 <= row < 7 and 0 <= column < 9 and LAYOUT[row][column] != "#"
        return (row, column) if free else place


def test_many_matches_at_once_are_as_each_by_itself() -> None:
    rng, count = np.random.default_rng(0), 60
    fast, slow = Matches(count, 100, 3), [Slow(3) for _ in range(count)]
    happened = np.zeros(len(EVENTS), np.int64)
    while not fast.over():
        plans = np.concatenate([planned_players(fast, team, rng) for team in (0, 1)], 1)
        actions = np.where(rng.random((count, 4)) < 0.4, rng.integers(5, size=(count, 4)), plans)
        fast.step(actions)
        happened += fast.events.sum((0, 1))
        for n, match in enumerate(slow):
            match.step(actions[n].tolist())
            assert [spot(x) for x in fast.place[n]] == match.place
            assert [spot(x) for x in fast.flag[n]] == match.flag
            assert fast.carrier[n].tolist() == match.carrier
            assert fast.score[n].tolist() == match.score
            assert fast.waits[n].tolist() == match.waits
    assert (happened > 0).all()  # everything was seen


# --------------------------------------------------------------------------------------------------- both sides alike
def test_a_match_and_its_mirror_image_have_the_same_story() -> None:
    rng, count = np.random.default_rng(1), 50
    one, other = Matches(count, 60, 4), Matches(count, 60, 4)
    while not one.over():
        plans = np.concatenate([planned_players(one, team, rng) for team in (0, 1)], 1)
        captured = one.step(plans)
        mirrored = other.step(plans[:, [2, 3, 0, 1]])
        np.testing.assert_array_equal(captured, mirrored[:, ::-1])
        for team in (0, 1):
            np.testing.assert_array_equal(one.board(team), other.board(1 - team))
            np.testing.assert_array_equal(one.numbers(team), other.numbers(1 - team))
            np.testing.assert_array_equal(one.told(team), other.told(1 - team))
    assert one.score.sum() > 0
    assert MIRRORED[MIRRORED].tolist() == list(range(5))


def test_what_a_player_sees() -> None:
    match = placed((0, 1), (5, 3), (2, 8), (6, 6), flags=((2, 8), (3, 7)), carriers=(2, -1), respawn=4)
    match.waits[0, 3] = 1
    match.score[0] = [1, 3]
    match.time = 25

    def seen(team: int, player: int) -> dict[str, list[tuple[int, int]]]:
        board = match.board(team)[0, player]
        assert set(np.unique(board)) == {0, 255}
        return {name: [spot(x) for x in np.flatnonzero(board[..., n])] for n, name in enumerate(PLANES)}

    walls = [(row, column) for row in range(7) for column in range(9) if LAYOUT[row][column] == "#"]
    first = {"self": [(0, 1)], "mate": [(5, 3)], "others": [(2, 8)], "own_flag": [(2, 8)], "other_flag": [(3, 7)]}
    assert seen(0, 0) == first | {"walls": walls}
    assert seen(0, 1) == first | {"self": [(5, 3)], "mate": [(0, 1)], "walls": walls}
    other = {"self": [(2, 0)], "mate": [(6, 2)], "others": [(0, 7), (5, 5)], "own_flag": [(3, 1)]}
    assert seen(1, 0) == other | {"other_flag": [(2, 0)], "walls": walls}
    # Which of carries, mate carries, flag lost, waits, mate waits, others wait, time left and lead.
    assert len(NUMBERS) == 8
    np.testing.assert_allclose(match.numbers(0)[0, 0], [0, 0, 1, 0, 0, 0.125, 0.75, -0.4])
    np.testing.assert_allclose(match.numbers(1)[0, 0], [1, 0, 0, 0, 0.25, 0, 0.75, 0.4])
    np.testing.assert_allclose(match.numbers(1)[0, 1], [0, 1, 0, 0.25, 0, 0, 0.75, 0.4])


# --------------------------------------------------------------------------------------------- players with a plan
def test_ways_are_the_shortest() -> None:
    free = [cell(row, column) for row in range(7) for column in range(9) if LAYOUT[row][column] != "#"]
    assert STEPS_TO[cell(3, 7), cell(3, 1)] == 6
    assert STEPS_TO[cell(2, 5), cell(2, 3)] == 4  # around the wall
    assert (STEPS_TO[cell(2, 4)][free] == FAR).all()  # into a wall
    for goal in free:
        for start in free:
            place = cell(*Slow.moved(spot(start), int(TOWARDS[goal, start]), 0))
            assert STEPS_TO[goal, place] == max(STEPS_TO[goal, start] - 1, 0)


@pytest.mark.parametrize("team", [0, 1])
def test_players_with_a_plan_beat_those_without(team: int) -> None:
    rng = np.random.default_rng(2)
    matches = Matches(200, 100, 5)
    while not matches.over():
        sides = [BUILT_IN["planned" if side == team else "random"](matches, side, rng) for side in (0, 1)]
        matches.step(np.concatenate(sides, 1))
    assert (matches.score[:, team] > matches.score[:, 1 - team]).mean() > 0.95
