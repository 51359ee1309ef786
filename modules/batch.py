"""Field names, shapes and dtypes of every training batch: the contract between data and learners.

Axis letters, everywhere in this project: `T` time, `B` batch, `N` tree nodes, `A` actions, `D` features, `K` bins,
`E` experts, `M` ensemble or population members, `H` horizon.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from minari.serialization import serialize_space
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from torch import Tensor

from modules.trust.names import cut
from modules.trust.space_text import read_space

PLAIN = "observation"
"""Key of an observation that is a single array, where observations are read by key."""

ACTION_MASK = "action_mask"
"""Key of the part of an observation that says which numbered actions are legal, with zeros and ones `[A]`."""


def path_of(name: str) -> tuple[str, ...]:
    """Keys of an entry of a TensorDict from its name, in which a slash stands between keys: `next/reward`.

    Only the first slash does: the keys of observations may hold further ones, as those of nested Dict spaces do.
    """
    return tuple(name.split("/", 1))


def by_name(entries: TensorDictBase) -> dict[str, Tensor]:
    """All tensors of a TensorDict by name, the inverse of `path_of`."""
    tensors = entries.items(True, True)
    return {"/".join(path) if isinstance(path, tuple) else path: value for path, value in tensors}


def by_key(observation: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """Observations by key; a single array has the key `observation`."""
    return observation if isinstance(observation, dict) else {PLAIN: observation}


def is_image(space: gym.Space) -> bool:
    """Whether a space holds images: uint8 `[H, W, C]`."""
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def brief(space: gym.Space) -> str:
    """A space in a few words, for messages."""
    return cut(str(space), 94)


@dataclass(frozen=True)
class Spaces:
    """Spaces and statistics that a datamodule announces to an agent before any batch is drawn.

    Attributes:
        observation: space of one observation, not batched.
        action: space of one action, in the environment's own units.
        observation_mean: `[D]` mean that the agent subtracts from observations, or by key of those that are to be
            normalised, or None for no normalisation.
        observation_std: `[D]` standard deviation that the agent divides by; given exactly when the mean is.
    """

    observation: gym.Space
    action: gym.Space
    observation_mean: np.ndarray | dict[str, np.ndarray] | None = None
    observation_std: np.ndarray | dict[str, np.ndarray] | None = None

    def flat_boxes(self) -> tuple[gym.spaces.Box, gym.spaces.Box]:
        """The two spaces, checked: a `[D]` Box of observations and a bounded `[A]` Box of actions.

        Raises:
            ValueError: the spaces are of another kind.
        """
        observation, action = self._flat_observation(), self.action
        if isinstance(action, gym.spaces.Discrete):
            raise ValueError(
                f"this agent needs a bounded flat Box of actions, got {brief(action)}; of recorded data, IQL and ATAC "
                "learn from numbered actions: --config iql/mujoco or --config atac/cartpole"
            )
        if not isinstance(action, gym.spaces.Box) or len(action.shape) != 1 or not action.is_bounded():
            raise ValueError(
                f"this agent needs a bounded flat Box of actions, got {brief(action)}; give the true bounds as "
                "data.action_space, or for other actions an agent that plays itself: --config dreamer/small"
            )
        return observation, action

    def flat_boxes_or_discrete(self) -> tuple[gym.spaces.Box, gym.spaces.Box | gym.spaces.Discrete]:
        """As `flat_boxes`, for agents that take a Discrete space of actions, too.

        Raises:
            ValueError: the spaces are of another kind.
        """
        if isinstance(self.action, gym.spaces.Discrete):
            return self._flat_observation(), self.action
        return self.flat_boxes()

    def _flat_observation(self) -> gym.spaces.Box:
        observation = self.observation
        if not isinstance(observation, gym.spaces.Box) or len(observation.shape) != 1:
            raise ValueError(
                f"this agent needs a flat Box of observations, got {brief(observation)}; "
                "data.observation_keys joins vectors of a Dict, and gymnasium.wrappers.FlattenObservation around the "
                "environment all that can be flat"
            )
        return observation

    def observations_by_key(self) -> dict[str, gym.Space]:
        """The observation space's parts; a space that is no Dict is one part with the key `observation`."""
        space = self.observation
        return dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {PLAIN: space}

    def statistics_by_key(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation of the parts of the observation that are to be normalised.

        Vectors of bytes always are, to [0, 1], by their bounds where nothing else was announced.
        """
        known = {key: _byte_range(part) for key, part in self.observations_by_key().items() if _is_bytes(part)}
        mean, std = self.observation_mean, self.observation_std
        if mean is None or std is None:
            return known
        if isinstance(mean, dict) and isinstance(std, dict):
            return known | {key: (mean[key], std[key]) for key in mean}
        assert isinstance(mean, np.ndarray)
        assert isinstance(std, np.ndarray)
        return {PLAIN: (mean, std)}

    def to_json(self) -> str:
        """The two spaces as one JSON string; statistics travel in the agent's state_dict instead."""
        return json.dumps({"observation": serialize_space(self.observation), "action": serialize_space(self.action)})

    @classmethod
    def from_json(cls, text: str) -> Spaces:
        """Inverse of `to_json`.

        Raises:
            ValueError: it does not describe two spaces.
        """
        try:
            fields = json.loads(text)
            return cls(read_space(fields["observation"]), read_space(fields["action"]))
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the spaces cannot be read ({type(error).__name__}: {error})") from error


def _is_bytes(space: gym.Space) -> bool:
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) <= 1


