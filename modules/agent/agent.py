"""The Agent: a LightningModule that acts, updates itself from ready batches, and resumes exactly.

A subclass is one algorithm. It builds its networks from the announced spaces, computes its own losses and calls
`descend` once per optimiser and update. Everything around that lives here: the update counter that Lightning counts
by, gradients averaged over ranks, metrics read back in one copy, members that diverge, and what a checkpoint holds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from modules.agent.acting import Acts
from modules.agent.compiled import Compilable, check_device, compiled, settled
from modules.agent.descent import optimizers_of
from modules.agent.events import Announcing
from modules.agent.host_memory import keep_freed_memory
from modules.agent.lightning_private import count_update
from modules.agent.saved import Saved
from modules.arguments.memory import MemoryGuard
from modules.arguments.tunable import Change
from modules.batch import PrioritizedSequences, Spaces, Transition
from modules.contracts import CountsHeldOut, HasReplay, Readable, ReplayOffer, Update
from modules.networks.auxiliary_losses import watching
from modules.networks.replicas import own_rank
from modules.networks.updates import Adapting, Noisy, adapting_layers, hold_noise, noise_set
from modules.run import run_of, total_updates
from modules.wall_time import timed


class Agent(Compilable, Acts, Announcing, Saved):
    """Base of every algorithm: `build`, `initial_state`, `act`, `learn`, `policy` are the algorithm's own.

    An agent may hold `M` members (a population over hyper-parameters and seeds) that share one process; a plain agent
    is a population of one. Members never interact: one that diverges is reported and masked, the others go on.

    Layers that draw noise, such as mixtures of experts, do so inside `training_step` alone: acting, evaluation and
    export never do, whatever `training` says. A network that acts sets `noise` to False: it never draws any, as frozen
    copies of networks never do.
    """

    spaces: Spaces

    batch_type: ClassVar[type[Readable] | None] = None
    """The type of the batches that `learn` takes, see `modules.batch`; None for batches as they come."""

    batch_source: ClassVar[str] = ""
    """The data that give such batches, for messages, where most do not."""

    held_out_loss: str | None = "td_error"
    """The name among `evaluate_losses` that chooses the best checkpoint where nothing is played; None without any."""

    fixed_on_resume: ClassVar[Mapping[str, str]] = {}
    """Arguments that a continued run cannot change, and why, see `modules.arguments.changed`."""

    tunable: ClassVar[Mapping[str, Change]] = {}
    """Arguments that may change while it trains, and how, see `modules.arguments.tunable`."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.updates = 0
        self.latest_metrics: dict[str, float] = {}
        self.alive: list[bool] = []
        self._noisy_layers: list[Noisy] = []
        self._told_forgotten = False
        self._step: Callable[..., Update] | None = None
        self._replay: HasReplay | None = None

    def build_for(self, spaces: Spaces | None) -> None:
        """The last line of every constructor: make the networks, if spaces are known.

        The base cannot do this by itself: its own constructor runs before the arguments that `build` reads are kept.
        """
        self.alive = [True] * len(self.member_names)
        if spaces is not None:
            self.spaces = spaces
            with MemoryGuard(f"the networks of {type(self).__name__}, of these widths and so many members"):
                self.build(spaces)
            self._noisy_layers += hold_noise(self)  # at once: an agent without a trainer must not draw noise either

    # ------------------------------------------------------------------------------------------ what algorithms define
    def build(self, spaces: Spaces) -> None:
        """Make networks and optimisers for these spaces; called once, by `build_for`."""
        raise NotImplementedError

    def check_batch(self, batch: Any) -> None:
        """Refuse a batch of `batch_type` that `learn` cannot learn from.

        Raises:
            ValueError: it says why.
        """

    def noise_for(self, batch: Any) -> Any:
        """All randomness of an update on this batch, and all that is looked up for it outside of its graph, such as a
        search, as tensors; None for nothing.
        """
        return None

    def meet(self, replay: ReplayOffer | None) -> None:
        """See how the replay cuts its batches, before training; None for data without a replay.

        Raises:
            ValueError: the agent cannot learn from such batches.
        """
        if replay is None or self.batch_type is None:
            return
        wanted = self.batch_type is Transition, self.batch_type is PrioritizedSequences
        if (replay.transitions, replay.prioritized) != wanted:
            raise ValueError(
                f"{type(self).__name__} learns from {_kind(*wanted)}, and this replay hands out "
                f"{_kind(replay.transitions, replay.prioritized)}"
            )

    def check_run(self, trainer: Trainer, data: object) -> None:
        """Refuse a run that cannot go well: `reverie fit` asks before it writes anything, and every fit at its start.

        Raises:
            ValueError: it says why.
        """
        if self.compile_mode == "captured":
            check_device(trainer.strategy.root_device)
        if not isinstance(data, HasReplay):
            self.meet(None)
        if self.held_out_loss is None and isinstance(data, CountsHeldOut) and data.held_out_episodes:
            name = type(self).__name__
            raise ValueError(f"{name} has no losses on held-out episodes: set data.validation_fraction to 0")

    @property
    def phase(self) -> str:
        """Name of the training phase that the next update belongs to; callbacks act when it changes."""
        return "training"

    @property
    def kept_as(self) -> str | None:
        """Name under which a run keeps the agent as it is now, beside its other checkpoints; None for not at all."""
        return None

    @property
    def ended_by(self) -> str | None:
        """Name of the argument whose rule has ended training; None while there is more to be learned."""
        return None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """All optimisers that the agent and its parts hold as attributes, with their moments on its device.

        Raises:
            ValueError: none of them trains a parameter that asks for gradients.
        """
        optimizers = optimizers_of(self)
        trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        idle = [name for name, p in self.named_parameters() if p.requires_grad and id(p) not in trained]
        if idle:
            raise ValueError(
                f"no optimiser of {type(self).__name__} trains {idle[0]}: keep one as attribute of the agent or of "
                "a part of it, or switch requires_grad off"
            )
        for optimizer in optimizers:
            optimizer.load_state_dict(optimizer.state_dict())  # moves the moments to the parameters' device
        return optimizers

    # --------------------------------------------------------------------------------------------------- training loop
    def read(self, batch: Any) -> Any:
        """A batch as `batch_type`.

        Raises:
            ValueError: it lacks a field.
        """
        kind = self.batch_type
        if kind is None or isinstance(batch, kind):
            return batch
        try:
            return kind.from_tensordict(batch)
        except KeyError as error:
            given = f" of {self.batch_source}" if self.batch_source else ""
            raise ValueError(
                f"{type(self).__name__} learns from batches of the type {kind.__name__}{given}, but this one holds "
                f"{', '.join(sorted(map(str, batch.keys())))}"
            ) from error

    def update(self, batch: Any, noise: Any = None) -> Update:
        """One gradient update.

        Args:
            batch: batch of `batch_type`, or a TensorDict of its fields.
            noise: draws of `noise_for`; made if not given.

        Raises:
            ValueError: the agent cannot learn from the batch.
        """
        rows = self.read(batch)
        self.check_batch(rows)
        if self._step is None:
            keep_freed_memory()
            self._step = compiled(self, self.device)
        with timed("preparing"):
            noise = self.noise_for(rows) if noise is None else noise
        return self._step(rows) if noise is None else self._step(rows, noise)

    def on_train_start(self) -> None:
        """A run that a rule has ended is not trained any more when it is continued."""
        if self.ended_by is not None:
            self.trainer.should_stop = True

    @timed("updating")
    def training_step(self, batch: Any, batch_index: int) -> None:
        if self.compile_mode == "auto":
            updates = total_updates(self.trainer, batch_index) or math.inf
            self.compile_mode = settled("auto", updates, self.trainer.world_size)
        with noise_set(self._noisy_layers, True), watching() as watch:
            metrics, feedback = self.perform(functools.partial(self.update, batch))
        if not self._told_forgotten and (forgotten := watch.forgotten(self)):
            self._told_forgotten = True
            rank_zero_warn(
                f"{forgotten[0]} is trained without its balancing losses: {type(self).__name__} collects none of its "
                "passes. Open `with collecting(network) as auxiliary:` of modules.networks.auxiliary_losses around "
                "them, and add auxiliary.losses to the loss"
            )
        self.advance()
        count_update(self.trainer)  # so that `global_step` equals `updates`
        if self.ended_by is not None:
            self.trainer.should_stop = True
        if metrics and self.updates % run_of(self.trainer).log_every_n_steps == 0:  # none of one that was undone
            self.log_metrics(self.read_back(metrics))
        if feedback is not None:
            assert self._replay is not None, "an agent that gives something back refuses data without a replay"
            self._replay.write_back(feedback)

    def advance(self) -> None:
        """Count one update. `learn` itself never reads the counter: a compiled graph would depend on its value."""
        self.updates += 1
        for layer in self._adapting_layers:
            layer.after_update()

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Held-out losses, averaged over the validation batches and ranks, as `validation/...`."""
        values = self.named_metrics("validation", self.evaluate_losses(batch))
        self.log_dict(values, sync_dist=True, batch_size=batch.batch_size[0])

    def test_step(self, batch: Any, batch_index: int) -> None:
        values = self.named_metrics("test", self.evaluate_losses(batch))
        self.log_dict(values, sync_dist=True, batch_size=batch.batch_size[0])

    def evaluate_losses(self, batch: Any) -> dict[str, Tensor]:
        """Losses on held-out data without any update; scalars or `[M]`."""
        raise NotImplementedError

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Send named values to every logger, at the update counter, and keep them for the progress bar."""
        self.latest_metrics.update(values)
        for logger in self.loggers:
            logger.log_metrics(dict(values), step=self.updates)

    def read_back(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Copy all metrics to the host at once, name them per member and mark members that diverged.

        Raises:
            FloatingPointError: every member is non-finite.
        """
        named = self.named_metrics(type(self).__name__.lower(), metrics)
        values = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))
        for index, name in enumerate(self.member_names):
            mine = [v for k, v in values.items() if not name or f"/{name}/" in k]
            if self.alive[index] and not all(math.isfinite(v) for v in mine):
                self.alive[index] = False
                rank_zero_warn(
                    f"member {name or 0} is not finite after {self.updates} updates and is masked from now on"
                )
        if not any(self.alive):
            raise FloatingPointError(
                f"training diverged after {self.updates} updates: every member is non-finite. "
                "Lower the learning rates, or check the data with `reverie datasets check`."
            )
        return {k: v for k, v in values.items() if math.isfinite(v)}

    def named_metrics(self, group: str, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Split `[M]` metrics by member: `group/member/metric`, or `group/metric` for a population of one."""
        named = {}
        for metric, value in metrics.items():
            rows = value.float().expand(len(self.member_names)) if value.ndim == 0 else value.float()
            for member, row in zip(self.member_names, rows, strict=True):
                named["/".join(part for part in (group, member, metric) if part)] = row
        return named

    @functools.cached_property
    def _adapting_layers(self) -> list[Adapting]:
        return adapting_layers(self)

    # ------------------------------------------------------------------------------------------- randomness, per rank
    @property
    def rank(self) -> int:
        """Index of this process among all that train together."""
        return own_rank()

    def setup(self, stage: str) -> None:
        """Give ranks their own randomness, attach the callbacks that take part in updates, and meet the replay.

        Raises:
            ValueError: a callback cannot take part, or the agent cannot learn from the replay's batches.
        """
        if (trainer := self.own_trainer) is not None:
            run = run_of(trainer)
            self.attach(*run.callbacks)
            if stage == "fit":
                self._replay = run.datamodule if isinstance(run.datamodule, HasReplay) else None
                self.meet(None if self._replay is None else self._replay.replay_offer())
        self._noisy_layers += hold_noise(self)  # of networks that were made outside of `build`
        if self.rank:  # Lightning gives all ranks one seed; the routing noise of each is drawn for other rows
            torch.manual_seed(torch.initial_seed() + 1000 * self.rank)

    def on_fit_start(self) -> None:
        self.check_run(self.trainer, run_of(self.trainer).datamodule)

    def rank_state(self) -> dict[str, Any]:
        """State that differs between ranks (noise generators); gathered into the checkpoint for every rank."""
        return {}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`, on the same rank."""


def _kind(transitions: bool, prioritized: bool) -> str:
    """Kind of batches, and a replay that hands out such ones."""
    if transitions:
        return "single transitions (data.replay: datamodules.replay.single_steps.TransitionReplay)"
    if prioritized:
        return "prioritised sequences (data.replay: datamodules.replay.prioritized.PrioritizedReplay)"
    return "windows (data.replay: datamodules.replay.sequences.SequenceReplay)"


def agent_of(pl_module: LightningModule) -> Agent:
    """The module that a hook of a callback is given, which is an agent in every run."""
    assert isinstance(pl_module, Agent)
    return pl_module
