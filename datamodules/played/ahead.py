"""Rows that are collected elsewhere while the learner updates, at most one chunk ahead of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict

from datamodules.envs.episode_infos import Numbers
from datamodules.played.episode_statistics import EpisodeStatistics
from datamodules.played.setting import Setting
from datamodules.replay.streams import StreamReplay
from modules.batch import path_of
from modules.contracts import Copyable
from modules.wall_time import timed

CHUNK = 16
"""Rows of each stream in one request."""

PATIENCE = 5.0
"""Seconds between two checks that the other process is alive, and seconds that it gets for ending."""


class Request(NamedTuple):
    """A request for rows.

    Attributes:
        rows: number of rows of each stream.
        random: the random policy acts, not the agent.
        updates: number of updates behind the new weights that are to be taken over; None if there are none.
    """

    rows: int
    random: bool
    updates: int | None


class Reply(NamedTuple):
    """The answer to a request.

    Attributes:
        rows: `[t, N, ...]` fields of the new rows by name, see `modules.batch.by_name`.
        restarts: number of environments that were made anew so far.
        seconds: time that collecting took.
        numbers: numbers of the episodes that ended, see `EpisodeStatistics.count`.
    """

    rows: dict[str, np.ndarray]
    restarts: int
    seconds: float
    numbers: dict[tuple[int, int], Numbers]


class Ahead(EpisodeStatistics):
    """Rows from elsewhere: while the learner uses the rows that have come, at most one more chunk is collected.

    The collector waits when it is a chunk ahead of the rows that updates wait for, and the learner waits when rows are
    missing. Weights are handed over only while no request is under way, so that no half of them is ever used.

    Args:
        setting: environments and how they are collected from.
        replay: replay that the rows are written into.
        agent: learning agent.
    """

    def __init__(self, setting: Setting, replay: StreamReplay, agent: Copyable) -> None:
        super().__init__(setting.environments)
        self.setting = setting
        self.replay = replay
        self.agent = agent
        self._under_way = False
        self._refreshed = agent.updates
        self._restarts_before = 0  # of processes that have ended

    @timed("collecting")
    def provide(self, steps: int, rows: int) -> None:
        """Collect until `steps` environment steps were taken in total and `rows` rows of each stream can be sampled."""
        while self.steps < steps or len(self.replay) < rows:
            self._ask()
            reply = self._receive()
            self._under_way = False
            self.restarts = self._restarts_before + reply.restarts
            new = reply.rows
            fields = {path_of(name): torch.from_numpy(values) for name, values in new.items()}
            self.replay.extend(TensorDict(fields, list(new["reward"].shape)))
            ended = new["terminated"] | new["truncated"]
            self.count(new["reward"], new["is_first"], ended, reply.seconds, reply.numbers)
        if steps > self.setting.prefill:  # before, the agent is not to act
            self._ask()

    def _ask(self) -> None:
        if self._under_way:
            return
        left = self.setting.prefill - self.steps
        rows = min(CHUNK, -(-left // self.setting.environments)) if left > 0 else CHUNK
        updates = None
        if self.agent.updates - self._refreshed >= self.setting.refresh_updates:
            self._refreshed = updates = self.agent.updates
        self._send(Request(rows, left > 0, updates))
        self._under_way = True

    @abstractmethod
    def _send(self, request: Request) -> None:
        """Start a request, with the agent's present weights if they are part of it."""

    @abstractmethod
    def _receive(self) -> Reply:
        """Wait for the answer to the request that is under way."""

    @abstractmethod
    def close(self) -> None:
        """Close the environments; a request that is under way is dropped."""

    def state_dict(self) -> dict[str, Any]:
        """Counters, for a checkpoint; `Collector.load_state_dict` reads them too, if a run changes its collection."""
        return {"environments": "they were played in another process", **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], *, continue_episodes: bool = True) -> str | None:
        """Continue the counters of a checkpoint and return None; episodes start anew, whatever is asked for."""
        super().load_state_dict(state)
        self._begin_anew()
        return None

    def _begin_anew(self) -> None:
        """Continue with new episodes."""
        super().load_state_dict(super().state_dict())
        self._restarts_before = self.restarts
        self._under_way = False