def _byte_range(space: gym.Space) -> tuple[np.ndarray, np.ndarray]:
    """Lower bound and width `[D]` of a vector of bytes; entries that cannot vary have the width 1."""
    assert isinstance(space, gym.spaces.Box)
    low, high = (bound.reshape(-1).astype(np.float32) for bound in (space.low, space.high))
    return low, np.where(high > low, high - low, 1.0)


class Transition(NamedTuple):
    """One step of experience per row; actions are in the environment's units.

    Attributes:
        observation: `[B, D]` observation before the action.
        action: `[B, A]` action taken.
        reward: `[B]` reward received after the action.
        next_observation: `[B, D]` observation after the action; at a time-out the true last one, never a reset.
        terminated: `[B]` bool, the episode ended in a terminal state: nothing is bootstrapped.
        truncated: `[B]` bool, the episode was cut by a time limit: the value is bootstrapped.
        initial_observation: `[B, D]` first observations of episodes drawn independently of the rows, or None.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    truncated: Tensor
    initial_observation: Tensor | None = None

    @classmethod
    def from_tensordict(cls, batch: TensorDictBase) -> Transition:
        """Read TorchRL's TED layout: `observation`, `action`, `next/{observation, reward, terminated, truncated}`.

        Reward and flags are stored as `[B, 1]` there and are returned as `[B]` views; `initial_observation` is
        optional.
        """
        following = batch["next"]
        return cls(
            batch["observation"],
            batch["action"],
            following["reward"].squeeze(-1),
            following["observation"],
            following["terminated"].squeeze(-1),
            following["truncated"].squeeze(-1),
            batch.get("initial_observation", None),
        )


class Episodes(NamedTuple):
    """Whole recorded episodes, one behind the other.

    Attributes:
        steps: `[N]` rows in the order in which they happened; actions are in the environment's units.
        length: `[E]` int64 rows of each episode, at least one; they sum to `N`.
    """

    steps: Transition
    length: Tensor

    @property
    def first(self) -> Tensor:
        """`[E]` int64 row of each episode's first step."""
        return self.length.cumsum(0) - self.length

    @property
    def last(self) -> Tensor:
        """`[E]` int64 row of each episode's last step."""
        return self.length.cumsum(0) - 1


