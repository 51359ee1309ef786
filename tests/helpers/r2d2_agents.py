"""Small recurrent agents and hand-made sequences for tests."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from modules.algorithms.r2d2 import R2D2
from modules.batch import PrioritizedSequences, SequenceBatch, Spaces
from modules.networks.blocks import DenseStack
from modules.networks.recurrent import LSTM, ActionValues

VECTOR = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
TURN = gym.spaces.Discrete(3, start=1)
BURN_IN, TRAINED = 3, 6

trunk = partial(DenseStack, layers=1)


def make_agent(
    network: dict[str, Any] | None = None, action: gym.Space = TURN, observation: gym.Space = VECTOR, **arguments: Any
) -> R2D2:
    """An agent of about 1000 parameters that learns quickly."""
    torch.manual_seed(0)
    made = {"units": 8, "trunk": trunk, "memory": partial(LSTM, width=8), **(network or {})}
    settings = {"n_step": 3, "lr": 1e-2, "target_period": 1000, **arguments}
    agent = R2D2(Spaces(observation, action), partial(ActionValues, **made), **settings)
    agent.burn_in = BURN_IN
    return agent


def make_batch(agent: R2D2, seed: int = 1) -> PrioritizedSequences:
    """Sequences that start within an episode and at its start, and that end, are cut, and go on."""
    generator = torch.Generator().manual_seed(seed)
    length, count = agent.burn_in + TRAINED + 1, 5
    starts, ends = [0, 0, BURN_IN, 1, BURN_IN], [length, BURN_IN + 3, length, BURN_IN + 2, BURN_IN + 2]
    time = torch.arange(length).unsqueeze(1)
    padding = (time < torch.tensor(starts)) | (time >= torch.tensor(ends))
    flags = torch.zeros(3, length, count, dtype=torch.bool)  # first, terminated, truncated
    flags[0, BURN_IN, 2] = flags[0, 1, 3] = flags[0, BURN_IN, 4] = True
    flags[1, BURN_IN + 2, 1] = flags[1, -1, 2] = flags[1, BURN_IN + 1, 4] = True
    flags[2, BURN_IN + 1, 3] = True
    action = agent.network.choices[torch.randint(len(agent.network.choices), (length, count), generator=generator)]
    reward = 5.0 * torch.randn(length, count, generator=generator)
    observation = torch.randn(length, count, 3, generator=generator)
    rows = [x.masked_fill(padding, 0) for x in (action, reward)]
    observation = observation.masked_fill(padding.unsqueeze(-1), 0.0)
    start_state = 0.5 * torch.randn(count, agent.stored_width, generator=generator)
    weight = torch.rand(count, generator=generator)
    sequence = SequenceBatch({"observation": observation}, *rows, *flags)
    return PrioritizedSequences(sequence, padding, start_state, weight, torch.arange(count), torch.arange(count))


def predictions(agent: R2D2, batch: PrioritizedSequences, target: bool = False) -> Tensor:
    """`[L, B, A]` predictions, row by row from the start states."""
    network = agent.target_network if target else agent.network
    state, found = batch.start_state, []
    for t in range(len(batch.padding)):
        row = SequenceBatch({k: x[t : t + 1] for k, x in batch.sequence.observation.items()},
                       *(x[t : t + 1] for x in batch.sequence[1:]))  # fmt: skip
        features, state = network.unroll(row, state)
        found.append(network.head(features)[0])
    return torch.stack(found).detach()
