"""Small agents for tests of ARMOR."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from atac_agents import SPACES, make_batch

from modules.agent.learned_model import DynamicsUpdates, RolloutPlan
from modules.agent.warm_start import WarmStart
from modules.algorithms.armor import ARMOR
from modules.batch import Spaces

SMALL: dict[str, Any] = {
    "hidden": [16],
    "warm_start": WarmStart(1),
    "dynamics": DynamicsUpdates((12,)),
    "rollouts": RolloutPlan(horizon=2, interval=3, capacity=200),
    "actor_lr": 1e-3,
}


def make_agent(spaces: Spaces = SPACES, **arguments: Any) -> ARMOR:
    """Names with a dot are fields of a group of arguments, such as `dynamics.adversarial`."""
    settings = dict(SMALL)
    for name, value in arguments.items():
        group, _, field = name.partition(".")
        before = settings.get(group, inspect.signature(ARMOR).parameters[group].default)
        settings[group] = dataclasses.replace(before, **{field: value}) if field else value
    return ARMOR(spaces, **settings)


def in_the_game(rows: int = 32, reference: Any = (), **arguments: Any) -> ARMOR:
    """An agent behind its warm start, whose policy has left the reference and whose ring holds steps."""
    agent = make_agent(**arguments)
    agent.reference = list(reference)
    if agent.warm_starting:
        batch = make_batch(agent.population.minibatches * rows)
        agent.learn(batch, agent.noise_for(batch))
        agent.advance()
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
    agent.imagine_from(make_batch(rows, seed=1).observation.repeat(len(agent.population), 1, 1))
    agent.imagines = False
    return agent
