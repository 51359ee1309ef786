"""Capture the flag by two teams of two, registered as `reverie/CaptureFlag-v0`: one match, or many side by side."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from datamodules.envs.flag_players import BUILT_IN
from datamodules.envs.flag_rules import ACTIONS, COLUMNS, EVENTS, NUMBERS, PLANES, ROWS, WALLS, Matches
from modules.arguments.checks import check_choice, check_counts, check_ranges, check_sizes
from modules.contracts import Opponents

SQUARE = 16
"""Pixels of a side of a cell in a picture."""

COLOURS = {"floor": (235, 235, 230), "wall": (90, 90, 90), "left": (60, 110, 220), "right": (225, 80, 60)}


def spaces() -> tuple[gym.spaces.Dict, gym.spaces.Discrete]:
    """Spaces of the observation and of the action of one player."""
    observed: dict[str, gym.Space] = {
        "board": gym.spaces.Box(0, 255, (ROWS, COLUMNS, len(PLANES)), np.uint8),
        "numbers": gym.spaces.Box(-1.0, 1.0, (len(NUMBERS),), np.float32),
        "events": gym.spaces.Box(0, 1, (len(EVENTS),), np.int8),
    }
    return gym.spaces.Dict(observed), gym.spaces.Discrete(len(ACTIONS))


def check_match(opponent: str, steps: int, respawn: int, pick_up: float) -> None:
    """Refuse arguments of which no match can be made.

    Raises:
        ValueError: a number is out of range, or nobody has this name.
    """
    check_choice("opponent", opponent, tuple(BUILT_IN))
    check_sizes(steps=steps)
    check_counts(0, respawn=respawn)
    check_ranges(("pick_up", pick_up, 0.0, 1.0))


def outcome(score: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers in the infos of last steps, by scores `[M, 2]` of own and other team: `[M]` each."""
    own, other = score[:, 0], score[:, 1]
    return {"success": own > other, "draw": own == other, "loss": own < other, "captures": own, "conceded": other}


