"""PopArt: values in units of their own statistics, which follow the targets without changing any value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from callbacks.files.keepers import keepers
from callbacks.popart_figure import draw_statistics
from modules.agent.any_module import latest_metrics_of, updates_of
from modules.arguments.checks import check_choice, check_ranges
from modules.networks.replicas import add_over_ranks
from modules.networks.value_codecs import Normalized
from modules.networks.value_heads import ValueHead
from modules.run import run_of

POINTS = 512  # of the picture, at most; a checkpoint carries them all


class PopArt(Callback):
    """Learns values in units of the mean and deviation of their targets, per task.

    Before each loss the statistics take one step towards the mean of the targets and of their squares, over all
    processes together (Art), and the output layers of the head and of those that follow it are rescaled such that all
    values stay what they are (Pop). Targets are then small numbers, whatever the rewards, and so are the gradients.

    Any agent that announces targets takes part, if its value heads have the codec `Normalized`, as `PopArtHead` has. A
    LightningModule that is no agent calls `on_targets` itself, before each loss, and logs what it returns.

    Sources: van Hasselt et al. 2016, "Learning values across many orders of magnitude"
    (https://arxiv.org/abs/1602.07714), algorithm 1; Hessel et al. 2019, "Multi-task Deep Reinforcement Learning with
    PopArt" (https://arxiv.org/abs/1809.04474), section 3.

    When a row of an output layer is multiplied by `s`, so are its gradients for the same errors. What becomes of Adam's
    moments of the row is a choice:

    - `kept`: nothing, as in the papers' code. Until the old gradients are forgotten, the steps are of the wrong size
      where the statistics jump, too small ones when the deviation has grown.
    - `scaled`: the first by `s`, the second by `s^2`, as if the gradients had always been in the new units.
    - `reset`: all of the layer to zero, with the count of steps. As the statistics move with every update, every step
      is then Adam's first, the learning rate times the sign of the gradient.

    Logs, among the agent's metrics: `popart/mu` and `popart/sigma`, with `/<task>` where there are several. Writes
    `popart.png` into the run's folder, and to MLflow, when training ends.

    Args:
        decay: decay of the averages, in (0, 1]; see `modules.functional.popart.moving_moments`.
        adam: treatment of Adam's moments.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, decay: float = 3e-4, adam: Literal["kept", "scaled", "reset"] = "kept") -> None:
        check_ranges(("decay", decay, 1e-12, 1.0))
        check_choice("adam", adam, ("kept", "scaled", "reset"))
        self.decay = decay
        self.adam = adam
        self.optimizers: Sequence[Optimizer] = ()
        self.history: list[tuple[int, dict[str, float]]] = []

    # ---------------------------------------------------------------------------------------------- inside of updates
    @torch.no_grad()
    def on_targets(
        self,
        agent: LightningModule,
        heads: Sequence[ValueHead],
        targets: Tensor,
        mask: Tensor | None = None,
        task: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Move statistics and heads; see `modules.agent.events.EVENTS`.

        Raises:
            ValueError: the codec of a head has no statistics, or there are several tasks and it is not said which.
        """
        codecs = [_statistics(agent, head) for head in heads]
        first = codecs[0]
        scale, shift = first.update_statistics(*moments(targets, mask, task, first.width), self.decay)
        for head, codec in zip(heads, codecs, strict=True):
            head.rescale(scale, shift)
            self._rescale_moments(head, scale)
            if codec is not first:
                for mine, learned in zip(codec.buffers(), first.buffers(), strict=True):
                    mine.copy_(learned)
        return {
            f"popart/{name}{f'/{index}' if first.width > 1 else ''}": value
            for name, values in (("mu", first.mu.clone()), ("sigma", first.sigma.clone()))
            for index, value in enumerate(values)
        }

    def _rescale_moments(self, head: ValueHead, scale: Tensor) -> None:
        """Treat Adam's moments as `adam` says; heads that no optimiser has, such as a target network's, have none."""
        if self.adam == "kept":
            return
        for layer, _ in head.output_layers:
            factor = scale.repeat(layer.out_features // len(scale))
            for parameter, rows in ((layer.weight, factor.unsqueeze(-1)), (layer.bias, factor)):
                for state in [o.state[parameter] for o in self.optimizers if parameter in o.state]:
                    if self.adam == "scaled":
                        state["exp_avg"].mul_(rows)
                        state["exp_avg_sq"].mul_(rows.square())
                    else:
                        for value in state.values():
                            value.zero_()

    # ------------------------------------------------------------------------------------------------ between updates
    def check_run(self, trainer: Trainer, agent: LightningModule, data: object) -> None:
        """Refuse an agent of which no value has statistics."""
        if not any(isinstance(module, Normalized) for module in agent.modules()):
            raise ValueError(
                f"PopArt would be ignored: no value head of {type(agent).__name__} has statistics; give it the "
                "codec Normalized, or make it a PopArtHead"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the optimisers, after the check."""
        self.check_run(trainer, pl_module, None)
        self.optimizers = trainer.optimizers

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what was just logged; when there are too many notes, every other one goes."""
        updates = updates_of(trainer, pl_module)
        if updates % run_of(trainer).log_every_n_steps:
            return
        found = {name: value for name, value in latest_metrics_of(trainer, pl_module).items() if "popart/" in name}
        if not found:
            return
        self.history.append((updates, found))
        if len(self.history) > POINTS:
            self.history = self.history[1::2]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not self.history:
            return
        path = Path(trainer.default_root_dir) / "popart.png"
        draw_statistics(self.history, path)
        for logger in keepers(trainer):
            logger.put_file(path)

    # --------------------------------------------------------------------------------------------------------- resume
    def state_dict(self) -> dict[str, Any]:
        """The notes for the picture; the statistics are in the heads."""
        return {"history": list(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.history = list(state_dict["history"])


def moments(targets: Tensor, mask: Tensor | None, task: Tensor | None, tasks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum, sum of squares and count of each task's targets over all processes, `[K]` in float64.

    Args:
        targets: `[...]`.
        mask: `[...]` bool, which of them count; None for all.
        task: `[...]` int64 in `[0, K)`; None for one task.
        tasks: `K`.

    Raises:
        ValueError: there are several tasks, and it is not said which target is of which.
    """
    if task is None and tasks > 1:
        raise ValueError(
            f"PopArt: the targets of {tasks} tasks were announced without their tasks; name the task's key"
        )
    counts = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask
    mine = counts.unsqueeze(-1)  # [..., K], the target is one of the task's
    if task is not None:
        mine = mine & (task.unsqueeze(-1) == torch.arange(tasks, device=task.device))
    numbers = torch.where(mine, targets.unsqueeze(-1), 0.0).double()
    sums = torch.stack([x.flatten(0, -2).sum(0) for x in (numbers, numbers.square(), mine.double())])
    total, squares, count = add_over_ranks(sums)[0].unbind()
    return total, squares, count


def _statistics(agent: LightningModule, head: ValueHead) -> Normalized:
    if not isinstance(head.codec, Normalized):
        name = next(path for path, module in agent.named_modules() if module is head)
        raise ValueError(
            f"PopArt: {name} of {type(agent).__name__} has the codec {type(head.codec).__name__}, which has no "
            "statistics; give it the codec Normalized, or make it a PopArtHead"
        )
    return head.codec
