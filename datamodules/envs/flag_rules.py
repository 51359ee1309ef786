"""Capture the flag on a small grid: two teams of two players, many matches at once."""

from __future__ import annotations

import numpy as np

LAYOUT = (
    ".........",
    "..#...#..",
    ".s..#..s.",
    ".f.....f.",
    ".s..#..s.",
    "..#...#..",
    ".........",
)
"""Walls, where flags stand and where players start; the right half is the mirror of the left one."""

ROWS, COLUMNS = len(LAYOUT), len(LAYOUT[0])
MIDDLE = COLUMNS // 2
"""The column that is neither team's."""

WALLS = np.array([cell == "#" for row in LAYOUT for cell in row])
"""`[cells]` bool."""

ACTIONS = ("stay", "up", "down", "left", "right")
MIRRORED = np.array([0, 1, 2, 4, 3])
"""Each action as it is seen from the other side."""

EVENTS = (
    *(f"{what}_{who}" for what in ("pick_up", "capture", "return", "tag") for who in ("own", "mate", "others")),
    "tagged",
)
"""Names of the events of a step, as a player sees them: by itself, its mate or the others; and that it was tagged."""

PLANES = ("self", "mate", "others", "own_flag", "other_flag", "walls")
NUMBERS = ("carries", "mate_carries", "flag_lost", "waits", "mate_waits", "others_wait", "time_left", "lead")

MOST_LEAD = 5
"""Captures that a team is ahead by, from which on a player sees no difference."""


def _cells(kind: str) -> np.ndarray:
    """Cells of this kind, those of the left half first, from the top down."""
    found = [(c > MIDDLE, r, c) for r, row in enumerate(LAYOUT) for c, cell in enumerate(row) if cell == kind]
    return np.array([r * COLUMNS + c for _, r, c in sorted(found)])


STANDS = _cells("f")  # [2] cell of each team's flag
STARTS = _cells("s")  # [4] cell that each player starts from, those of the left team first
SEEN = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
SEEN = np.stack([SEEN.ravel(), SEEN[:, ::-1].ravel()])  # [2, cells] each cell as each team sees it
COLUMN = np.arange(ROWS * COLUMNS) % COLUMNS
THEIRS = np.stack(
    [COLUMN > MIDDLE, COLUMN < MIDDLE]
)  # [2, cells] whether a cell is of the half of the team's opponents
TEAM = np.array([0, 0, 1, 1])


def _next_cells() -> np.ndarray:
    """`[actions, cells]` cell that an action leads to, where there is neither wall nor edge in the way."""
    cells = np.arange(ROWS * COLUMNS)
    row, column = cells // COLUMNS, cells % COLUMNS
    led = [cells]
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c = row + down, column + right
        inside = (r >= 0) & (r < ROWS) & (c >= 0) & (c < COLUMNS)
        to = np.where(inside, r * COLUMNS + c, cells)
        led.append(np.where(WALLS[to], cells, to))
    return np.stack(led)


NEXT = _next_cells()


