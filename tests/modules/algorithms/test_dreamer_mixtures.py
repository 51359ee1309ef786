"""DreamerV2 with mixtures of experts in actor, critic and world model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from dreamer_agents import PUSH, TURN, make_agent, make_sequence
from torch import Tensor, nn

import modules.agent.descent
from modules.experts.layer import SparseMoE
from modules.networks.auxiliary_losses import collecting

HORIZON, STEPS, ROWS = 4, 6, 4


class Watched(SparseMoE):
    """Keeps the tokens of each pass, and which optimisers' losses reach its output."""

    stepping: Any = None

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, num_experts=4, hidden=8, routing="top_k")
        self.passes: list[tuple[Tensor, list[Any]]] = []

    def forward(self, x: Tensor) -> Tensor:
        y, reached = super().forward(x), []
        if y.requires_grad:
            y.register_hook(lambda gradient: reached.append(Watched.stepping) if gradient.any() else None)
        self.passes.append((x.detach().flatten(0, -2), reached))
        return y

    def trained(self, optimizer: Any) -> list[Tensor]:
        """Tokens of the passes that the loss of this optimiser trains."""
        return [tokens for tokens, reached in self.passes if optimizer in reached]


@pytest.fixture(autouse=True)
def steps_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside `descend_clipped`, `Watched.stepping` is the optimiser."""
    plain = modules.agent.descent.descend_clipped

    def descend(optimizer: Any, *arguments: Any) -> Any:
        Watched.stepping = optimizer
        try:
            return plain(optimizer, *arguments)
        finally:
            Watched.stepping = None

    for module in ("modules.algorithms.dreamer", "modules.world_model.actor_critic"):
        monkeypatch.setattr(f"{module}.descend_clipped", descend)


def layers(network: nn.Module) -> dict[str, Watched]:
    return {path: layer for path, layer in network.named_modules() if isinstance(layer, Watched)}


@pytest.mark.parametrize("mode", ["reinforce", "dynamics", "both"])
def test_balancing_losses_are_of_exactly_the_tokens_that_each_loss_trains(mode: str) -> None:
    agent = make_agent(
        action=PUSH if mode == "dynamics" else TURN,
        model={"trunk": Watched},
        behaviour={"trunk": Watched, "horizon": HORIZON, "actor_gradient": mode},
    )
    before = copy.deepcopy(agent)
    batch = make_sequence(agent, STEPS, ROWS)
    metrics = agent.update(batch._replace(terminated=torch.zeros_like(batch.terminated))).metrics
    imagined = HORIZON - 1 if mode == "reinforce" else HORIZON
    for name, label, tokens, optimizer in (
        ("world_model", "{}/load_balance_loss", [STEPS * ROWS], agent.model_optimizer),
        ("behaviour.actor", "actor/{}/load_balance", imagined * [STEPS * ROWS], agent.behaviour.actor_optimizer),
        ("behaviour.critic", "critic/{}/load_balance", [HORIZON * STEPS * ROWS], agent.behaviour.critic_optimizer),
    ):
        found = layers(agent.get_submodule(name))
        assert found
        for path, layer in found.items():
            trained = layer.trained(optimizer)
            assert [len(x) for x in trained] == tokens, path
            twin = before.get_submodule(f"{name}.{path}")
            with collecting(twin) as auxiliary:
                for x in trained:
                    twin(x)
            torch.testing.assert_close(metrics[label.format(path)], auxiliary.losses["load_balance"].detach())
