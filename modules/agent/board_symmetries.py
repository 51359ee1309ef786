"""Boards that an agent learns from are turned and reflected at random, for what it learns of one holds for all of them.

Source: Silver et al. 2017, "Mastering the Game of Go without Human Knowledge" (https://doi.org/10.1038/nature24270),
methods: positions of a batch are turned and reflected, and their policies with them.

Letters: `L` rows of a sequence, `B` sequences, `N` cells of a board, `C` numbers of a cell, `A` actions, `K` slots.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import gymnasium as gym
import torch
from torch import Tensor

from modules.agent.action_masks import ActionMask
from modules.agent.augmentation import Augmentation
from modules.agent.planning import Record
from modules.arguments.checks import check_choice, check_sizes
from modules.batch import SequenceBatch, brief
from modules.functional.board_symmetries import followed, mirror, of_columns, permuted, square


class BoardSymmetries(Augmentation):
    """Shows each sequence by one of the symmetries of its game, drawn anew for each update: all its boards, masks,
    actions and policies alike.

    Whether a game has these symmetries is up to whoever names them; a game that lacks them is learned wrongly.

    Args:
        mask: knows the spaces, and reads which actions may be taken.
        board: rows, columns and channels of all that is observed; flat observations have their cells row by row.
        symmetries: `square` for the eight of a square board, on which an action is a cell, row by row from the top
            left; `mirror` for left and right alone, where an action may be a column, too.

    Raises:
        ValueError: the board or the actions are of another kind, or there are no such symmetries.
    """

    cells: Tensor
    actions: Tensor

    def __init__(self, mask: ActionMask, board: list[int], symmetries: Literal["square", "mirror"]) -> None:
        super().__init__()
        check_choice("augmentation.symmetries", symmetries, ("square", "mirror"))
        if len(board) != 3:
            raise ValueError(f"augmentation.board must be rows, columns and channels, got {board}")
        rows, columns, channels = board
        check_sizes(**{"augmentation.board": min(board)})

        # All that is seen must be boards, and each symmetry must say where an action is seen.
        parts, action = mask.seen.observations_by_key(), mask.seen.action
        for key, space in parts.items():
            if not isinstance(space, gym.spaces.Box) or prod(space.shape) != prod(board):
                raise ValueError(
                    f"augmentation.board {board} says how all that is observed is turned and reflected, which is not "
                    f"so for {key!r}, {brief(space)}: set model.augmentation to null, or the board's true size"
                )
        if symmetries == "square" and rows != columns:
            raise ValueError(
                f"a board of {rows} rows and {columns} columns is no square: set augmentation.symmetries to mirror"
            )
        kinds = {"square": (rows * columns,), "mirror": (rows * columns, columns)}[symmetries]
        if not isinstance(action, gym.spaces.Discrete) or action.n not in kinds:
            raise ValueError(
                f"augmentation.symmetries {symmetries} needs Discrete actions that are cells"
                f"{'' if len(kinds) == 1 else ' or columns'}, {' or '.join(map(str, kinds))} of them, got "
                f"{brief(action)}: set model.augmentation to null"
            )

        cells = square(rows) if symmetries == "square" else mirror(rows, columns)
        self.mask_key = mask.key
        self.shape = rows * columns, channels
        self.first = int(action.start)
        self.register_buffer("cells", cells, persistent=False)
        by_cell = action.n == rows * columns
        self.register_buffer("actions", cells if by_cell else of_columns(cells, columns), persistent=False)

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, ...]:
        """One symmetry for each of so many sequences, int64 `[B]`."""
        return (torch.randint(len(self.cells), (count,), device=device),)

    def changed(
        self, rows: SequenceBatch, record: Record, draws: tuple[Tensor, ...], steps: int
    ) -> tuple[SequenceBatch, Record]:
        """`[L, B]` rows and `[steps + 1, B]` policies as they would have been; `steps + 1` rows are left of the boards,
        and masks.
        """
        cells, actions = (kind[draws[0]] for kind in (self.cells, self.actions))
        observation = {}
        for key, x in rows.observation.items():
            seen = x[: steps + 1]
            if key == self.mask_key:
                observation[key] = permuted(seen.unsqueeze(-1), actions).squeeze(-1)
            else:
                observation[key] = permuted(seen.reshape(*seen.shape[:2], *self.shape), cells).view(seen.shape)
        number = (rows.previous_action - self.first).clamp_min(0)  # padding is 0, whatever the first number is
        done = followed(number, actions) + self.first
        if record.actions is None:
            shown = record._replace(policy=permuted(record.policy.unsqueeze(-1), actions).squeeze(-1))
        else:  # slots keep their place, and hold other actions
            slots = record.actions.long().movedim(-1, 0)
            shown = record._replace(actions=followed(slots, actions).movedim(0, -1).to(record.actions.dtype))
        return rows._replace(observation=observation, previous_action=done), shown
