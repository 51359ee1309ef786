"""Arguments that agents declare as genes: each of them changes what a run that goes on learns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import a2c_agents
import atac_agents
import dreamer_agents
import ftw_agents
import gymnasium as gym
import merlin_agents
import numpy as np
import ppo_agents
import pytest
import r2d2_agents
import sac_agents
import torch
from a2c_agents import VECTOR, windows
from resumed_agents import equal, go_on, resume, saved

from modules.agent.agent import Agent
from modules.agent.event_rewards import EventRewards
from modules.arguments.tunable import check_tunable

TOLD = gym.spaces.Dict({"place": VECTOR, "events": gym.spaces.Box(0, 1, (2,), np.int8)})
WHOLE, HORIZON = 2, 0.5


def dreamer(**changes: Any) -> Agent:
    behaviour = {key.rpartition(".")[2]: value for key, value in changes.items() if "." in key}
    model = {key: value for key, value in changes.items() if "." not in key}
    return dreamer_agents.make_agent(behaviour={"actor_gradient": "both", **behaviour}, **model)


def told(make: Callable[..., Agent], **changes: Any) -> Agent:
    weights = changes.pop("internal.weights", [1.0, 1.0])
    return make(TOLD, internal=EventRewards(tuple(weights)), **changes)


def ftw(observation: gym.Space, **changes: Any) -> Agent:
    seen = gym.spaces.Dict({**observation.spaces, "image": a2c_agents.IMAGE})
    return ftw_agents.made(seen, a2c_agents.TURN, **changes)


def windows_of_ftw(agent: Any) -> Any:
    torch.manual_seed(0)
    return windows(agent).set("stored", torch.randn(4, 7, agent.stored_width))


AGENTS: dict[str, tuple[Callable[..., Agent], Callable[[Any], Any]]] = {
    "A2C": (partial(told, a2c_agents.make), windows),
    "PPO": (partial(told, ppo_agents.make), windows),
    "SAC": (sac_agents.make_agent, lambda _: atac_agents.make_batch()),
    "R2D2": (r2d2_agents.make_agent, r2d2_agents.make_batch),
    "FTW": (partial(told, ftw), windows_of_ftw),
    "MERLIN": (merlin_agents.make, lambda agent: next(merlin_agents.played(agent))[0]),
    "DreamerV2": (dreamer, dreamer_agents.make_sequence),
}
EXTREME = {"epsilon": 1.0, "clip": 1e-3, "clip_norm": 1e-3, "lambda_": 0.1}


def other(agent: Agent, gene: str) -> Any:
    """A value far from the one that the agent has."""
    change = agent.tunable[gene]
    name = gene.rpartition(".")[2]
    if name in ("discounts", "weights"):
        return [HORIZON] if name == "discounts" else [0.1, 3.0]
    return EXTREME.get(name, {"whole": WHOLE, "horizon": HORIZON, "scale": 0.3}[change])


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_that_goes_on_follows_each_of_them_at_once(name: str) -> None:
    make, batch_of = AGENTS[name]
    agent = make()
    batch = batch_of(agent)
    go_on(agent, batch, 1)
    checkpoint = saved(agent)
    whole = go_on(resume(make(), checkpoint), batch, 2)
    assert equal(whole, go_on(resume(make(), checkpoint), batch, 2)), "unchanged"
    assert len(agent.tunable) > 3
    for gene in agent.tunable:
        changed = resume(make(**{gene: other(agent, gene)}), checkpoint)
        assert not equal(go_on(changed, batch, 2), whole), gene


@pytest.mark.parametrize("name", AGENTS)
def test_each_of_them_is_an_argument(name: str) -> None:
    agent = AGENTS[name][0]()
    for gene in agent.tunable:
        assert gene.partition(".")[0] in inspect.signature(type(agent)).parameters
        assert gene not in agent.fixed_on_resume


def test_others_are_refused_with_those_that_are_declared() -> None:
    tunable = {"lr": "scale", "entropy": "scale"}
    check_tunable("A2C", tunable, ["entropy", "lr"])
    message = (
        "A2C cannot change 'entropie' while it trains; did you mean 'entropy'.; it declares as genes: lr, entropy$"
    )
    with pytest.raises(ValueError, match=message):
        check_tunable("A2C", tunable, ["lr", "entropie"])
    with pytest.raises(
        ValueError, match=r"ATAC cannot change 'beta' while it trains; it declares as genes: none at all$"
    ):
        check_tunable("ATAC", {}, ["beta"])
