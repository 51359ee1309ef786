"""Regression with any network, in which any layer may be a sparse mixture of experts.

Source of the mixture and its balancing losses: Shazeer et al. 2017, "Outrageously Large Neural Networks: The
Sparsely-Gated Mixture-of-Experts Layer" (https://arxiv.org/abs/1701.06538). A regressor is an agent without an
environment: its observation is the input, its action the prediction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium as gym
import torch
from pytorch_lightning import Trainer
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam, set_learning_rate, weighted_sum
from modules.arguments.checks import check_choice, check_ranges
from modules.batch import Example, Spaces
from modules.contracts import Update
from modules.functional.schedules import one_cycle
from modules.functional.statistics import squared_variation
from modules.networks.auxiliary_losses import collecting


@runtime_checkable
class CountsExperts(Protocol):
    """A mixture of experts.

    Attributes:
        expert_counts: `[E]` rows that each expert has computed.
    """

    expert_counts: Tensor


class MoERegression(Agent):
    """Least squares by Adam, plus the balancing losses of the network's mixtures.

    Args:
        network: makes the network, called with the widths of input and target; any class path.
        spaces: spaces of inputs and targets, announced by the datamodule.
        lr: Adam learning rate, its peak with `one_cycle`.
        schedule: schedule of the learning rate over the run: `one_cycle` rises for 30 % of the updates and falls to
            nothing, so the run needs an end; `constant`.

    Raises:
        ValueError: inputs or targets are no flat Box, the learning rate is not positive, or `one_cycle` has no end.
    """

    batch_type = Example

    def __init__(
        self,
        network: Callable[[int, int], nn.Module],
        spaces: Spaces | None = None,
        lr: float = 3e-3,
        schedule: Literal["one_cycle", "constant"] = "one_cycle",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        check_choice("schedule", schedule, ("one_cycle", "constant"))
        check_ranges(("lr", lr, 1e-12, 1e3))
        self.make_network = network
        self.lr = lr
        self.schedule = schedule
        self.total_updates: float | None = None  # until a trainer says so, the learning rate stays
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        widths = []
        for name, space in (("inputs", spaces.observation), ("targets", spaces.action)):
            if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
                raise ValueError(f"regression needs {name} in a flat Box, got {space}")
            widths.append(space.shape[0])
        self.network = self.make_network(*widths)
        self.optimizer = make_adam(self.network.parameters(), self.lr)

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        """The prediction `[B, A]` for inputs `[B, D]`; there is nothing to explore."""
        return self.network(observation), state

    def policy(self, member: int = 0) -> nn.Module:
        return copy.deepcopy(self.network)

    # -------------------------------------------------------------------------------------------------------- update
    def learn(self, batch: Example) -> Update:
        """One Adam step on `[B]` examples; metrics are the mean squared error and balancing losses, unweighted."""
        with collecting(self.network) as auxiliary:
            error = (self.network(batch.input) - batch.target).square().mean()
        terms = {"error": error, **auxiliary.losses}
        descend(self.optimizer, weighted_sum(terms, {"error": 1.0, **auxiliary.weights}))
        return Update({name: term.detach() for name, term in terms.items()})

    def check_run(self, trainer: Trainer, data: object) -> None:
        super().check_run(trainer, data)
        if self.schedule == "one_cycle" and trainer.max_epochs == -1 and trainer.max_steps == -1:
            raise ValueError("schedule: one_cycle needs an end; set trainer.max_epochs, or schedule: constant")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.total_updates = self.trainer.estimated_stepping_batches
        self._set_learning_rate()

    def advance(self) -> None:
        super().advance()
        self._set_learning_rate()

    def _set_learning_rate(self) -> None:
        if self.schedule == "one_cycle" and self.total_updates is not None:
            set_learning_rate(self.optimizer, self.lr * one_cycle(min(self.updates / self.total_updates, 1.0)))

    # ---------------------------------------------------------------------------------------------------- evaluation
    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Relative error of each group, and how evenly the experts are used without noise.

        Args:
            batch: examples of each group by the group's name.

        Returns:
            `relative_error/<group>`, mean squared error over the variance of the targets: 0 perfect, 1 as good as the
            best constant. For each mixture `load_cv2/<path>`, the squared coefficient of variation of its experts'
            loads, `load_max_over_mean/<path>` and `unused_experts/<path>`; without a path where the network is one.
        """
        layers = {path: x for path, x in self.network.named_modules() if isinstance(x, CountsExperts)}
        before = {path: layer.expert_counts.clone() for path, layer in layers.items()}
        metrics = {}
        for name, group in batch.items():
            rows = Example.from_tensordict(group)
            error = (self.network(rows.input) - rows.target).square().mean()
            metrics[f"relative_error/{name}"] = error / rows.target.var(0, correction=0).mean()
        for path, layer in layers.items():
            load = (layer.expert_counts - before[path]).float()
            place = f"/{path}" if path else ""
            metrics[f"load_cv2{place}"] = squared_variation(load)
            metrics[f"load_max_over_mean{place}"] = load.max() / load.mean()
            metrics[f"unused_experts{place}"] = (load == 0).sum()
        return metrics
