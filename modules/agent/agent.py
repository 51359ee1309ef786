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
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from modules.agent.lightning_private import count_update
from modules.agent.saved import Saved
from modules.arguments.memory import within_memory
from modules.batch import Spaces
from modules.networks.updates import Adapting, Noisy, adapting_layers, hold_noise, noise_set

EVENTS = {"on_kl": "a divergence between posterior and prior", "on_targets": "targets of values"}
"""Points inside an update at which a callback may take part, by having a method of that name, and what they are about.

`on_kl(agent, dynamic, representation)`: the two Kullback-Leibler terms `[T, B]` are known; the callback returns the
scalar loss that takes the place of the agent's own mix, and a dict of detached metrics.

`on_targets(agent, heads, targets, mask, task)`: the targets `[...]` of a value are known, in the reward's units, and
the loss is not yet made. `heads` are the head that learns them and those that follow it, such as a target network's;
`mask` `[...]` (bool) says which targets count, `task` `[...]` (int64) which task they belong to; both may be None. The
callback may change the heads, as long as it leaves their values as they are, and returns a dict of detached metrics.

A compiled update traces the callback's method too: tensors in, tensors out, no branch on their values.
"""


Build = Callable[[Any, Spaces], None]


def _holding_noise(build: Build) -> Build:
    """A `build` whose networks draw no noise from then on, but for those that learn, in updates.

    At once: an agent that is used without a trainer must not draw noise either.
    """

    @functools.wraps(build)
    def built(agent: Any, spaces: Spaces) -> None:
        build(agent, spaces)
        agent._noisy_layers += hold_noise(agent)

    return built


class Agent(Saved):
    """Base of every algorithm: `build`, `initial_state`, `act`, `update`, `policy` are the algorithm's own.

    An agent may hold `M` members (a population over hyper-parameters and seeds) that share one process; a plain agent
    is a population of one. Members never interact: one that diverges is reported and masked, the others go on.

    Layers that draw noise, such as mixtures of experts, do so inside `training_step` alone: acting, evaluation and
    export never do, whatever `training` says. A network that acts sets `noise` to False: it never draws any, as frozen
    copies of networks never do.
    """

    spaces: Spaces

    events: frozenset[str] = frozenset()
    """Which of `EVENTS` the algorithm announces."""

    fixed_on_resume: ClassVar[Mapping[str, str]] = {}
    """Arguments that a continued run cannot change, and why, see `modules.arguments.changed`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "build" in vars(cls):
            cls.build = _holding_noise(within_memory(cls.build))  # type: ignore[assignment, method-assign]  # the same signature

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.updates = 0
        self.latest_metrics: dict[str, float] = {}
        self.alive: list[bool] = []
        self._noisy_layers: list[Noisy] = []
        self._participants: dict[str, list[Any]] = {}

    # ------------------------------------------------------------------------------------------ what algorithms define
    def build(self, spaces: Spaces) -> None:
        """Make networks and optimisers for these spaces; called once, by the constructor."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> Any:
        """Recurrent state for `batch` fresh episodes; None for agents without memory."""
        return None

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        """The only way anyone acts: collector, evaluator, exporter.

        Args:
            observation: `[B, ...]` raw observations. With `M` members, `B` is a multiple of `M` and the rows are
                member-major: the first `B / M` rows belong to the first member.
            state: what `initial_state` or the previous call returned.
            explore: sample from the policy instead of taking its most likely action.

        Returns:
            `[B, ...]` actions in the environment's units, and the next state.
        """
        raise NotImplementedError

    remembers: bool = True
    """Whether the state that `act` returns matters to its next call; where it does not, an export leaves it out."""

    def acting_noise(self, batch: int) -> Tensor | None:
        """What `act` draws even without `explore`, for `batch` rows; None for nothing.

        An agent that draws something takes it as an argument `noise` of `act` too, so that a step can be repeated.
        """
        return None

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        """The state that `act` returned, told what its actions paid, `[B]`; whoever steps the environment says so.

        Agents that do not look at past rewards leave it as it is.
        """
        return state

    stored_width: int = 0
    """Width `W` of what a replay keeps of the agent's state with every row; 0 for nothing."""

    def stored_state(self, state: Any) -> Tensor:
        """What a replay keeps of a state: `[B, W]` floats of the state that `act` returned with the action that led to
        the row, and of an initial state for the first row of an episode.
        """
        raise NotImplementedError

    def update(self, batch: Any) -> dict[str, Tensor]:
        """One gradient update; metrics as detached device tensors, scalars or `[M]`."""
        raise NotImplementedError

    def policy(self, member: int = 0) -> nn.Module:
        """A plain deterministic policy of one member: raw observations `[B, ...]` in, environment actions out.

        An agent of one member without it is played and exported by its `act`.
        """
        raise NotImplementedError

    @property
    def phase(self) -> str:
        """Name of the training phase that the next update belongs to; callbacks act when it changes."""
        return "training"

    def announce(self, event: str, *tensors: Any) -> Any:
        """Ask the callback that takes part at this event, see `EVENTS`; None where there is none."""
        for callback in self._participants.get(event, ()):
            return getattr(callback, event)(self, *tensors)
        return None

    # --------------------------------------------------------------------------------------------------- training loop
    def training_step(self, batch: Any, batch_index: int) -> None:
        with noise_set(self._noisy_layers, True):
            metrics = self.update(batch)
        self.advance()
        count_update(self.trainer)  # so that `global_step` equals `updates`
        if self.updates % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log_metrics(self.read_back(metrics))

    def advance(self) -> None:
        """Count one update. `update` itself never reads the counter: a compiled graph would depend on its value."""
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
        return dist.get_rank() if dist.is_initialized() else 0

    def setup(self, stage: str) -> None:
        """Give ranks their own randomness and find the callbacks that take part in updates.

        Raises:
            ValueError: a callback takes part at an event that this algorithm never announces, or two do at one.
        """
        callbacks = [] if (trainer := self.own_trainer) is None else trainer.callbacks  # type: ignore[attr-defined]
        for event, about in EVENTS.items():
            found = [callback for callback in callbacks if hasattr(callback, event)]
            if found and event not in self.events:
                names = type(found[0]).__name__, type(self).__name__
                raise ValueError(f"{names[0]} would be ignored: {names[1]} never announces {event}, {about}")
            if len(found) > 1:
                raise ValueError(f"{' and '.join(type(c).__name__ for c in found)} both answer {event}; keep one")
            self._participants[event] = found
        self._noisy_layers += hold_noise(self)  # of networks that were made outside of `build`
        if self.rank:  # Lightning gives all ranks one seed; the routing noise of each is drawn for other rows
            torch.manual_seed(torch.initial_seed() + 1000 * self.rank)

    def rank_state(self) -> dict[str, Any]:
        """State that differs between ranks (noise generators); gathered into the checkpoint for every rank."""
        return {}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`, on the same rank."""
