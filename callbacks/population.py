"""The genes of a run that is a member of a population, logged as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from modules.agent.agent import agent_of


class Member(Callback):
    """Logs the genes of a member as `genes/NAME`, or `genes/NAME/0` and so on of a list, whenever a turn begins.

    `reverie evolve` adds it to the runs of its members.

    Args:
        values: value of each gene, by argument of the agent.
    """

    def __init__(self, values: dict[str, float | list[float]]) -> None:
        self.values = values

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log them at the updates so far."""
        agent_of(pl_module).log_metrics(numbered(self.values))


def numbered(values: Mapping[str, Any]) -> dict[str, float]:
    """Genes as single numbers by the name of their metric."""
    found: dict[str, float] = {}
    for name, value in values.items():
        parts = {f"{name}/{i}": part for i, part in enumerate(value)} if isinstance(value, list) else {name: value}
        found |= {f"genes/{key}": float(part) for key, part in parts.items()}
    return found