class SequenceBatch(NamedTuple):
    """Windows of a stream of experience, time-major; a row belongs to an observation and what led to it.

    The reset observation of an episode is a row of its own, with `is_first`, reward 0 and an action that means nothing.
    A window may start anywhere and may hold the end of one episode and the start of the next.

    Attributes:
        observation: `[T, B, ...]` by key; a single array has the key `observation`.
        previous_action: `[T, B, ...]` action that led to the observation, in the environment's units.
        reward: `[T, B]` reward received on arriving at the observation.
        is_first: `[T, B]` bool, the observation is the first of its episode.
        terminated: `[T, B]` bool, the observation is a terminal state: nothing follows.
        truncated: `[T, B]` bool, the episode was cut at this observation by a time limit.
    """

    observation: dict[str, Tensor]
    previous_action: Tensor
    reward: Tensor
    is_first: Tensor
    terminated: Tensor
    truncated: Tensor

    @classmethod
    def from_tensordict(cls, batch: TensorDictBase) -> SequenceBatch:
        """Read a `[B, T]` TensorDict of these fields; `observation` is a tensor, or a TensorDict of keys."""
        rows = batch.transpose(0, 1)
        observation = rows["observation"]
        fields = (rows[name] for name in cls._fields[1:])
        return cls(by_key(dict(observation.items()) if is_tensor_collection(observation) else observation), *fields)

    def between(self, start: int, stop: int | None = None) -> SequenceBatch:
        """The rows of these times."""
        observation = {key: x[start:stop] for key, x in self.observation.items()}
        return SequenceBatch(observation, *(x[start:stop] for x in self[1:]))


class StoredWindows(NamedTuple):
    """Windows of a stream of experience, with what was stored of the agent's state.

    Attributes:
        sequence: `[T, B]` rows.
        stored: `[T, B, W]` of the state after the action that led to the row, see `Agent.stored_state`.
    """

    sequence: SequenceBatch
    stored: Tensor

    @classmethod
    def from_tensordict(cls, batch: TensorDictBase) -> StoredWindows:
        """Read a `[B, T]` TensorDict of the rows' fields and `stored`."""
        return cls(SequenceBatch.from_tensordict(batch), batch["stored"].transpose(0, 1))


class PrioritizedSequences(NamedTuple):
    """Sequences of single episodes, drawn by priority: `L` rows, the first of which only warm a memory up.

    Rows before the start and after the end of an episode are padding: zeros with every flag unset. Padding at the start
    needs no mask where a memory is reset at the row with `is_first`, which follows it.

    Attributes:
        sequence: `[L, B]` rows.
        padding: `[L, B]` bool, the row is none of the episode's.
        start_state: `[B, W]` the agent's state before the first row, see `Agent.stored_state`; before the first
            row that is not padding, where there is padding at the start. `W` is 0 if nothing is stored.
        weight: `[B]` importance weights, at most 1.
        index: `[B]` int64 names of the sequences, for the priorities that are handed back.
        episode: `[B]` int64 names of the episodes that they are of.
        stored: `[L, B, W]` what the agent stored with each row, such as the visit counts of a search, where the replay
            keeps it (`stored_rows`), else None.
        age: `[B]` int64 transitions that the replay took since: those between the starts of neighbouring sequences for
            each that was finished after this one; 0 of recorded data, whose order means nothing. None where nobody
            counts.
    """

    sequence: SequenceBatch
    padding: Tensor
    start_state: Tensor
    weight: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    episode: Tensor
    stored: Tensor | None = None
    age: Tensor | None = None

    @classmethod
    def from_tensordict(cls, batch: TensorDictBase) -> PrioritizedSequences:
        """Read a `[B]` TensorDict of these fields, of which `sequence` is a `[B, L]` TensorDict, `padding` `[B, L]`."""
        sequence, padding = SequenceBatch.from_tensordict(batch["sequence"]), batch["padding"].transpose(0, 1)
        stored = batch["sequence"].get("stored", None)
        return cls(
            sequence,
            padding,
            batch["start_state"],
            batch["weight"],
            batch["index"],
            batch["episode"],
            None if stored is None else stored.transpose(0, 1),
            batch.get("age", None),
        )


class Example(NamedTuple):
    """One supervised example per row.

    Attributes:
        input: `[B, D]` what the network sees.
        target: `[B, A]` what it should say.
        group: `[B]` int64 number of the part of the problem that the row belongs to, such as its latent task; the
            network does not see it.
    """

    input: Tensor
    target: Tensor
    group: Tensor

    @classmethod
    def from_tensordict(cls, batch: TensorDictBase) -> Example:
        """Inverse of `to_tensordict`."""
        return cls(batch["input"], batch["target"], batch["group"])

    def to_tensordict(self) -> TensorDict:
        """`[B]` TensorDict of the fields by name."""
        return TensorDict(self._asdict(), [len(self.input)])
