"""A small agent that acts by a search in rules that it knows: nothing of it is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tic_tac_toe import root, step
from torch import Tensor, nn

from modules.agent.agent import Agent
from modules.batch import Spaces
from modules.search.search import search
from modules.search.settings import SearchSettings


class FirstLegal(nn.Module):
    """The policy that the search is to improve: the first legal action."""

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        return observation["action_mask"].argmax(-1)


class KnowsTheRules(Agent):
    """Plays `reverie/TicTacToe-v0` by a search that sees as many moves ahead as its simulations reach."""

    member_names = ("",)

    def __init__(self, spaces: Spaces | None = None, simulations: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        self.search = SearchSettings(simulations)
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.unused = nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.unused], 0.1)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        board = observation["board"].float().unflatten(-1, (9, 2))
        found = root(board[..., 0] - board[..., 1])
        legal = observation["action_mask"] > 0
        found = found._replace(valid=legal, finished=~legal.any(-1))
        return search(found, step, self.search, explore=explore).action, None

    def policy(self, member: int = 0) -> nn.Module:
        return FirstLegal()
