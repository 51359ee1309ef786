"""When a target network is a copy of the one that learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from modules.agent.agent import Agent


def equal_after_updates(agent: Agent, batch: Any, learned: nn.Module, target: nn.Module) -> list[bool]:
    """After each of six updates on this batch, whether both networks have the same weights."""
    same = []
    for _ in range(6):
        agent.update(batch)
        agent.advance()
        pairs = zip(learned.parameters(), target.parameters(), strict=True)
        same.append(all(torch.equal(a, b) for a, b in pairs))
    return same
