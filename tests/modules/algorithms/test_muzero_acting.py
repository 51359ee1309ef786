"""MuZero as it acts: masks, units, temperatures, its policy alone, and what a checkpoint knows of its search."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from checkpoint_files import save
from muzero_agents import (
    ENDS,
    KINDS,
    LENGTH,
    VECTOR,
    make_agent,
    make_batch,
)

from modules.agent.agent import Agent
from modules.agent.planning import unpack
from modules.algorithms.muzero import MuZero
from modules.functional.planning_targets import VTrace
from modules.model_contracts import HasLatents
from modules.search.rules import PUCT

# --------------------------------------------------------------------------------------------------------------- acting
BOARD = gym.spaces.Dict({"board": VECTOR, "action_mask": gym.spaces.MultiBinary(3)})


def test_masked_actions_are_never_taken_and_games_that_are_over_are_not_searched() -> None:
    agent = make_agent(observation=BOARD)
    legal = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 0, 0]]).repeat(20, 1)
    observation = {"board": torch.randn(60, 3), "action_mask": legal}
    for explore in (False, True):
        action, state = agent.act(observation, explore=explore)
        taken = legal.gather(1, action.unsqueeze(1) - 1).squeeze(1).unflatten(0, (20, 3))
        assert taken[:, :2].all()
        known = unpack(agent.stored_state(state), agent.slots).known.unflatten(0, (20, 3))
        assert torch.equal(known, torch.tensor([True, True, False]).expand(20, 3))
    raw = agent.policy()(observation)
    assert legal[:2].gather(1, raw[:2].unsqueeze(1) - 1).all()


def test_rows_in_which_the_model_gives_no_numbers_are_reported_once_and_teach_nothing() -> None:
    agent = make_agent(observation=BOARD)
    board = torch.randn(3, 3)
    board[1] = torch.nan
    observation = {"board": board, "action_mask": torch.tensor([[1, 0, 0], [0, 0, 1], [1, 1, 1]])}
    with pytest.warns(UserWarning, match="the model gave NaN or infinity in a search"):
        action, state = agent.act(observation, explore=True)
    assert action[:2].tolist() == [1, 3]  # an action that may be taken all the same
    record = unpack(agent.stored_state(state), agent.slots)
    assert record.known.tolist() == [True, False, True]
    assert all(x.isfinite().all() for x in (record.policy, record.value, record.log_prob))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.act(observation, explore=True)


def test_a_mask_that_allows_nothing_where_something_was_done_is_refused() -> None:
    agent = make_agent(observation=BOARD)
    batch = make_batch(agent)
    legal = torch.ones(LENGTH, len(ENDS), 3)
    legal[2, 1] = 0.0  # the last row of this episode
    observation = {"board": batch.sequence.observation["observation"], "action_mask": legal}
    batch = batch._replace(sequence=batch.sequence._replace(observation=observation))
    agent.update(batch)
    legal[1, 1] = 0.0
    with pytest.raises(ValueError, match="the mask 'action_mask' allows no action in a state that others follow"):
        agent.update(batch)


def test_its_latents_are_the_models_and_those_of_an_untrained_agent_are_others() -> None:
    agent = make_agent(observation=BOARD)
    assert isinstance(agent, HasLatents)
    rows = make_batch(agent).sequence
    legal = torch.ones(*rows.reward.shape, 3)
    windows = rows._replace(observation={"board": rows.observation["observation"], "action_mask": legal})
    found = agent.latents(windows, 2)
    assert found.shape == (3, *rows.reward.shape, agent.model.width)
    torch.testing.assert_close(found, agent.model.foreseen(windows, 2))
    assert not found.requires_grad
    other = agent.untrained()
    assert dict(other.hparams) == dict(agent.hparams)
    assert not torch.allclose(other.latents(windows, 2), found)


def test_the_policy_alone_takes_the_most_likely_action() -> None:
    agent = make_agent()
    observation = torch.randn(50, 3)
    stats, _ = agent.model.predict(agent.model.represent({"observation": observation}))
    assert torch.equal(agent.policy()(observation), stats.argmax(-1) + 1)


def test_the_temperature_follows_its_schedule() -> None:
    agent = make_agent(**KINDS["pUCT"])
    agent.updates = 50
    assert isinstance(agent.settings.rule, PUCT)
    assert agent.settings.rule.temperature == pytest.approx(0.625)
    assert replace(agent.settings, rule=PUCT()) == agent.search


def test_drawn_actions_are_in_the_environments_units() -> None:
    agent = make_agent(**KINDS["drawn"])
    action, state = agent.act(torch.randn(40, 3), explore=True)
    assert action.shape == (40, 2)
    assert float(action.abs().max()) <= 2.0
    record = unpack(agent.stored_state(state), agent.slots)
    assert record.actions is not None
    assert torch.isclose(record.actions, action.unsqueeze(1) / 2.0, rtol=0, atol=1e-6).all(-1).any(-1).all()


def test_a_model_without_numbers_is_reported(recwarn: pytest.WarningsRecorder) -> None:
    agent = make_agent()
    with torch.no_grad():
        agent.model.representation.bias.fill_(math.nan)
    _, state = agent.act(torch.randn(4, 3), explore=True)
    assert not unpack(agent.stored_state(state), agent.slots).known.any()
    assert any("NaN or infinity in a search" in str(w.message) for w in recwarn)


# ---------------------------------------------------------------------------------------------------------- checkpoints
def test_a_checkpoint_knows_which_rule_and_which_target_it_had(tmp_path: Path) -> None:
    agent = make_agent(**KINDS["pUCT"], value_target=partial(VTrace, lambda_=0.5))
    save(agent, tmp_path / "a.ckpt")
    again = Agent.from_checkpoint(tmp_path / "a.ckpt")
    assert isinstance(again, MuZero)
    assert again.search == agent.search
    assert again.settings == agent.settings
    assert isinstance(again.value_target, VTrace)
    assert again.value_target.lambda_ == 0.5
    observation = torch.randn(5, 3)
    assert torch.equal(again.act(observation, explore=False)[1], agent.act(observation, explore=False)[1])
