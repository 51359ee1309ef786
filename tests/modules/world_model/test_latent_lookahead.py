"""A world model that is looked ahead in: its rewards, ends and copies, and the memory of the action that was taken."""

from __future__ import annotations

import torch
from dreamer_agents import PUSH, TURN, make_agent

from modules.algorithms.lookahead import Lookahead, LookaheadPolicy
from modules.world_model.latent_lookahead import LatentLookahead


def test_a_step_has_the_reward_and_the_end_of_the_state_before_it() -> None:
    agent = make_agent()
    model = LatentLookahead(agent)
    memory = model.observe(torch.randn(2, 3), model.initial_state(2))
    rows = model.begin(memory, 3)
    features = model.view(rows)
    assert torch.equal(features[:3], memory.state.features[:1].expand(3, -1))
    after, reward, ended = model.step(rows, torch.tensor([0, 1, 1, 2, 2, 0]))
    torch.testing.assert_close(reward, agent.world_model.expected_reward(features))
    torch.testing.assert_close(0.99 * (1.0 - ended), agent.world_model.expected_discount(features, 0.99).clamp(0, 0.99))
    seen = model.view(after)
    assert torch.equal(seen[1], seen[2])  # the same action meets the same chance
    assert not torch.equal(seen[0], seen[1])
    assert model.value(seen).shape == (6,)


def test_the_memory_holds_the_action_that_was_taken() -> None:
    for space in (TURN, PUSH):
        agent = make_agent(action=space)
        model = LatentLookahead(agent)
        policy = LookaheadPolicy(model.policy, model, model.value, space, Lookahead(candidates=4, guard=0.0))
        state = policy.initial_state(2)
        for _ in range(3):
            action, state = policy.act(torch.randn(2, 3), state)
            torch.testing.assert_close(state.action, agent.behaviour.actor.encode(action))
        assert policy.decided == 6
        assert all(space.contains(x) for x in action.numpy())
