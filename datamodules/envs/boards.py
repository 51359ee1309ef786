"""Tic-tac-toe and connect four, against oneself or an opponent, registered as `reverie/...`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import gymnasium as gym
import numpy as np

from datamodules.envs.board_rules import CONNECT_FOUR, TIC_TAC_TOE, Rules
from datamodules.envs.minimax import best_moves
from modules.arguments.checks import check_ranges
from modules.batch import ACTION_MASK

Opponent = Literal["random", "minimax"]

SQUARE = 16
"""Pixels of a side of a cell in a picture."""

COLOURS = np.array([[40, 40, 40], [250, 220, 60], [230, 60, 50]], np.uint8)
"""Of free cells, of the stones of who moves first, and of the other's."""


class BoardGame(gym.Env):
    """A game of two players who set stones in turn.

    The observation is a Dict: `board`, int8 `[rows, columns, 2]` with the stones of who moves and those of the other
    player, and `action_mask`, int8 `[A]` with 1 for legal actions, all 0 when the game is over. These are the names and
    shapes of PettingZoo's boards.

    Without an opponent an agent plays both sides: each step is one player's move, its reward is the mover's (+1 for a
    win, else 0), and the next observation is seen by the other player. What is good for one is bad for the other, so an
    agent must know that players take turns, as a search with a discount of -1 does. With an opponent, who answers
    within the step, the game is one for a single agent: reward +1, 0 or -1 at the end, and `success` for a
    win, `draw` or `loss` in the last info.

    An illegal move loses: the game ends, with the reward -1 for who made it, and `illegal_move` in the last info. That
    is what PettingZoo's wrapper for illegal moves and Pgx do, so that agents without masks can be trained; OpenSpiel
    aborts.

    Args:
        opponent: `random` for legal moves at random; `minimax` for the best ones that can be seen, at random among
            equally good ones; None for an agent that plays both sides.
        depth: moves that `minimax` looks ahead.
        side: 0 if the agent moves first, 1 if the opponent does, None if that is drawn in each game.
        opening: stones, at most, that are set at random before the first move of an agent that plays both sides; how
            many is drawn in each game. A policy that is sure of its moves sees few boards else. Against an opponent a
            game begins with an empty board.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        ValueError: there is no such opponent or side, or the depth or the opening is out of range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    rules: ClassVar[Rules]

    def __init__(
        self,
        opponent: Opponent | None = None,
        depth: int = 9,
        side: Literal[0, 1] | None = None,
        opening: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if opponent not in (None, *get_args(Opponent)):
            raise ValueError(f"opponent must be random, minimax or null for both sides, got {opponent!r}")
        if side not in (None, 0, 1):
            raise ValueError(f"side must be 0 for the first move, 1 for the second or null for either, got {side!r}")
        check_ranges(("depth", depth, 1, self.rules.cells), ("opening", opening, 0, self.rules.cells - 1))
        self.opponent = opponent
        self.depth = depth
        self.side = side
        self.opening = opening
        self.render_mode = render_mode
        rules = self.rules
        self.observation_space = gym.spaces.Dict(
            {
                "board": gym.spaces.Box(0, 1, (rules.rows, rules.columns, 2), np.int8),
                ACTION_MASK: gym.spaces.Box(0, 1, (rules.actions,), np.int8),
            }
        )
        self.action_space = gym.spaces.Discrete(rules.actions)
        self.stones = [0, 0]  # of who moved first, and of the other player
        self.mover = 0
        self.over = True

    @property
    def self_play(self) -> bool:
        """Whether one agent plays both sides."""
        return self.opponent is None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Clear the board; open a game against oneself, or draw who begins, and let an opponent who does move."""
        super().reset(seed=seed)
        self.stones = [0, 0]
        self.mover = 0
        self.over = False
        if self.opponent is None and self.opening:
            self._open(int(self.np_random.integers(self.opening + 1)))
        elif self.opponent is not None:
            drawn = int(self.np_random.integers(2))  # in any case: a fixed side has the same opponent
            if (drawn if self.side is None else self.side) == 1:
                self._play(self._answer())
        return self._observation(), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Set a stone for who moves, and let an opponent answer.

        Raises:
            gymnasium.error.ResetNeeded: the game is over.
        """
        if self.over:
            raise gym.error.ResetNeeded("the game is over: call reset()")
        if not (0 <= action < self.rules.actions and self.rules.is_legal(self.stones[0] | self.stones[1], int(action))):
            self.over = True
            return self._observation(), -1.0, True, False, self._last_info(illegal=True, reward=-1.0)
        won, self.over = self._play(int(action))
        reward = float(won)
        if self.opponent is not None:
            if self.over:
                self.mover = 1 - self.mover  # the agent sees the end, as it sees all else, by its own side
            else:
                lost, self.over = self._play(self._answer())
                reward = -1.0 if lost else 0.0
        return self._observation(), reward, self.over, False, self._last_info(False, reward) if self.over else {}

    def _open(self, count: int) -> None:
        """Set so many stones at random, all anew where one of them ends the game."""
        while any(self._play(self._answer())[1] for _ in range(count)):
            self.stones = [0, 0]
            self.mover = 0

    def _play(self, action: int) -> tuple[bool, bool]:
        """Set a stone, and hand over to the other player; whether it wins, and whether it ends the game."""
        stones, rules, mover = self.stones, self.rules, self.mover
        stones[mover] = rules.played(stones[mover], stones[1 - mover], action)
        won = rules.won(stones[mover])
        self.mover = 1 - mover
        return won, won or rules.full(stones[0] | stones[1])

    def _answer(self) -> int:
        """The opponent's move; one at random, if there is no opponent."""
        own, other = self.stones[self.mover], self.stones[1 - self.mover]
        moves = self.rules.legal(own | other)
        if self.opponent == "minimax":
            moves = list(best_moves(self.rules, own, other, self.depth).moves)
        return moves[int(self.np_random.integers(len(moves)))]

    def _last_info(self, illegal: bool, reward: float) -> dict[str, Any]:
        ended = {"success": reward > 0, "draw": reward == 0, "loss": reward < 0}
        return {"illegal_move": illegal} | ({} if self.opponent is None else ended)

    def _observation(self) -> dict[str, np.ndarray]:
        own, other = self.stones[self.mover], self.stones[1 - self.mover]
        mask = np.zeros(self.rules.actions, np.int8)
        if not self.over:
            mask[self.rules.legal(own | other)] = 1
        return {"board": self.rules.planes(own, other), ACTION_MASK: mask}

    def render(self) -> np.ndarray:
        """`[16 rows, 16 columns, 3]` uint8 picture of the board."""
        cells = self.rules.planes(*self.stones) @ np.array([1, 2], np.int8)
        return np.kron(COLOURS[cells], np.ones((SQUARE, SQUARE, 1), np.uint8))


class TicTacToe(BoardGame):
    """Three in a row on three by three cells; an action is a cell, row by row from the top left.

    Perfect play by both sides is a draw, and `minimax` plays perfectly unless its depth is below 9. See `BoardGame`.
    """

    rules = TIC_TAC_TOE


class ConnectFour(BoardGame):
    """Four in a row on six rows of seven; an action is a column, in which the stone falls. See `BoardGame`.

    By default `minimax` sees its own move and the answer to it, and prefers positions with more stones in lines that
    are still open.
    """

    rules = CONNECT_FOUR

    def __init__(
        self,
        opponent: Opponent | None = None,
        depth: int = 2,
        side: Literal[0, 1] | None = None,
        opening: int = 0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(opponent, depth, side, opening, render_mode)
