"""Share of all positions of tic-tac-toe in which the move of an agent keeps what the position is worth.

    python benchmarks/sound_moves.py CHECKPOINT [CHECKPOINT ...] [--simulations 16 50]

A hundred games against perfect play end in draws as soon as an agent knows the few boards that they lead to; this asks
it about all 4,520 positions that are not over, and tells where it errs: by the number of stones on the board, and where
a move wins at once. Positions in which no move is a mistake are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from commands.checkpoints import load_agent
from commands.simulations import Searching
from datamodules.envs.board_rules import TIC_TAC_TOE, Rules
from datamodules.envs.minimax import WIN, best_moves
from modules.batch import ACTION_MASK

Act = Callable[[dict[str, Tensor]], Tensor]
"""Flat boards and masks of positions `[P, ...]` to actions `[P]`."""


class Position(NamedTuple):
    """One position that is not over, as who moves sees it: stones, and what each legal move leads to.

    Attributes:
        own: stones of who moves.
        other: stones of the other player.
        worth: by move, 1 for a game that is won by it under perfect play, 0 for a draw and -1 for a loss.
        wins: moves that win at once.
    """

    own: int
    other: int
    worth: dict[int, int]
    wins: list[int]

    @property
    def sound(self) -> list[int]:
        """Moves that keep what the position is worth."""
        best = max(self.worth.values())
        return [move for move, worth in self.worth.items() if worth == best]


def positions(rules: Rules = TIC_TAC_TOE) -> list[Position]:
    """All that can come up and are not over, the empty board first."""
    found: dict[tuple[int, int], Position] = {}
    waiting = [(0, 0)]
    for own, other in waiting:  # grows while it is walked
        if (own, other) in found:
            continue
        worth, wins = {}, []
        for move in rules.legal(own | other):
            mine = rules.played(own, other, move)
            if rules.won(mine):
                worth[move] = 1
                wins.append(move)
            elif rules.full(mine | other):
                worth[move] = 0
            else:
                worth[move] = -outcome(best_moves(rules, other, mine, rules.cells).score)
                waiting.append((other, mine))
        found[own, other] = Position(own, other, worth, wins)
    return list(found.values())


def outcome(score: int) -> int:
    """A win, a draw or a loss, 1, 0 or -1, by the score of a minimax that looks to the end."""
    return int(np.sign(score)) if abs(score) > WIN / 2 else 0


def observed(known: Sequence[Position], rules: Rules = TIC_TAC_TOE) -> dict[str, Tensor]:
    """Flat boards `[P, 2 cells]` and masks `[P, A]`, int8, as replays and evaluations hand them to an agent."""
    boards = np.stack([rules.planes(p.own, p.other).reshape(-1) for p in known])
    masks = np.zeros((len(known), rules.actions), np.int8)
    for mask, position in zip(masks, known, strict=True):
        mask[list(position.worth)] = 1
    return {"board": torch.from_numpy(boards), ACTION_MASK: torch.from_numpy(masks)}


def shares(known: Sequence[Position], act: Act) -> dict[str, float]:
    """Share of sound moves where there is a mistake to be made: of all positions, by stones, and of wins at once."""
    actions = act(observed(known)).tolist()
    matters = [(p, move) for p, move in zip(known, actions, strict=True) if len(p.sound) < len(p.worth)]
    found = {"all": float(np.mean([move in p.sound for p, move in matters]))}
    for stones in range(TIC_TAC_TOE.cells):
        there = [move in p.sound for p, move in matters if (p.own | p.other).bit_count() == stones]
        if there:
            found[f"{stones} stones"] = float(np.mean(there))
    found["takes a win"] = float(np.mean([move in p.wins for p, move in zip(known, actions, strict=True) if p.wins]))
    return found


def player(agent: Any) -> Act:
    """The agent's moves without exploration."""
    return lambda seen: agent.act(seen, agent.initial_state(len(seen["board"])), explore=False)[0]


def main() -> None:
    """Print a row for each checkpoint and number of simulations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--simulations", nargs="+", type=int, default=[16])
    options = parser.parse_args()
    known = positions()
    for path in options.checkpoints:
        agent, _ = load_agent(path)
        if not isinstance(agent, Searching):
            parser.error(f"{path}: {type(agent).__name__} does not act by a search")
        for count in options.simulations:
            agent.search = replace(agent.search, simulations=count)
            row = ", ".join(f"{name} {share:.1%}" for name, share in shares(known, player(agent)).items())
            print(f"{path}, {agent.updates} updates, {count} simulations: {row}")


if __name__ == "__main__":
    main()
