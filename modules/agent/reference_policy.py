"""Policies of checkpoints that an agent compares itself with."""

from __future__ import annotations

import torch
from torch import nn

from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.batch import Spaces
from modules.same_spaces import check_same_kinds


def load_reference(path: str, spaces: Spaces, device: torch.device) -> nn.Module:
    """The most likely actions of the agent in a checkpoint, frozen: raw observations in, environment actions out.

    Raises:
        ValueError: the file is no checkpoint, or its agent is made for other spaces than these, the data's.
    """
    agent = Agent.restored(read_checkpoint(path, "cpu"), path)
    check_same_kinds(path, agent.spaces, "the data", spaces)
    return agent.policy().requires_grad_(False).to(device)
