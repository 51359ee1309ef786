"""Arguments of optimisers over the load of a checkpoint."""

from __future__ import annotations

from typing import Any

import torch


def keep_arguments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A state to load, with the optimiser's own learning rate, epsilon and so on in the place of the saved ones."""
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    return {**state, "param_groups": [{**mine, "params": saved["params"]} for mine, saved in groups]}
