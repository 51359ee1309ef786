"""The typed contracts between agent, data and callbacks: types alone, so that none of the three imports another.

Where a part may lack what a contract asks for, whoever needs it asks once by `isinstance` and says so to the user:
every contract that is asked for in this way is `runtime_checkable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor


# --------------------------------------------------------------------------------------------------- an agent that acts
@runtime_checkable
class Acting(Protocol):
    """An agent that chooses actions, with a recurrent state of its own and what a replay stores of that.

    Attributes:
        stored_width: width `W` of what a replay stores of the state with every row; 0 for nothing.
        stored_optional: whether rows may lack it, as recorded ones do: what is stored of an initial state stands there.
    """

    stored_width: int
    stored_optional: bool

    @property
    def device(self) -> torch.device:
        """Device of the observations that it takes."""

    def initial_state(self, batch: int) -> Any:
        """Recurrent state for `batch` fresh episodes; None for an agent without memory."""

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        """Actions `[B, ...]` for observations `[B, ...]`, and the next state."""

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        """The state that `act` returned, with the rewards `[B]` of its actions."""

    def stored_state(self, state: Any) -> Tensor:
        """The part of a state that a replay stores, `[B, W]`."""


@runtime_checkable
class Copyable(Acting, Protocol):
    """An agent of which a copy can act in another process.

    Attributes:
        updates: updates of its weights so far.
    """

    updates: int

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that it holds."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Inverse of `state_dict`."""

    def copy_for_acting(self, weights: Mapping[str, Tensor]) -> Callable[[], Copyable]:
        """A call that can be pickled and makes such an agent with these weights, on the CPU."""


# ------------------------------------------------------------------------------------------- who plays the other side
class Players(Protocol):
    """Those who can play in matches, each known by a number from 0."""

    def act(self, observation: np.ndarray | Mapping[str, np.ndarray], who: np.ndarray) -> np.ndarray:
        """Actions `[n, ...]` of players who see `[n, ...]`, alone or by key, moved by who has the number in `[n]`."""


class Opponents(Players, Protocol):
    """Those who play the other side of matches."""

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """`[count]` int64, who plays each of so many new matches."""


# ---------------------------------------------------------------------------------------------- an agent and its replay
class ReplayOffer(NamedTuple):
    """How a replay cuts its batches, for the agent that learns from them.

    Attributes:
        rows: number of rows of a sequence or window, those that only warm a memory up included.
        burn_in: rows at the start of a sequence that only warm a memory up.
        stride: row of a sequence at which the next one of the episode begins.
        prioritized: sequences are drawn by the priorities that the agent gives back.
        refreshed: the state at row `stride` that the agent gives back takes the place of the next sequence's start.
        transitions: batches are single transitions, not sequences.
        stored: sequences hold what the agent stored with each of their rows.
        fresh: windows are the newest of every stream, each beginning where the one before ended.
        steps: steps of a fresh batch in which no episode starts; 0 of others.
        between: environment steps of this process from one batch to the next; 0 where none are taken.
    """

    rows: int
    burn_in: int = 0
    stride: int = 0
    prioritized: bool = False
    refreshed: bool = False
    transitions: bool = False
    stored: bool = False
    fresh: bool = False
    steps: int = 0
    between: float = 0.0


class Feedback(NamedTuple):
    """Numbers that an update gives back to the replay about the sequences of its batch.

    Attributes:
        index: `[B]` int64 names of the sequences, from the batch.
        priority: `[B]` new priorities, finite and not negative.
        state: `[B, W]` the agent's state at row `ReplayOffer.stride`, for a replay that refreshes the states from which
            sequences start, or None. It is independent of what is stored with each row: an agent may use both.
        stored: `[L, B, W]` what the agent would store now with the rows of the batch, for a replay that refreshes what
            its sequences hold of single rows, or None.
    """

    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    priority: Tensor
    state: Tensor | None = None
    stored: Tensor | None = None


class Update(NamedTuple):
    """The outcome of one gradient update.

    Attributes:
        metrics: detached tensors on the agent's device, scalars or `[M]` of the members.
        feedback: feedback for the replay; None for none.
    """

    metrics: dict[str, Tensor]
    feedback: Feedback | None = None


@runtime_checkable
class HasReplay(Protocol):
    """Data that are drawn from a replay."""

    def replay_offer(self) -> ReplayOffer:
        """How the replay cuts its batches."""

    def write_back(self, feedback: Feedback) -> None:
        """Tell the replay what was learned from a batch.

        Raises:
            ValueError: the replay has no priorities, or one is not finite or negative.
        """


class Readable(Protocol):
    """A type of batch that can be made of a TensorDict."""

    @classmethod
    def from_tensordict(cls, batch: TensorDictBase) -> Any:
        """The batch, of this type.

        Raises:
            KeyError: the TensorDict lacks one of its fields.
        """


