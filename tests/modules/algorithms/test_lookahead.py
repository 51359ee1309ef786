"""Lookahead: the Newton step in a system that is known, CartPole, batches, the guard, and bad arguments."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from dynamics_agents import NUMBERED, SPACES, linear
from dynamics_agents import make as make_dynamics
from known_models import ACTIONS, OPTIMUM, LinearQuadratic, at_rest, cost_of, lean, riccati

from callbacks.evaluation.rollout import evaluate_policy, evaluation_environments
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.simulator import Simulator
from modules.algorithms.lookahead import Lookahead, LookaheadPolicy

TABLE = {  # error of the value, and of the policies that look 1, 2 and 3 steps ahead
    0.25: (-1.37, 1.271, 1.7e-2, 3.7e-4),
    1.0: (-0.62, 0.0486, 1.0e-3, 2.2e-5),
    4.0: (2.38, 0.0903, 1.9e-3, 3.9e-5),
    100.0: (98.4, 0.362, 6.7e-3, 1.4e-4),
}


def regulator(k: float, depth: int, *strengths: float, **settings: Any) -> LookaheadPolicy:
    """Lookahead for the linear system with a terminal cost `k x^2`."""
    settings = {"candidates": 128, "refinements": 45, "noise": 0.1, **settings}
    return LookaheadPolicy(
        at_rest, LinearQuadratic(*strengths), lambda x: -k * x[:, 0].square(), ACTIONS,
        Lookahead(depth=depth, **settings), discount=1.0,
    )  # fmt: skip


def gain_of(policy: LookaheadPolicy) -> float:
    action, _ = policy.act(torch.ones(1, 1, dtype=torch.float64))
    return -float(action)


@pytest.mark.parametrize("k", TABLE)
def test_the_policies_of_the_linear_quadratic_table(k: float) -> None:
    error, *policies = TABLE[k]
    assert k - OPTIMUM == pytest.approx(error, abs=0.05)
    before = k
    for depth, expected in enumerate(policies, 1):
        gain = gain_of(regulator(k, depth))
        assert gain == pytest.approx(before / (1.0 + before), abs=1e-4)  # the best action before depth - 1 iterations
        assert cost_of(gain) - OPTIMUM == pytest.approx(expected, abs=1e-3)
        before = riccati(before)


def test_the_error_of_one_step_is_the_square_of_the_value_s_near_the_optimum() -> None:
    errors = [cost_of(gain_of(regulator(OPTIMUM + d, 1))) - OPTIMUM for d in (0.8, 0.4, 0.2)]
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    exact = [cost_of((OPTIMUM + d) / (1 + OPTIMUM + d)) - OPTIMUM for d in (0.8, 0.4, 0.2)]
    assert errors == pytest.approx(exact, rel=0.02)
    assert all(3.0 < ratio < 4.2 for ratio in ratios)  # four in the limit; two would be a linear rate


def test_chance_in_imagination_moves_no_global_stream() -> None:
    class Drawing(LinearQuadratic):
        def step(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, ...]:
            np.random.random()
            return super().step(state, action + 0.1 * torch.randn_like(action))

    policy = LookaheadPolicy(at_rest, Drawing(), lambda x: -x[:, 0].square(), ACTIONS, Lookahead(), discount=1.0)
    drawn = []
    for looks in (0, 1, 2):
        torch.manual_seed(0)
        np.random.seed(0)
        for _ in range(looks):
            policy.act(torch.ones(1, 1))
        drawn.append((float(torch.rand(())), float(np.random.random())))
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_rollout_of_the_base_policy_stands_for_steps_of_its_value() -> None:
    base = lambda x: -0.5 * x  # noqa: E731 - a policy
    plain = LookaheadPolicy(
        base, LinearQuadratic(), lambda x: -2.0 * x[:, 0].square(), ACTIONS, Lookahead(rollout=3), discount=0.9
    )
    x = torch.tensor([[2.0]])
    plans = torch.tensor([[[[1.0]]]])
    scores, first = plain.score(x, plans)
    for candidate, push in enumerate((0.0, 1.0)):
        state, total = 2.0, 0.0
        for t in range(4):
            action = -0.5 * state + (push if t == 0 else 0.0)
            total -= 0.9**t * (state**2 + action**2)
            state += action
        total -= 0.9**4 * 2.0 * state**2
        assert float(scores[0, 0, candidate]) == pytest.approx(total, rel=1e-5)
    assert first[0, :, 0].tolist() == [-1.0, 0.0]


def test_a_batch_is_its_rows_one_by_one_and_repeats_itself() -> None:
    policy = regulator(3.0, 2, 1.0, 0.8, refinements=2, guard=0.1)
    x = torch.randn(7, 1, generator=torch.Generator().manual_seed(0))
    together, state = policy.act(x)
    assert state is None
    alone = torch.cat([policy.act(row[None])[0] for row in x])
    torch.testing.assert_close(together, alone)
    again, _ = regulator(3.0, 2, 1.0, 0.8, refinements=2, guard=0.1).act(x)
    assert torch.equal(together, again)
    assert policy.decided == 14


def test_the_guard_keeps_the_base_action_where_models_disagree_more_than_they_gain() -> None:
    x = torch.ones(1, 1)
    bold, shy = (regulator(3.0, 1, 1.0, -0.8, guard=g, refinements=0) for g in (0.0, 1.0))
    assert abs(float(bold.act(x)[0])) > 0.05
    assert float(shy.act(x)[0]) == 0.0
    assert (bold.changed, shy.changed) == (1, 0)
    agreed = regulator(3.0, 1, 1.0, 0.8, guard=1.0, refinements=0)
    assert float(agreed.act(x)[0]) < -0.3


@pytest.mark.parametrize("spaces", [SPACES, NUMBERED], ids=["box", "numbered"])
def test_an_ensemble_is_looked_ahead_in_as_by_plain_loops(spaces: Any) -> None:
    agent, numbers = make_dynamics(spaces), spaces is NUMBERED
    base = (lambda x: 1 + (x[:, 0] > 0).long()) if numbers else (lambda x: x[:, :1].clamp(-2, 2))
    policy = LookaheadPolicy(
        base,
        agent,
        lambda x: x[:, 1],
        spaces.action,
        Lookahead(depth=2, rollout=1, candidates=5),
        reward=lambda r: 2 * r,
    )
    observation = linear(3).observation
    scores, first = policy.score(observation, policy.plans[None])
    assert scores.shape == (2, 3, 10 if numbers else 5)
    assert torch.equal(first[:, 0], base(observation))
    for k in range(2):
        for n in range(3):
            for c in range(scores.shape[2]):
                x, total, weight = observation[n], 0.0, 1.0
                for t in range(3):
                    action = base(x[None])
                    if c and t < 2:
                        plan = policy.plans[c - 1, t]
                        action = plan[None] if numbers else (action + plan).clamp(-2, 2)
                    step = agent.predict(x.expand(2, 1, -1), action.expand(2, *action.shape))
                    assert step.termination is not None
                    total += weight * 2 * float(step.mean[k, 0, -1])
                    weight *= 0.99 * (1 - float(step.termination[k, 0].sigmoid()))
                    x = x + step.mean[k, 0, :2].detach()
                assert float(scores[k, n, c]) == pytest.approx(total + weight * float(x[1]), rel=1e-4, abs=1e-5)


# ------------------------------------------------------------------------------------------------- the true simulator
def cartpole(parallel: int, **settings: Any) -> tuple[LookaheadPolicy, Any]:
    spec = EnvironmentSpec("CartPole-v1")
    vector: Any = evaluation_environments(spec, parallel, 0)
    model = Simulator(spec.make, lambda: [env.env for env in vector.envs])
    value = lambda x: -0.01 * x[:, 2].abs() - 0.001 * x[:, 0].abs()  # noqa: E731
    return LookaheadPolicy(lean, model, value, gym.spaces.Discrete(2), Lookahead(**settings), discount=1.0), vector


def test_lookahead_in_the_simulator_holds_the_pole_that_the_heuristic_drops() -> None:
    policy, vector = cartpole(1, rollout=20)
    lookahead = evaluate_policy(policy, vector, 1, 0).returns[0]
    still = LookaheadPolicy(lean, policy.model, lambda x: x[:, 0] * 0, gym.spaces.Discrete(2))
    base = evaluate_policy(still, vector, 1, 0).returns[0]
    assert still.changed == 0  # every candidate earns the same, so that the base action stays
    assert base.mean() < 70
    assert lookahead.mean() >= 2 * base.mean()
    assert 0 < policy.changed < policy.decided


@pytest.mark.slow
def test_lookahead_with_a_long_rollout_holds_the_pole_for_250_steps() -> None:
    policy, vector = cartpole(8, rollout=100)
    returns = evaluate_policy(policy, vector, 8, 0).returns[0]
    assert returns.mean() >= 250


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"mode": "beam"}, "lookahead.mode must be one of"), ({"noise": -1.0}, "lookahead.noise must lie"),
     ({"depth": 0}, "lookahead.depth must lie"), ({"candidates": 1}, "lookahead.candidates must lie"),
     ({"guard": -1.0}, "lookahead.guard must lie"), ({"rollout": 0.5}, "lookahead.rollout must be")],
)  # fmt: skip
def test_bad_settings_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Lookahead(**settings)


@pytest.mark.parametrize(
    ("space", "settings", "why"),
    [(gym.spaces.Discrete(2), {"mode": "sample"}, "use enumerate"), (ACTIONS, {"mode": "enumerate"}, "use sample"),
     (gym.spaces.Discrete(10), {"depth": 5}, "number of sequences of actions"),
     (gym.spaces.Discrete(2), {"refinements": 1}, "refinements would be ignored.*set it to 0"),
     (ACTIONS, {"pessimism": 0.5}, "pessimism would be ignored.*set it to 0"),
     (gym.spaces.Box(-np.inf, np.inf, (1,)), {}, "bounded Box"), (gym.spaces.MultiDiscrete([2, 2]), {}, "bounded Box")],
)  # fmt: skip
def test_actions_that_do_not_fit_are_refused(space: gym.Space, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        LookaheadPolicy(at_rest, LinearQuadratic(), lambda x: x[:, 0], space, Lookahead(**settings))