class CaptureFlag(gym.Env):
    """One match of capture the flag, in which the agent plays both players of a team.

    The rules are those of `datamodules.envs.flag_rules.Matches`; a match has `steps` steps. A step of the match takes
    two of the environment: the first is given the action of one player, and shows what the other one sees at the same
    moment; with the action of that one, all players move. The reward is the number of captures of the own team less
    those of the others, after the second step of each pair, and what `pick_up` adds. The last info has `success` for a
    win, `draw`, `loss`, `captures` and `conceded`.

    An observation is a Dict: `board`, the uint8 image `[7, 9, 6]` of the player itself, its mate, the others, the own
    flag, that of the others, and the walls, each a plane of 0 and 255, with the own half on the left for either side;
    `numbers`, float32 `[8]`, in the order of `flag_rules.NUMBERS`; and `events`, int8 `[13]` zeros and ones, in the
    order of `flag_rules.EVENTS`: what happened in the latest step, to learn rewards for. Actions: stay, up, down,
    left (home), right.

    Its own vector form, `CaptureFlags`, has a row for each player and can be played against frozen agents.

    Args:
        opponent: who plays the other team: `random`, or `planned`, who fetch and guard on shortest ways.
        steps: steps of a match.
        respawn: steps that a player waits who was tagged.
        pick_up: reward for picking up the flag of the others, which they lose, beside that of 1 for its capture.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        ValueError: a number is out of range, or nobody has this name.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(
        self,
        opponent: str = "random",
        steps: int = 100,
        respawn: int = 5,
        pick_up: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        check_match(opponent, steps, respawn, pick_up)
        self.opponent = opponent
        self.pick_up = pick_up
        self.render_mode = render_mode
        self.observation_space, self.action_space = spaces()
        self.matches = Matches(1, steps, respawn)
        self.first: int | None = None  # action of the first player, while the second one is asked

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A new match, as the first player sees it."""
        super().reset(seed=seed)
        self.matches.begin()
        self.first = None
        return self._observation(), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take the action of the first player, or that of the second, which lets all players move.

        Raises:
            gymnasium.error.ResetNeeded: the match is over.
        """
        matches = self.matches
        if matches.over():
            raise gym.error.ResetNeeded("the match is over: call reset()")
        if self.first is None:
            self.first = int(action)
            return self._observation(), 0.0, False, False, {}
        own = np.array([[self.first, int(action)]])
        self.first = None
        captured = matches.step(np.concatenate([own, BUILT_IN[self.opponent](matches, 1, self.np_random)], 1))
        reward, over = float(rewards(matches, captured, self.pick_up)[0]), matches.over()
        info: dict[str, Any] = {}
        if over:
            info = {name: values[0].item() for name, values in outcome(matches.score).items()}
        return self._observation(), reward, over, False, info

    def _observation(self) -> dict[str, np.ndarray]:
        player, matches = int(self.first is not None), self.matches
        return {name: seen[0, player].copy() for name, seen in observed(matches, 0).items()}

    def render(self) -> np.ndarray:
        """`[16 rows, 16 columns, 3]` uint8 picture: a full square is a player, a small one a flag."""
        matches = self.matches
        colours = np.array([COLOURS["left"], COLOURS["right"]], np.uint8)
        cells = np.array([COLOURS["floor"], COLOURS["wall"]], np.uint8)[WALLS.astype(np.int64)]
        picture = np.kron(cells.reshape(ROWS, COLUMNS, 3), np.ones((SQUARE, SQUARE, 1), np.uint8))
        tiles = picture.reshape(ROWS, SQUARE, COLUMNS, SQUARE, 3)
        for player in range(4):
            row, column = divmod(int(matches.place[0, player]), COLUMNS)
            faded = 0.5 if matches.waits[0, player] else 1.0
            tiles[row, 2:-2, column, 2:-2] = (faded * colours[player // 2]).astype(np.uint8)
        for team in (0, 1):
            row, column = divmod(int(matches.flag[0, team]), COLUMNS)
            tiles[row, 5:-5, column, 5:-5] = 255
            tiles[row, 6:-6, column, 6:-6] = colours[team]
        return picture


def observed(matches: Matches, team: int) -> dict[str, np.ndarray]:
    """Observations of the players of a team, `[M, 2, ...]` by key."""
    return {"board": matches.board(team), "numbers": matches.numbers(team), "events": matches.told(team)}


def rewards(matches: Matches, captured: np.ndarray, pick_up: float) -> np.ndarray:
    """`[M]` rewards of the left team for a step, by the captures `[M, 2]` in it; what it gets the other team loses."""
    own, mate, others = (matches.events[:, 0, EVENTS.index(f"pick_up_{who}")] for who in ("own", "mate", "others"))
    return captured[:, 0] - captured[:, 1] + pick_up * (0.0 + own + mate - others)


class CaptureFlags(VectorEnv):
    """Many matches of `CaptureFlag`, with a row for each player of one team: both learn from what each of them does.

    Rows `2 m` and `2 m + 1` are the players of match `m`. All matches begin and end together, and the next step begins
    new ones. Both players get the reward of their team.

    The other team is played by who is named, or by those that `oppose` lets in: then `opponents` says of each match who
    plays it.

    Args:
        num_envs: number of players, two a match.
        opponent: see `CaptureFlag`.
        steps: see `CaptureFlag`.
        respawn: see `CaptureFlag`.
        pick_up: see `CaptureFlag`.

    Attributes:
        opponents: `[M]` numbers of who plays the other team; -1 for who is named.
        results: `[n, 2]` int64 the matches that ended since `take_results`: against whom, and 1 for a win, 0 for a
            draw, -1 for a loss.

    Raises:
        ValueError: there is half a team, a number is out of range, or nobody has this name.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    built_in: ClassVar[tuple[str, ...]] = tuple(BUILT_IN)
    """Names that the argument `opponent` takes."""
    team_size: ClassVar[int] = 2
    """Rows of a match."""

    def __init__(
        self, num_envs: int, opponent: str = "random", steps: int = 100, respawn: int = 5, pick_up: float = 0.0
    ) -> None:
        check_match(opponent, steps, respawn, pick_up)
        if num_envs < 2 or num_envs % 2:
            raise ValueError(f"environments are players here, two a match, and must be an even number; got {num_envs}")
        self.num_envs = num_envs
        self.opponent = opponent
        self.pick_up = pick_up
        self.single_observation_space, self.single_action_space = spaces()
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)
        self.matches = Matches(num_envs // 2, steps, respawn)
        self.opponents = np.full(num_envs // 2, -1)
        self.results = np.empty((0, 2), np.int64)
        self._draw: Any = None
        self._act: Any = None

    def oppose(self, opponents: Opponents) -> None:
        """Let others than the one who is named play the other team, from the next match on."""
        self._draw = opponents.draw
        self._act = opponents.act

    def take_results(self) -> np.ndarray:
        """The results since the last call, see `results`."""
        taken, self.results = self.results, self.results[:0].copy()
        return taken

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """New matches."""
        super().reset(seed=seed, options=options)
        self._begin()
        return self._rows(0), {}

    def _begin(self) -> None:
        self.matches.begin()
        if self._draw is not None:
            self.opponents = self._draw(self.matches.count, self.np_random)

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Let all players move; where the matches are over, begin new ones instead."""
        matches, nothing = self.matches, np.zeros(self.num_envs, bool)
        if matches.over():
            self._begin()
            return self._rows(0), np.zeros(self.num_envs), nothing, nothing, {}
        captured = matches.step(np.concatenate([np.asarray(actions).reshape(-1, 2), self._answers()], 1))
        reward = np.repeat(rewards(matches, captured, self.pick_up), 2)
        if not matches.over():
            return self._rows(0), reward, nothing, nothing, {}
        won = np.sign(matches.score[:, 0] - matches.score[:, 1])
        self.results = np.concatenate([self.results, np.stack([self.opponents, won], 1)])
        info = {name: np.repeat(values, 2) for name, values in outcome(matches.score).items()}
        return self._rows(0), reward, ~nothing, nothing, info

    def _answers(self) -> np.ndarray:
        """`[M, 2]` actions of the other team."""
        named = self.opponents < 0
        if named.all():
            return BUILT_IN[self.opponent](self.matches, 1, self.np_random)
        assert not named.any()
        action: np.ndarray = self._act(self._rows(1), np.repeat(self.opponents, 2))
        return action.reshape(-1, 2)

    def _rows(self, team: int) -> dict[str, np.ndarray]:
        """Observations of the players of a team, `[2 M, ...]` by key."""
        return {
            name: seen.reshape(self.num_envs, *seen.shape[2:]) for name, seen in observed(self.matches, team).items()
        }
