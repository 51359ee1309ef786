"""Players of capture the flag who learn nothing: at random, and by a plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datamodules.envs.flag_rules import ACTIONS, MIDDLE, NEXT, ROWS, SEEN, STANDS, THEIRS, WALLS, Matches

Players = Callable[[Matches, int, np.random.Generator], np.ndarray]
"""Actions `[M, 2]` of both players of a team, as they see the grid, of the matches as they are."""

SLIP = 0.25
"""Share of the steps that a player with a plan acts at random in."""


def random_players(matches: Matches, team: int, generator: np.random.Generator) -> np.ndarray:
    """Every action is as likely as any other."""
    return generator.integers(len(ACTIONS), size=(matches.count, 2))


def planned_players(matches: Matches, team: int, generator: np.random.Generator) -> np.ndarray:
    """One player fetches the flag of the others, and one guards its own, both on shortest ways.

    The guard runs at the nearest opponent in its half, else to its flag. Who carries a flag brings it home. A quarter
    of the actions is random, so that no two matches are the same.
    """
    seen, mine, others = SEEN[team], slice(2 * team, 2 * team + 2), slice(2 - 2 * team, 4 - 2 * team)
    place, home = seen[matches.place[:, mine]], seen[STANDS[team]]  # as the team sees the grid
    goal = np.stack([seen[matches.flag[:, 1 - team]], seen[matches.flag[:, team]]], 1)
    # An opponent in the own half is chased, the nearest first.
    other = matches.place[:, others]
    away = STEPS_TO[seen[other], place[:, 1:]]
    away = np.where(~THEIRS[team, other] & (seen[other] % SIDE != MIDDLE) & (matches.waits[:, others] == 0), away, FAR)
    nearest = np.take_along_axis(seen[other], away.argmin(1)[:, None], 1)[:, 0]
    goal[:, 1] = np.where(away.min(1) < FAR, nearest, goal[:, 1])
    carries = matches.carrier[:, 1 - team, None] == np.arange(mine.start, mine.stop)
    action = TOWARDS[np.where(carries, home, goal), place]
    slips = generator.random(action.shape) < SLIP
    return np.where(slips, random_players(matches, team, generator), action)


BUILT_IN: dict[str, Players] = {"random": random_players, "planned": planned_players}

SIDE = SEEN.shape[1] // ROWS
FAR = SEEN.shape[1]
"""More steps than any way has."""


def _steps_to() -> np.ndarray:
    """`[cells, cells]` steps of the shortest way to a cell from each other one; `FAR` where there is none."""
    cells = np.arange(FAR)
    steps = np.where(np.eye(FAR, dtype=bool) & ~WALLS, 0, FAR)
    for _ in cells:
        steps = np.minimum(steps, 1 + steps[:, NEXT].min(1))
    return np.minimum(steps, FAR)


STEPS_TO = _steps_to()
TOWARDS = STEPS_TO[:, NEXT].argmin(1)
"""`[cells, cells]` action that a shortest way to a cell begins with, from each other one."""