class Matches:
    """`M` matches of two teams of two players that all begin together, and end after the same number of steps.

    In a step every player stays or goes to one of the four cells beside it; players may share a cell. Then, in this
    order:

    - A flag that nobody carries and that lies elsewhere than on its stand goes back there when a player of its team is
      on its cell; else an opponent who is on the cell of a flag picks it up, of two the one with the lower number.
    - A flag that is carried to the stand of the carrier's own team is captured: a point for that team, and the flag is
      back on its stand. The own flag may be anywhere.
    - Two opponents touch when they are on one cell, or have changed places. Of these, who is in the half of the other
      team is tagged: it drops its flag where it is, goes back to where it started, and waits for `respawn` steps, in
      which it neither moves nor touches anything. In the middle column nobody is tagged.

    Nothing is random, and no rule knows left from right: a match and its mirror image have the same story.

    Args:
        count: number of matches `M`.
        steps: steps of a match.
        respawn: steps that a player waits who was tagged.

    Attributes:
        place: `[M, 4]` cell of each player, `row * COLUMNS + column`; 0 and 1 are the left team.
        waits: `[M, 4]` steps that each waits for.
        flag: `[M, 2]` cell of each team's flag.
        carrier: `[M, 2]` player who carries each team's flag; -1 for none.
        score: `[M, 2]` captures of each team.
        events: `[M, 4, len(EVENTS)]` int8 zeros and ones of the latest step, as each player sees it.
        time: steps so far.
    """

    def __init__(self, count: int, steps: int, respawn: int) -> None:
        self.count = count
        self.steps = steps
        self.respawn = respawn
        self.place = np.empty((count, 4), np.int64)
        self.waits = np.empty((count, 4), np.int64)
        self.flag = np.empty((count, 2), np.int64)
        self.carrier = np.empty((count, 2), np.int64)
        self.score = np.empty((count, 2), np.int64)
        self.events = np.empty((count, 4, len(EVENTS)), np.int8)
        self.time = 0
        self.begin()

    def begin(self) -> None:
        """Start all matches anew."""
        self.place[:] = STARTS
        self.flag[:] = STANDS
        self.carrier[:] = -1
        self.time = 0
        for counts in (self.waits, self.score, self.events):
            counts[:] = 0

    def over(self) -> bool:
        """Whether the matches have ended."""
        return self.time >= self.steps

    def step(self, action: np.ndarray) -> np.ndarray:
        """Let every player act.

        Args:
            action: `[M, 4]` numbers of `ACTIONS`, as each player sees the grid: its own half is the left one.

        Returns:
            `[M, 2]` captures of each team in this step.
        """
        ready, before = self.waits == 0, self.place
        turned = np.where(TEAM == 1, MIRRORED[action], action)
        self.place = np.where(ready, NEXT[turned, before], before)
        self.waits = np.maximum(self.waits - 1, 0)
        self.time += 1
        did = np.zeros((self.count, 4, 4), bool)  # who picked up, captured, returned, tagged
        for team in (0, 1):
            self._touch_flag(team, ready, did)
        captured = self._capture(did)
        tagged = self._tag(before, ready, did)
        self._tell(did, tagged)
        return captured

    def _touch_flag(self, team: int, ready: np.ndarray, did: np.ndarray) -> None:
        """Move the flag of a team with who carries it; else see who returns it, or picks it up."""
        flag, carrier = self.flag[:, team], self.carrier[:, team]
        held = carrier >= 0
        carried_to = np.take_along_axis(self.place, np.maximum(carrier, 0)[:, None], 1)[:, 0]
        flag[:] = np.where(held, carried_to, flag)
        on_it = (self.place == flag[:, None]) & ready & ~held[:, None]
        mine, others = slice(2 * team, 2 * team + 2), slice(2 - 2 * team, 4 - 2 * team)
        # Players of its team come first.
        returning = on_it[:, mine] & (flag != STANDS[team])[:, None]
        did[:, mine, 2] |= returning
        returned = returning.any(1)
        flag[returned] = STANDS[team]
        picking = on_it[:, others] & ~returned[:, None]
        picked = picking.any(1)
        who = others.start + picking.argmax(1)
        carrier[picked] = who[picked]
        did[picked, who[picked], 0] = True

    def _capture(self, did: np.ndarray) -> np.ndarray:
        """See which flags are where their carriers wanted them; `[M, 2]` captures of each team."""
        home = (self.carrier >= 0) & (self.flag == STANDS[::-1])  # of each team's flag, at the other team's stand
        match, team = np.nonzero(home)
        did[match, self.carrier[match, team], 1] = True
        self.flag[match, team] = STANDS[team]
        self.carrier[match, team] = -1
        captured = home[:, ::-1].astype(np.int64)
        self.score += captured
        return captured

    def _tag(self, before: np.ndarray, ready: np.ndarray, did: np.ndarray) -> np.ndarray:
        """Send back who is touched in the other team's half; `[M, 4]` bool, who was."""
        now, left, right = self.place, slice(0, 2), slice(2, 4)
        same = now[:, left, None] == now[:, None, right]
        swapped = (now[:, left, None] == before[:, None, right]) & (before[:, left, None] == now[:, None, right])
        touch = (same | swapped) & ready[:, left, None] & ready[:, None, right]  # [M, 2, 2]
        abroad = THEIRS[TEAM, now]
        loses_left, loses_right = touch & abroad[:, left, None], touch & abroad[:, None, right]
        tagged = np.concatenate([loses_left.any(2), loses_right.any(1)], 1)
        did[:, :, 3] |= np.concatenate([loses_right.any(2), loses_left.any(1)], 1)
        # Its flag stays where it is.
        held = np.maximum(self.carrier, 0)
        dropped = (self.carrier >= 0) & np.take_along_axis(tagged, held, 1)
        self.carrier[dropped] = -1
        self.place = np.where(tagged, STARTS, now)
        self.waits[tagged] = self.respawn
        return tagged

    def _tell(self, did: np.ndarray, tagged: np.ndarray) -> None:
        """Write down what happened, as each player sees it."""
        teams = did.reshape(self.count, 2, 2, 4)
        mate = teams[:, :, ::-1].reshape(self.count, 4, 4)
        others = np.repeat(np.any(teams, axis=2)[:, ::-1], 2, axis=1)
        self.events[:, :, :-1] = np.stack([did, mate, others], -1).reshape(self.count, 4, 12)
        self.events[:, :, -1] = tagged

    # --------------------------------------------------------------------------------------------------- observations
    def board(self, team: int) -> np.ndarray:
        """`[M, 2, ROWS, COLUMNS, len(PLANES)]` uint8, 0 or 255, by the players of a team, whose half is on the left.

        Opponents who wait are not seen.
        """
        seen, rows = SEEN[team], np.arange(self.count)
        planes = np.zeros((self.count, 2, ROWS * COLUMNS, len(PLANES)), np.uint8)
        planes[..., 5] = 255 * WALLS
        mine, others = 2 * team, 2 - 2 * team
        for player in (0, 1):
            planes[rows, player, seen[self.place[:, mine + player]], 0] = 255
            planes[rows, player, seen[self.place[:, mine + 1 - player]], 1] = 255
            there = np.flatnonzero(self.waits[:, others + player] == 0)
            planes[there, :, seen[self.place[there, others + player]], 2] = 255
        planes[rows, :, seen[self.flag[:, team]], 3] = 255
        planes[rows, :, seen[self.flag[:, 1 - team]], 4] = 255
        return planes.reshape(self.count, 2, ROWS, COLUMNS, len(PLANES))

    def numbers(self, team: int) -> np.ndarray:
        """`[M, 2, len(NUMBERS)]` float32, what the board does not show, from -1 to 1."""
        mine, others = slice(2 * team, 2 * team + 2), slice(2 - 2 * team, 4 - 2 * team)
        found = np.empty((self.count, 2, len(NUMBERS)), np.float32)
        carries = self.carrier[:, 1 - team, None] == np.arange(mine.start, mine.stop)
        found[..., 0], found[..., 1] = carries, carries[:, ::-1]
        found[..., 2] = self.carrier[:, team, None] >= 0
        waits = self.waits / max(self.respawn, 1)
        found[..., 3], found[..., 4] = waits[:, mine], waits[:, mine][:, ::-1]
        found[..., 5] = waits[:, others].mean(1, keepdims=True)
        found[..., 6] = 1.0 - self.time / self.steps
        lead = (self.score[:, team] - self.score[:, 1 - team]) / MOST_LEAD
        found[..., 7] = lead.clip(-1.0, 1.0)[:, None]
        return found

    def told(self, team: int) -> np.ndarray:
        """`[M, 2, len(EVENTS)]` int8: the events of the players of a team."""
        return self.events[:, 2 * team : 2 * team + 2]
