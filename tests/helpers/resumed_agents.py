"""Agents that go on from a checkpoint in memory, and all that they learn then."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from modules.agent.agent import Agent
from modules.algorithms.moe_regression import MoERegression
from modules.arguments.changed import refuse_changed_run


def saved(agent: Agent) -> dict[str, Any]:
    optimizers = agent.configure_optimizers()
    states = [o.state_dict() for o in optimizers]
    checkpoint = {"hyper_parameters": dict(agent.hparams), "state_dict": agent.state_dict()}
    agent.on_save_checkpoint(checkpoint)
    return copy.deepcopy({**checkpoint, "optimizer_states": states, "rank": agent.rank_state()})


def resume(agent: Agent, checkpoint: dict[str, Any]) -> Agent:
    """In the order of Lightning."""
    checkpoint = copy.deepcopy(checkpoint)
    refuse_changed_run(checkpoint, agent, None)
    agent.on_load_checkpoint(checkpoint)
    agent.load_state_dict(checkpoint["state_dict"])
    if isinstance(agent, MoERegression):
        agent._set_learning_rate()  # as on_fit_start does
    optimizers = agent.configure_optimizers()
    for optimizer, state in zip(optimizers, checkpoint["optimizer_states"], strict=True):
        optimizer.load_state_dict(state)
    agent.load_rank_state(checkpoint["rank"])
    return agent


def go_on(agent: Agent, batch: Any, updates: int) -> list[Tensor]:
    """Everything that is learned, and what it does then."""
    torch.manual_seed(3)
    metrics: list[Tensor] = []
    for _ in range(updates):
        metrics += [x.detach().clone().float().flatten() for x in agent.update(batch).metrics.values()]
        metrics += [agent.priority] if hasattr(agent, "priority") else []
        agent.advance()
    seen = {key: torch.zeros(32, *space.shape) for key, space in agent.spaces.observations_by_key().items()}
    action, _ = agent.act(seen if len(seen) > 1 else next(iter(seen.values())), None, explore=True)
    weights = [x.detach().clone().float().flatten() for x in agent.state_dict().values() if isinstance(x, Tensor)]
    return [*metrics, *weights, action.float().flatten()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )
