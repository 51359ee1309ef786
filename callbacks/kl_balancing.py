"""KL balancing: how the divergence between posterior and prior of a world model counts in its loss."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from modules.agent.agent import Agent
from modules.arguments.changed import no_effect
from modules.arguments.checks import check_intervals, check_positive
from modules.functional.divergences import balanced_kl
from modules.functional.schedules import bounded_schedule

DUAL_LR = 1e-3
SCALE_RANGE = (1e-3, 1e2)


class KLBalancing(Callback):
    """Takes the place of an agent's own KL loss: `scale * (alpha * dynamic + (1 - alpha) * representation)`.

    Source: Hafner et al. 2021, "Mastering Atari with Discrete World Models" (https://arxiv.org/abs/2010.02193),
    Algorithm 2. Numbers may be schedules over updates, such as `linear(1.0, 0.1, 100000)`; see
    `modules.functional.schedules.parse_schedule`.

    With a `target`, the scale is the multiplier of the constraint that the mean KL equals the target, and follows it by
    dual ascent on its logarithm: after each update it grows by `dual_lr` times how far the mean KL of all ranks is
    above the target, as a share of the target clipped to [-1, 1]. Rezende & Viola 2018, "Taming VAEs"
    (https://arxiv.org/abs/1810.00597), do so with the reconstruction error.

    Logs, among the agent's metrics: `kl_balancing/dynamic` and `kl_balancing/representation`, the mean KL in nats;
    `kl_balancing/loss`; `kl_balancing/share_below_free_nats` of the time steps; `kl_balancing/alpha`,
    `kl_balancing/scale` and `kl_balancing/free_nats`.

    Args:
        alpha: weight of the dynamic term, which trains the prior, in [0, 1].
        scale: scale of the whole loss; with a target, where it starts.
        free_nats: the terms have no gradient below them.
        per_step: compare every time step with the free nats, as DreamerV3 does, instead of the mean of the batch.
        target: target in nats; null leaves the scale alone.
        dual_lr: largest change of the logarithm of the scale in an update.
        scale_range: bounds of the scale.

    Raises:
        ValueError: an argument is out of range, or would be ignored.
    """

    def __init__(
        self,
        alpha: float | str = 0.8,
        scale: float | str = 1.0,
        free_nats: float | str = 0.0,
        per_step: bool = False,
        target: float | None = None,
        dual_lr: float = DUAL_LR,
        scale_range: tuple[float, float] = SCALE_RANGE,
    ) -> None:
        self._schedules = {
            "alpha": bounded_schedule("alpha", alpha, 0.0, 1.0),
            "scale": bounded_schedule("scale", scale, 0.0, math.inf),
            "free_nats": bounded_schedule("free_nats", free_nats, 0.0, math.inf),
        }
        self.per_step = per_step
        self.target = target
        self.dual_lr = dual_lr
        self.scale_range = tuple(scale_range)
        if target is None:
            if dual_lr != DUAL_LR or self.scale_range != SCALE_RANGE:
                raise ValueError("KLBalancing: dual_lr and scale_range would be ignored; set target, or leave them out")
        else:
            self._check_target(target)
        start: dict[str, Tensor] = {name: torch.tensor(schedule(0)) for name, schedule in self._schedules.items()}
        self.alpha = start["alpha"]
        self.scale = start["scale"]
        self.free_nats = start["free_nats"]
        self.measured = torch.tensor(math.nan)  # mean KL of the update since the last step of the scale
        self.log_scale = self.scale.log()

    def _check_target(self, target: float) -> None:
        scale, free_nats = self._schedules["scale"], self._schedules["free_nats"]
        low, high = self.scale_range
        check_intervals(scale_range=(low, high))
        check_positive(scale_range=low, dual_lr=self.dual_lr)
        check_positive(scale_range=high)
        if not scale.is_constant:
            raise ValueError("KLBalancing: a schedule of the scale would be ignored, the target sets it; give a number")
        if not low <= scale.start <= high:
            raise ValueError(f"KLBalancing: the scale {scale.start} is outside of scale_range {self.scale_range}")
        if not max(free_nats.start, free_nats.end) < target < math.inf:
            raise ValueError(
                f"KLBalancing cannot reach a target of {target} nats: it must be positive and above free_nats"
            )

    # ---------------------------------------------------------------------------------------------- inside of updates
    def on_kl(self, agent: Agent, dynamic: Tensor, representation: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The KL loss of `[T, B]` terms, a scalar, and detached metrics; see `modules.agent.events.EVENTS`."""
        loss = self.scale * balanced_kl(dynamic, representation, self.alpha, self.free_nats, self.per_step)
        below = (representation <= self.free_nats).float().mean()
        metrics = {
            "dynamic": dynamic.mean(),
            "representation": representation.mean(),
            "loss": loss,
            "share_below_free_nats": below,
            "alpha": self.alpha.clone(),
            "scale": self.scale.clone(),
            "free_nats": self.free_nats.clone(),
        }
        if self.target is not None:
            self.measured.copy_(metrics["representation"].detach())
        return loss, {f"kl_balancing/{name}": value.detach() for name, value in metrics.items()}

    def changed_tensors(self) -> dict[str, Tensor]:
        """The scale, and the divergence that its next step is made of; none where it is not learned."""
        if self.target is None:
            return {}
        return {"scale": self.scale, "log_scale": self.log_scale, "measured": self.measured}

    # ------------------------------------------------------------------------------------------------ between updates
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in ("alpha", "scale", "free_nats", "measured", "log_scale"):
            setattr(self, name, getattr(self, name).to(pl_module.device))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set what follows a schedule."""
        assert isinstance(pl_module, Agent)
        for name, schedule in self._schedules.items():
            if not schedule.is_constant:
                getattr(self, name).fill_(schedule(pl_module.updates))

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a step of dual ascent; none behind an update that was undone, or that announced no KL."""
        if self.target is None:
            return
        kl = self.measured.clone()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(kl)
            kl /= dist.get_world_size()
        excess = (kl / self.target - 1.0).clamp(-1.0, 1.0)
        low, high = map(math.log, self.scale_range)
        self.log_scale.add_(self.dual_lr * excess.nan_to_num(nan=0.0)).clamp_(low, high)
        self.scale.copy_(self.log_scale.exp())
        self.measured.fill_(math.nan)

    # --------------------------------------------------------------------------------------------------------- resume
    def state_dict(self) -> dict[str, Any]:
        """The scale, if it was learned; all else follows from the number of updates."""
        start = self._schedules["scale"].start
        return {} if self.target is None else {"log_scale": self.log_scale.item(), "scale": start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: another start of the scale, which was learned since.
        """
        if self.target is not None:
            start = self._schedules["scale"].start
            if (old := state_dict.get("scale", start)) != start:
                raise ValueError(no_effect("KLBalancing.scale", old, start, "the scale was learned since"))
            self.log_scale.fill_(state_dict["log_scale"])
            self.scale.copy_(self.log_scale.exp())
