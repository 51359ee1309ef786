"""A rule that ends what has stopped getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from modules.contracts import CountsHeldOut
from modules.networks.ensemble import follow


class Plateau(nn.Module):
    """Whether a held-out loss has stopped improving: `patience` looks at it in a row without a new best one.

    Its state is buffers, so that a checkpoint of what it is a part of holds it. Every process must look at the same
    losses.

    Args:
        patience: number of looks.

    Attributes:
        reached_at: update of the look that was one too many; None until then.
    """

    best: Tensor
    looks: Tensor
    update: Tensor

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.reached_at: int | None = None
        self.register_buffer("best", torch.tensor(math.inf))
        self.register_buffer("looks", torch.tensor(0))
        self.register_buffer("update", torch.tensor(-1))
        self.register_load_state_dict_post_hook(Plateau._remember)

    def look(self, loss: float, update: int) -> tuple[bool, bool]:
        """Take note of the loss after so many updates; NaN is never the best.

        Returns:
            whether it is the best so far, and whether the plateau is reached.
        """
        found = torch.full_like(self.best, loss)  # rounded as the best one was, or an equal loss could be below it
        better = bool(found < self.best)
        if better:
            self.best.copy_(found)
        self.looks.fill_(0 if better else int(self.looks) + 1)
        if self.reached_at is None and int(self.looks) >= self.patience:
            self.update.fill_(update)
            self.reached_at = update
        return better, self.reached_at is not None

    def take_over(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        """Load its own part, under this name, of a checkpoint's `state_dict` before the rest of the agent is loaded."""
        self.load_state_dict({name: weights[f"{prefix}.{name}"] for name in self.state_dict()})

    def _remember(self, _: Any) -> None:
        update = int(self.update)
        self.reached_at = update if update >= 0 else None


class EndsAtPlateau(LightningModule):
    """The part of an agent whose run ends when a held-out loss has stopped improving, with the network of the best one.

    Attributes:
        held_out_loss: name of the loss among those of `evaluate_losses`.
        plateau: the rule; None trains to the end.
    """

    held_out_loss: str | None
    plateau: Plateau | None
    updates: int

    def learned_and_best(self) -> tuple[nn.Module, nn.Module | None]:
        """The network that learns, and its copy that is kept at the best held-out loss; None without the rule."""
        raise NotImplementedError

    @property
    def has_best(self) -> bool:
        """Whether a held-out loss has been looked at, so that the copy is worth something."""
        return self.plateau is not None and bool(self.plateau.best.isfinite())

    @property
    def ended_by(self) -> str | None:
        return "patience" if self.plateau is not None and self.plateau.reached_at is not None else None

    def on_validation_end(self) -> None:
        """Keep the network of the best held-out loss, and end the run when no better ones come."""
        trainer, (learned, best) = self.trainer, self.learned_and_best()
        if self.plateau is None or best is None or trainer.sanity_checking:
            return
        assert self.held_out_loss is not None, "a rule looks at a loss"
        better, over = self.plateau.look(held_out_mean(trainer.callback_metrics, self.held_out_loss), self.updates)
        if better:
            follow(best, learned, 1.0)
        if over:
            trainer.should_stop = True


def held_out_mean(metrics: Mapping[str, Tensor], name: str) -> float:
    """Mean over the living members of `validation/...` metrics of this name; NaN where no member lives."""
    losses = [x for key, x in metrics.items() if key.startswith("validation/") and key.endswith(f"/{name}")]
    living = [float(x) for x in losses if math.isfinite(x)]
    return sum(living) / len(living) if living else math.nan


def check_held_out(trainer: Trainer, data: object, *arguments: str) -> None:
    """Refuse a rule that has nothing to look at.

    Args:
        trainer: trainer of the run.
        data: its data; those that do not count their held-out episodes are asked once a fit has set them up.
        *arguments: the agent's argument that asks for the rule, and others that cannot be without it.

    Raises:
        ValueError: no episode is held out.
    """
    if isinstance(data, CountsHeldOut):
        nothing = data.held_out_episodes == 0
    elif isinstance(data, LightningDataModule) and data.trainer is not None:
        nothing = not len(data.val_dataloader())
    else:
        nothing = False
    if nothing or trainer.limit_val_batches == 0:
        raise ValueError(
            f"{arguments[0]} looks at held-out episodes, and there are none; set data.validation_fraction above 0, of "
            f"a dataset with more than one episode, or {listed(arguments)} to null"
        )


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


@runtime_checkable
class HasEpochs(Protocol):
    """Data that say how long an epoch is.

    Attributes:
        updates_per_epoch: number of updates.
    """

    updates_per_epoch: int


def check_looked_at(trainer: Trainer, data: object, updates: int, *arguments: str) -> None:
    """Refuse a warm start that ends before a rule has looked at it.

    Args:
        trainer: trainer of the run, which says when it validates.
        data: its data; those that do not say how long an epoch is are not asked.
        updates: updates of the warm start at most.
        *arguments: the agent's argument that asks for the rule, and others that cannot be without it.

    Raises:
        ValueError: the first validation comes with the end of the warm start, or after it.
    """
    if not isinstance(data, HasEpochs):
        return
    part, every = trainer.val_check_interval, trainer.check_val_every_n_epoch or 1
    first = part if isinstance(part, int) else int(part * data.updates_per_epoch) * every
    if updates <= first:
        raise ValueError(
            f"{arguments[0]} looks at what is cloned after {first:,} updates for the first time, and "
            f"warm_start.updates={updates} ends the cloning before: raise warm_start.updates, or set "
            f"{listed(arguments)} to null"
        )
