"""ATAC members: each learns what it would learn alone, acts on its own rows, and may diverge without the others."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import make_agent, make_batch

from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces, Transition


def test_a_member_equals_the_same_run_done_alone() -> None:
    population = make_agent(beta=[0.5, 4.0], seeds=2, warm_start=WarmStart(20))
    alone = make_agent(beta=4.0, seeds=1, seed=1, warm_start=WarmStart(20))
    index = population.member_names.index("beta=4/seed=1")
    for i in range(50):
        mine, other = make_batch(seed=2 * i), make_batch(seed=2 * i + 1)
        joined = Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True)))  # type: ignore[arg-type]
        population.update(joined)
        population.advance()
        alone.update(mine)
        alone.advance()
    for stacked, plain in ((population.actor.network, alone.actor.network), (population.critic, alone.critic)):
        rows = index if stacked is population.actor.network else 4 + index
        own = 0 if stacked is population.actor.network else 1
        for p, q in zip(stacked.member(rows).parameters(), plain.member(own).parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_shared_batch_gives_every_seed_the_same_rows() -> None:
    agent = make_agent(seeds=2, shared_batch=True)
    metrics = agent.update(make_batch()).metrics
    alone = [make_agent(seed=seed).update(make_batch()).metrics for seed in (0, 1)]
    for name, value in metrics.items():
        torch.testing.assert_close(value, torch.cat([one[name] for one in alone]), rtol=1e-4, atol=1e-6)
    assert agent.member_names == ("beta=4/seed=0", "beta=4/seed=1")


def test_act_and_policy_use_member_major_rows_and_environment_units() -> None:
    spaces = Spaces(
        gym.spaces.Box(-np.inf, np.inf, (4,)),
        gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)),
        np.full(4, 3.0),
        np.full(4, 2.0),
    )
    agent = ATAC(spaces, beta=[0.5, 4.0], seeds=1, hidden=[8])
    with torch.no_grad():
        agent.actor.network.layers[-1].bias[1, :, :2] = 50.0  # type: ignore[union-attr, index, operator]
    observation = torch.randn(3, 4)
    action, _ = agent.act(observation.repeat(2, 1), explore=False)
    torch.testing.assert_close(action[3:], torch.tensor([[2.0, 10.0]]).expand(3, 2))
    for member in range(2):
        torch.testing.assert_close(agent.policy(member)(observation), action[3 * member : 3 * member + 3])


def test_a_diverged_member_is_masked_and_the_other_goes_on() -> None:
    agent = make_agent(beta=[1.0, 4.0], shared_batch=True)
    with torch.no_grad():
        agent.critic.layers[0].weight[0] = float("nan")  # type: ignore[union-attr, index, operator]
    with pytest.warns(UserWarning, match="beta=1/seed=0"):
        values = agent.read_back(agent.update(make_batch()).metrics)
    assert agent.alive == [False, True]
    assert values["atac/beta=4/seed=0/bellman_error"] > 0
    with torch.no_grad():
        agent.critic.layers[0].weight[1] = float("nan")  # type: ignore[union-attr, index, operator]
    with pytest.warns(UserWarning, match="beta=4"), pytest.raises(FloatingPointError, match="every member"):
        agent.read_back(agent.update(make_batch()).metrics)
