"""Trees of a lookahead: a tabular world, the regulator against all sequences of actions, several models, and copies."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from known_models import ACTIONS, LinearQuadratic, at_rest
from torch import Tensor

from datamodules.envs.simulator import Simulator
from modules.algorithms.lookahead import Lookahead, LookaheadPolicy

WORLDS, CHOICES, STEPS = 12, 3, 3


class Branching(gym.Env):
    """One of some worlds in which three choices among three lead to as many places as there are sequences of them."""

    observation_space = gym.spaces.Box(0.0, 100.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(CHOICES)
    pays = np.random.default_rng(5).normal(size=(WORLDS, STEPS, CHOICES**STEPS))

    def __init__(self, world: int = 0) -> None:
        self.world = world
        self.time = 0
        self.place = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = self.place = 0
        return self.seen(), {}

    def seen(self) -> np.ndarray:
        return np.array([self.world, self.time, self.place], np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = CHOICES * self.place + int(action)
        reward = float(self.pays[self.world, self.time, self.place])
        self.time += 1
        return self.seen(), reward, self.time == STEPS, False, {}

    @classmethod
    def returns(cls) -> np.ndarray:
        """`[worlds, choices]` best return behind each first choice, from the last step back."""
        best = np.zeros((WORLDS, CHOICES**STEPS))
        for step in reversed(range(STEPS)):
            places = CHOICES ** (step + 1)
            total = cls.pays[:, step, :places] + best[:, :places]
            best = total.reshape(WORLDS, -1, CHOICES).max(-1)
        return total


def test_a_tree_in_the_true_simulator_finds_the_best_actions_of_a_tabular_world() -> None:
    live = [Branching(world) for world in range(WORLDS)]
    observation = torch.from_numpy(np.stack([env.reset(seed=0)[0] for env in live]))
    returns = Branching.returns()

    def chosen(**settings: Any) -> np.ndarray:
        policy = LookaheadPolicy(
            lambda x: torch.zeros(len(x), dtype=torch.int64), Simulator(Branching, lambda: live),
            lambda x: torch.zeros(len(x)), gym.spaces.Discrete(CHOICES), Lookahead(**settings), discount=1.0,
        )  # fmt: skip
        return policy.act(observation)[0].numpy()

    assert np.array_equal(chosen(depth=STEPS), returns.argmax(1))  # all 27 sequences
    assert np.array_equal(chosen(mode="tree", candidates=120), returns.argmax(1))
    assert not np.array_equal(chosen(depth=1), returns.argmax(1))
    assert {(env.time, env.place) for env in live} == {(0, 0)}  # what is played stays where it is


class Pushes(LinearQuadratic):
    """The linear system with numbered actions."""

    pushes = torch.linspace(-1.5, 1.5, 7)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().step(state, self.pushes[action][:, None])


def cost(k: float, **settings: Any) -> float:
    """Of eight steps from several places, by lookahead with the terminal cost `k x^2`."""
    policy = LookaheadPolicy(
        lambda x: torch.full((len(x),), 3), Pushes(), lambda x: -k * x[:, 0].square(), gym.spaces.Discrete(7),
        Lookahead(**settings), discount=1.0,
    )  # fmt: skip
    x, total = torch.linspace(-3.0, 3.0, 13)[:, None], torch.zeros(13)
    for _ in range(8):
        x, reward, _ = Pushes().step(x, policy.act(x)[0])
        total -= reward
    return float((total + 1.6 * x[:, 0].square()).mean())


@pytest.mark.parametrize("k", [1.0, 4.0])
def test_the_regulator_is_that_of_all_sequences_with_as_many_steps_of_the_model(k: float) -> None:
    every = cost(k, depth=2)  # 49 sequences of 2 steps
    assert cost(k, mode="tree", candidates=98) <= 1.01 * every
    assert cost(1.0, depth=1) > 1.2 * every


def continuous(*strengths: float, **settings: Any) -> LookaheadPolicy:
    settings = {"mode": "tree", "candidates": 24, "noise": 0.1, **settings}
    value = lambda x: -1.5 * x[:, 0].square()  # noqa: E731
    return LookaheadPolicy(at_rest, LinearQuadratic(*strengths), value, ACTIONS, Lookahead(**settings), discount=1.0)


def test_drawn_actions_push_back_and_a_batch_is_its_rows_one_by_one() -> None:
    x = torch.tensor([[2.0], [-2.0], [1.0], [0.0]])
    policy = continuous(refinements=2)
    together, _ = policy.act(x)
    assert (together[:3] * x[:3] < 0).all()
    assert float(together[3]) == 0.0
    torch.testing.assert_close(together, torch.cat([policy.act(row[None])[0] for row in x]))
    assert torch.equal(together, continuous(refinements=2).act(x)[0])


def test_the_guard_keeps_the_base_action_where_models_disagree_more_than_they_gain() -> None:
    x = torch.ones(1, 1)
    bold, shy = (continuous(1.0, -0.8, guard=guard).act(x)[0] for guard in (0.0, 1.0))
    assert abs(float(bold)) > 0.02
    assert float(shy) == 0.0
    assert float(continuous(1.0, 0.8).act(x)[0]) < -0.1


def test_a_model_that_fails_changes_nothing() -> None:
    class Broken(LinearQuadratic):
        def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, ...]:
            after, reward, ended = super().step(state, action)
            return after, torch.where(action[:, 0] == 0, reward, torch.nan), ended

    value = lambda x: -x[:, 0].square()  # noqa: E731
    policy = LookaheadPolicy(at_rest, Broken(), value, ACTIONS, Lookahead(mode="tree", candidates=9), discount=1.0)
    assert float(policy.act(torch.ones(1, 1))[0]) == 0.0


def test_fewer_simulations_than_actions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be at least lookahead.slots, 30, so that each is tried; got 24"):
        continuous(slots=30)
