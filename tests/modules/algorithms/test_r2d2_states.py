"""R2D2's states: stored by the replay, warmed up by burn-in, refreshed, and those that the agent acted by."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from r2d2_agents import BURN_IN, make_agent, make_batch, predictions, trunk
from torch import Tensor

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.collector import Collector
from datamodules.played.fields import field_of, observation_fields
from datamodules.played.policies import AgentPolicy
from datamodules.played.setting import make_environments
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.streams import ReplaySettings
from modules.algorithms.r2d2 import R2D2
from modules.batch import PrioritizedSequences, SequenceBatch, Spaces
from modules.networks.recurrent import ActionValues


@pytest.mark.parametrize("row", [1, BURN_IN, BURN_IN + 2])
@pytest.mark.parametrize("burn_in", [0, BURN_IN])
def test_state_that_is_written_back_is_that_of_its_row(row: int, burn_in: int) -> None:
    agent = make_agent(lr=0.0)
    agent.burn_in, agent.refreshed_row = burn_in, row
    batch = make_batch(agent)
    feedback = agent.update(batch).feedback
    rows = SequenceBatch(
        {k: x[:row] for k, x in batch.sequence.observation.items()}, *(x[:row] for x in batch.sequence[1:])
    )
    _, expected = agent.network.unroll(rows, batch.start_state)
    assert feedback is not None
    torch.testing.assert_close(feedback.state, expected)


def test_burn_in_brings_values_closer_to_those_of_the_whole_episode_than_a_zero_state() -> None:
    agent = make_agent(lr=5e-3)
    length, rows, start, burn_in = 60, 16, 30, 10
    generator = torch.Generator().manual_seed(5)
    flags = torch.zeros(3, length, rows, dtype=torch.bool)
    flags[0, 0] = True
    drawn = torch.randint(1, 4, (length, rows), generator=generator), torch.randn(length, rows, generator=generator)
    observation = torch.randn(length, rows, 3, generator=generator)
    episode = SequenceBatch({"observation": observation}, *drawn, *flags)

    def between(begin: int, stop: int) -> SequenceBatch:
        return SequenceBatch({"observation": observation[begin:stop]}, *(x[begin:stop] for x in episode[1:]))

    with torch.no_grad():
        _, stored = agent.network.unroll(between(0, start - burn_in), agent.network.initial(rows))
    for seed in range(120):  # weights drift away from those that the state was stored with
        agent.update(make_batch(agent, seed))
    with torch.no_grad():
        whole = agent.network.head(agent.network.unroll(episode, agent.network.initial(rows))[0])[start:]

        def distance(begin: int, state: Tensor) -> float:
            features, _ = agent.network.unroll(between(begin, length), state)
            return float((agent.network.head(features)[start - begin :] - whole).square().mean().sqrt())

        zero = torch.zeros_like(stored)
        assert distance(0, zero) < 1e-6
        assert distance(start - burn_in, stored) > 1e-3  # for the weights have drifted
        assert distance(start - burn_in, stored) < 0.5 * distance(start, zero)


class Noted(R2D2):
    """Remembers what it saw and which values it gave it, when it acted."""

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> Any:
        with torch.no_grad():
            before = self.initial_state(len(observation)) if state is None else state
            action, reward, first = (x.unsqueeze(0) for x in before[1:])
            rows = SequenceBatch({"observation": observation.unsqueeze(0)}, action, reward, first, first, first)
            values = self.network.head(self.network.unroll(rows, before.memory)[0])[0]
        self.noted.update({tuple(o.tolist()): v for o, v in zip(observation, values, strict=True)})
        return super().act(observation, state, explore=explore)


@pytest.mark.parametrize("burn_in", [0, 4])
def test_sequences_of_the_replay_give_the_values_that_the_agent_acted_by(tmp_path: Path, burn_in: int) -> None:
    """Stored states, previous actions and rewards are those of the right row: with the same weights nothing differs."""
    torch.manual_seed(0)
    spec = EnvironmentSpec("CartPole-v1")
    env = make_environments(spec, 3, vectorization="sync", seed=0, protection=Protection(0))
    space = env.single_observation_space
    agent = Noted(Spaces(space, env.single_action_space), partial(ActionValues, units=8, trunk=trunk), epsilon=1.0)
    agent.noted = {}
    told = ReplaySettings(
        tmp_path, observation_fields(space), field_of(env.single_action_space, "the action"), streams=3, capacity=500,
        margin=20, batch_size=64, length=6, stored_width=agent.stored_width,
    )  # fmt: skip
    replay = PrioritizedReplay(told, burn_in=burn_in, overlap=2)
    collector = Collector(env, spec.id, 0)
    replay.extend(collector.collect(90, AgentPolicy(agent, 3)))
    collector.close()
    batch = PrioritizedSequences.from_tensordict(replay.sample())
    found = predictions(agent, batch)
    compared = 0
    for t, b in (~batch.padding).nonzero().tolist():
        seen = tuple(batch.sequence.observation["observation"][t, b].tolist())
        if seen in agent.noted:
            torch.testing.assert_close(found[t, b], agent.noted[seen], rtol=0, atol=1e-5)
            compared += 1
    assert compared > 300
    assert batch.padding.any()
