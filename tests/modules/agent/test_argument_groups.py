"""Groups of arguments look at their fields themselves, and an agent at its groups, in Python as on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import dreamer_agents
import pytest
import torch

from datamodules.offline import OfflineDataModule
from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.entropy_floor import EntropyFloor
from modules.agent.warm_start import WarmStart
from modules.algorithms.a2c import A2C
from modules.algorithms.atac import ATAC
from modules.algorithms.dreamer import DreamerV2
from modules.algorithms.moe_regression import MoERegression
from modules.algorithms.r2d2 import R2D2

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("group", "name", "value", "said"),
    [
        (CriticUpdates, "roles", "spilt", "critic.roles must be one of 'twin', 'split', got 'spilt'"),
        (CriticUpdates, "clip", "target", "critic.clip must be one of 'bootstrap', 'backup', got 'target'"),
        (CriticUpdates, "target_rate", None, "critic.target_rate must be float, got None"),
        (CriticUpdates, "value_range", 3, "critic.value_range must be tuple or None, got 3"),
        (CriticUpdates, "value_range", (1.0,), "critic.value_range must be tuple or None, got (1.0,)"),
        (CriticUpdates, "projection_radius", "1", "critic.projection_radius must be float or None, got '1'"),
        (ActorUpdates, "critic", 5, "actor.critic must be one of 0, 1, got 5"),
        (ActorUpdates, "critic", True, "actor.critic must be one of 0, 1, got True"),
        (ActorUpdates, "interval", 1.5, "actor.interval must be int, got 1.5"),
        (ActorUpdates, "log_std_range", None, "actor.log_std_range must be tuple, got None"),
        (EntropyFloor, "target", "nope", "entropy.target must be float or one of 'auto' or None, got 'nope'"),
        (EntropyFloor, "reduction", "max", "entropy.reduction must be one of 'sum', 'mean', got 'max'"),
        (WarmStart, "updates", "3", "warm_start.updates must be int, got '3'"),
        (WarmStart, "updates", True, "warm_start.updates must be int, got True"),
        (WarmStart, "critic", "no", "warm_start.critic must be bool, got 'no'"),
    ],
)
def test_a_field_of_another_type_or_choice_is_refused_by_its_name(
    group: Make, name: str, value: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        group(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("critic", None, "critic must be of the kind CriticUpdates, got None"),
        ("critic", WarmStart(), "critic must be of the kind CriticUpdates, got WarmStart("),
        ("warm_start", {"updates": 3}, "warm_start must be of the kind WarmStart, got {'updates': 3}"),
        ("actor", CriticUpdates, "actor must be of the kind ActorUpdates, got <class"),
        ("entropy", "auto", "entropy must be of the kind EntropyFloor, got 'auto'"),
        ("pessimism", "relatve", "pessimism must be one of relative, initial, got 'relatve'"),
        ("initializer", "xavier", "initializer must be one of xavier_normal, torch_default, got 'xavier'"),
    ],
)
def test_an_agent_refuses_another_kind_of_group(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        ATAC(**{name: value})


def test_free_nats_of_each_step_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match=r"^free_per_step would be ignored, as free_nats is 0: raise it"):
        dreamer_agents.make_agent(free_per_step=True)


def behaving(**arguments: Any) -> Any:
    return dreamer_agents.make_agent(behaviour=arguments)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (A2C, "compile"),
        (A2C, "advantage"),
        (DreamerV2, "compile"),
        (DreamerV2, "reward_transform"),
        (DreamerV2, "gradient_heads"),
        (R2D2, "compile"),
        (partial(MoERegression, network=torch.nn.Linear), "schedule"),
        (behaving, "actor_gradient"),
        (behaving, "critic_target"),
        (behaving, "return_scale"),
        (partial(OfflineDataModule, "x"), "truncation"),
        (partial(OfflineDataModule, "x"), "storage"),
    ],
)
def test_a_misspelt_choice_is_refused_by_every_constructor(make: Make, name: str) -> None:
    """It would be taken for the last choice, in silence."""
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'X'"):
        make(**{name: "X"})