# ---------------------------------------------------------------------------- callbacks that take part inside an update
@runtime_checkable
class ChecksRun(Protocol):
    """A callback that refuses some runs."""

    def check_run(self, trainer: Any, agent: Any, data: object) -> None:
        """Refuse a run that cannot go well, by a `ValueError`: `reverie fit` asks before it writes anything."""


@runtime_checkable
class PerformsUpdates(Protocol):
    """A callback that an agent's updates go through, such as one that repeats them."""

    def perform_update(self, agent: Any, update: Callable[[], Update]) -> Update:
        """The outcome of the update, which may be called again after the agent's state was put back.

        Without metrics where it was undone.
        """


@runtime_checkable
class ChangedByUpdates(Protocol):
    """A callback that takes part at an event and learns something there, which is undone with an update."""

    def changed_tensors(self) -> Mapping[str, Tensor]:
        """Tensors that an update changes in place, by name; equal on all ranks."""


@runtime_checkable
class AnswersKL(Protocol):
    """A callback that mixes the Kullback-Leibler loss of a world model."""

    def on_kl(self, agent: Any, dynamic: Tensor, representation: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of two terms `[T, B]` that takes the place of the agent's own mix, and detached metrics."""


@runtime_checkable
class AnswersTargets(Protocol):
    """A callback that looks at the targets of values, and may change the heads that learn them."""

    def on_targets(
        self, agent: Any, heads: Sequence[Any], targets: Tensor, mask: Tensor | None, task: Tensor | None
    ) -> dict[str, Tensor]:
        """Targets `[...]` of a value are known, in the reward's units, and the loss is not yet made.

        Args:
            agent: agent whose update it is.
            heads: the head that learns the targets and those that follow it, such as a target network's. They may be
                changed, as long as their values stay as they are.
            targets: `[...]`.
            mask: `[...]` bool, which targets count; None for all.
            task: `[...]` int64, which task they belong to; None for one task.

        Returns:
            Detached metrics.
        """


# ------------------------------------------------------------------------------------- what data and callbacks announce
class PlainEnvironment(Protocol):
    """Something that makes an environment and can be written into a file."""

    @property
    def id(self) -> str:
        """Gymnasium's id."""

    def to_plain(self) -> dict[str, Any]:
        """Id, arguments and wrappers as plain values."""


class DatasetFacts(Protocol):
    """Facts about a recorded dataset."""

    def to_plain(self) -> dict[str, Any]:
        """Facts that an evaluation needs when only a checkpoint is at hand, as plain values."""


@runtime_checkable
class HasEnvironment(Protocol):
    """Data, or a callback, with an environment that policies are played in."""

    @property
    def environment_spec(self) -> PlainEnvironment | None:
        """It makes the environment; None where there is none."""


@runtime_checkable
class HasDataset(Protocol):
    """Data, or a callback, that knows a recorded dataset."""

    @property
    def info(self) -> DatasetFacts | None:
        """Facts about the dataset; None where there is none."""


@runtime_checkable
class MayHoldInitialObservations(Protocol):
    """Data that say whether their batches hold first observations of episodes.

    Attributes:
        initial_observations: whether they do.
    """

    initial_observations: bool


@runtime_checkable
class CountsHeldOut(Protocol):
    """Data that know how many episodes they hold out for validation, before a run begins."""

    @property
    def held_out_episodes(self) -> int:
        """Number of held-out episodes of all ranks."""


@runtime_checkable
class KnowsReturns(Protocol):
    """Data that know how well their episodes did, before a run begins."""

    @property
    def training_returns(self) -> Tensor:
        """`[E]` undiscounted returns of the training episodes of all ranks, as they were recorded."""


@runtime_checkable
class CountsSteps(Protocol):
    """Data that are collected while the agent learns."""

    @property
    def environment_steps(self) -> int:
        """Environment steps of all ranks so far."""


@runtime_checkable
class ReportsCollection(Protocol):
    """Data that are collected while the agent learns, with numbers about it."""

    def collection_metrics(self) -> dict[str, float]:
        """Numbers by name, such as `collection/return`."""


@runtime_checkable
class HasWindows(Protocol):
    """Data of which windows can be drawn aside from training.

    Attributes:
        sequence_length: rows of the windows that are trained on.
    """

    sequence_length: int

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """`[count, length]` windows of consecutive rows, which leave the training batches as they are.

        Raises:
            ValueError: there are no windows of that length.
        """


# ------------------------------------------------------------------------------------------------------- exact resume
@runtime_checkable
class HasRankState(Protocol):
    """An agent or data with state that differs between the processes of a run, such as random generators."""

    def rank_state(self) -> dict[str, Any]:
        """State of this process, in types that `weights_only=True` can load."""

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`, in the process of the same rank."""


@runtime_checkable
class SameOnAllRanks(HasRankState, Protocol):
    """Data whose processes draw together, so that another number of them can go on where they were."""

    @property
    def same_on_all_ranks(self) -> bool:
        """Whether they do, and `rank_state` is the same on all of them."""
