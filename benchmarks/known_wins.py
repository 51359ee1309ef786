"""How many ends of games a model of connect four must see until it knows a win in new ones, without any self-play.

    python benchmarks/known_wins.py [--ends 1500 6000 60000] [--updates 600] [--channels 16] [--blocks 1]

A model as that of `muzero/connect_four` learns the rewards of single moves from so many positions of random games: half
of the moves win at once, the others do not. It is judged by moves of other games: how many of the wins it knows, and
how many other moves it takes for wins. One that has no loss any more, and yet does not know new wins, has seen too few
games; one whose loss stays is too small, or needs more updates.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from datamodules.envs.board_rules import CONNECT_FOUR, Rules
from modules.batch import Spaces
from modules.networks.reward_models import StepReward
from modules.networks.value_codecs import TwoHot
from modules.world_model.latent_model import PlanningModel
from modules.world_model.spatial_model import SpatialModel

BATCH = 256
JUDGED = 2000
"""Moves that a model is judged by."""
SELDOM = 0.08
"""Chance that a position's move without a win is kept: most positions have no other."""

codec = partial(TwoHot, bins=21, low=-1.0, high=1.0, spacing="identity")


class Moves(NamedTuple):
    """Single moves: flat boards `[P, 2 cells]` int8 as who moves sees them, actions `[P]`, and whether they win."""

    board: Tensor
    action: Tensor
    wins: Tensor


def drawn_moves(count: int, seed: int, rules: Rules = CONNECT_FOUR) -> Moves:
    """So many moves of random games in random order, half of which win."""
    chance, kept, left = random.Random(seed), [], {True: count // 2, False: count - count // 2}
    while any(left.values()):
        own, other = 0, 0
        while legal := rules.legal(own | other):
            wins = [move for move in legal if rules.won(rules.played(own, other, move))]
            for won, moves in ((True, wins), (False, [move for move in legal if move not in wins])):
                if moves and left[won] and (won or chance.random() < SELDOM):
                    kept.append((rules.planes(own, other).reshape(-1), chance.choice(moves), won))
                    left[won] -= 1
            move = chance.choice(legal)
            if move in wins:
                break
            own, other = other, rules.played(own, other, move)
    chance.shuffle(kept)
    boards, actions, won = zip(*kept, strict=True)
    return Moves(torch.from_numpy(np.stack(boards)), torch.tensor(actions), torch.tensor(won))


def make_model(channels: int, blocks: int, rules: Rules = CONNECT_FOUR) -> PlanningModel:
    """The model of `muzero/connect_four`, of this size."""
    board = gym.spaces.Box(0, 1, (2 * rules.cells,), np.int8)
    shape = [rules.rows, rules.columns, 2]
    return SpatialModel(
        Spaces(board, gym.spaces.Discrete(rules.actions)),
        channels=channels, blocks=blocks, board=shape, codec=codec, reward=partial(StepReward, codec=codec),
    )  # fmt: skip


def foretold(model: PlanningModel, moves: Moves) -> Tensor:
    """The prediction of the reward of each move, for `reward_head`."""
    latent = model.represent({"observation": moves.board})
    return model.step(latent, model.memory(len(latent)), model.actor.encode(moves.action))[2]


def taught(model: PlanningModel, moves: Moves, updates: int) -> float:
    """Learn rewards from batches of these moves; the mean loss of the last tenth of the updates."""
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(updates):
        index = torch.randint(len(moves.wins), (BATCH,))
        batch = Moves(*(x[index] for x in moves))
        loss = model.reward_head.loss(foretold(model, batch), batch.wins.float()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-max(updates // 10, 1) :]))


@torch.no_grad()
def judged(model: PlanningModel, moves: Moves) -> tuple[float, float]:
    """Share of the wins that it knows, and of the other moves that it takes for wins."""
    said = model.reward_head.mean(foretold(model, moves)) > 0.5
    return float(said[moves.wins].float().mean()), float(said[~moves.wins].float().mean())


def main() -> None:
    """Print a row for each number of moves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ends", nargs="+", type=int, default=[1500, 6000, 60_000])
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=1)
    options = parser.parse_args()
    others = drawn_moves(JUDGED, 1)
    for count in options.ends:
        torch.manual_seed(0)
        model = make_model(options.channels, options.blocks)
        loss = taught(model, drawn_moves(count, 0), options.updates)
        known, mistaken = judged(model, others)
        print(f"{count} moves: loss {loss:.3f}, knows {known:.1%} of wins, takes {mistaken:.1%} of others for wins")


if __name__ == "__main__":
    main()
