"""Collecting while the agent learns, in another process: rows come in one chunk ahead of what the updates wait for."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import pickle
import signal
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.multiprocessing as torch_multiprocessing
from torch import Tensor

from datamodules.envs.episode_infos import Numbers
from datamodules.envs.processes import RESTART_SECONDS
from datamodules.played.collector import Collector, Setting
from datamodules.played.episode_statistics import EpisodeStatistics
from datamodules.played.policies import AgentPolicy, RandomPolicy
from datamodules.replay.sequences import SequenceReplay
from modules.contracts import Copyable
from modules.trust.beside import with_finder

CHUNK = 16
"""Rows of each stream that are asked for at a time."""

PATIENCE = 5.0
"""Seconds after which a waiting process looks whether the other one lives, and that it gets for ending."""


class Request(NamedTuple):
    """What is asked for.

    Attributes:
        rows: of each stream.
        random: by the random policy, not by the agent.
        updates: that the weights have had which are ready to be taken over; None for no new ones.
    """

    rows: int
    random: bool
    updates: int | None


class Reply(NamedTuple):
    """What was collected, apart from the rows themselves, which are in the replay.

    Attributes:
        written: rows of each stream, ever.
        reward: `[t, N]` of the new rows.
        is_first: `[t, N]` bool.
        ended: `[t, N]` bool.
        restarts: copies of the environment that were made anew, so far.
        seconds: that it took.
        numbers: of episodes that ended, see `EpisodeStatistics.count`.
    """

    written: int
    reward: np.ndarray
    is_first: np.ndarray
    ended: np.ndarray
    restarts: int
    seconds: float
    numbers: dict[tuple[int, int], Numbers]


class Ahead(EpisodeStatistics):
    """Rows from elsewhere: while the learner uses what has come, at most one more chunk is collected.

    So the collector waits when it is a chunk ahead of what the updates wait for, and the learner when rows are missing.
    Weights are only handed over while nothing is under way, so that no half of them is ever used.
    """

    def __init__(self, setting: Setting, replay: SequenceReplay, agent: Copyable) -> None:
        super().__init__(setting.environments)
        self.setting, self.replay, self.agent = setting, replay, agent
        self._under_way = False
        self._refreshed = agent.updates
        self._restarts_before = 0  # of processes that have ended

    def provide(self, steps: int, rows: int) -> None:
        """Return when so many steps were taken, in all, and so many rows of each stream can be sampled."""
        while self.steps < steps or len(self.replay) < rows:
            self._ask()
            reply = self._receive()
            self._under_way = False
            self.replay.ring.count = reply.written
            self.restarts = self._restarts_before + reply.restarts
            self.count(reply.reward, reply.is_first, reply.ended, reply.seconds, reply.numbers)
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
        """Start what is asked for, with the agent's weights as they are if they are asked for."""

    @abstractmethod
    def _receive(self) -> Reply:
        """Wait for what was asked for."""

    @abstractmethod
    def close(self) -> None:
        """End what plays the environments; what is under way is dropped."""

    def state_dict(self) -> dict[str, Any]:
        """Counters, for a checkpoint; `Collector.load_state_dict` reads them too, if a run changes its collection."""
        return {"environments": "they were played in another process", **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], *, continue_episodes: bool = True) -> str | None:
        """Continue the counters of a checkpoint and return None; episodes start anew, whatever is asked for."""
        super().load_state_dict(state)
        self._begin_anew()
        return None

    def _begin_anew(self) -> None:
        """Go on with new episodes, wherever they are played from now on."""
        super().load_state_dict(super().state_dict())
        self._restarts_before = self.restarts
        self._under_way = False


@dataclass
class Job:
    """All that the collecting process needs, fit for pickling.

    Attributes:
        setting: what is collected.
        replay: makes the replay that it writes into.
        count: rows that were ever written to each of its streams.
        steps: that were taken before.
        agent: makes the agent that acts.
        weights: in shared memory, of this agent.
        entered: `[1]` in shared memory, see `Collector`.
    """

    setting: Setting
    replay: Callable[[], SequenceReplay]
    count: int
    steps: int
    agent: Callable[[], Copyable]
    weights: dict[str, Tensor]
    entered: Tensor


class BackgroundCollection(Ahead):
    """A process that plays the environments and writes into the replay's files, which both processes map.

    Args:
        setting: what is collected.
        replay: makes the replay, in that process again.
        own: the replay of this process.
        agent: that learns.
    """

    def __init__(
        self, setting: Setting, replay: Callable[[], SequenceReplay], own: SequenceReplay, agent: Copyable
    ) -> None:
        super().__init__(setting, own, agent)
        self._make_replay = replay
        self._entered = torch.zeros(1, dtype=torch.float64).share_memory_()

    @functools.cached_property
    def _weights(self) -> dict[str, Tensor]:
        return {k: v.detach().cpu().clone().share_memory_() for k, v in self.agent.state_dict().items()}

    @functools.cached_property
    def _child(self) -> tuple[Any, Any]:
        """The process, started at the first request, and the connection to it."""
        # A forked process would inherit the locks of this one's threads, as they happen to be.
        multiprocessing.set_forkserver_preload(["datamodules.played.background"])
        context = torch_multiprocessing.get_context("forkserver")
        connection, other_end = context.Pipe()
        job = Job(
            self.setting,
            self._make_replay,
            self.replay.ring.count,
            self.steps,
            self.agent.copy_for_acting(self._weights),
            self._weights,
            self._entered.zero_(),
        )
        # No daemon: it may have processes of its own. One that is left at the exit would be waited for, so `close`.
        process = context.Process(target=with_finder(work), args=(other_end, job), name="collection", daemon=False)
        process.start()
        other_end.close()
        atexit.register(self.close)
        return process, connection

    def _send(self, request: Request) -> None:
        process, connection = self._child
        if request.updates is not None:
            for name, value in self.agent.state_dict().items():
                self._weights[name].copy_(value)
        try:
            connection.send(request)
        except BrokenPipeError:
            raise self._ended(process) from None

    def _receive(self) -> Reply:
        process, connection = self._child
        try:
            while not connection.poll(PATIENCE):
                self._check_progress(process)
            reply = connection.recv()
        except (EOFError, ConnectionError):
            raise self._ended(process) from None
        if isinstance(reply, Exception):
            self.close()
            raise reply
        return reply

    def _check_progress(self, process: Any) -> None:
        """End a process that hangs where it cannot interrupt itself."""
        timeout, entered = self.setting.protection.step_timeout, float(self._entered)
        if not timeout or not entered:
            return
        # The copies are stepped one after another.
        if time.monotonic() - entered > timeout * self.setting.environments + RESTART_SECONDS:
            process.kill()
            self.close()
            raise ValueError(f"environment {self.setting.spec.id!r} did not answer within step_timeout, {timeout:g} s")

    def _ended(self, process: Any) -> ValueError:
        process.join(PATIENCE)
        return ValueError(
            f"the process that plays {self.setting.spec.id!r} ended with exit code {process.exitcode}; the system may "
            "have killed it"
        )

    def close(self) -> None:
        if "_child" not in vars(self):
            return
        process, connection = self._child
        atexit.unregister(self.close)
        connection.close()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
        for name in ("_child", "_weights"):
            vars(self).pop(name)
        self._begin_anew()


# -------------------------------------------------------------------------------------------- in the collecting process
class Worker:
    """Plays the environments as it is told."""

    def __init__(self, job: Job) -> None:
        setting = job.setting
        seed = setting.seed_at(job.steps)
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        env = setting.make(seed)
        self.collector = Collector(env, setting.spec.id, seed, setting.protection.infos)
        self.collector.entered = job.entered.numpy()
        self.replay = job.replay()
        self.replay.ring.count = job.count
        self.random = RandomPolicy(env.single_action_space, setting.environments, seed)
        self._job = job

    @functools.cached_property
    def agent(self) -> Copyable:
        """The acting copy."""
        return self._job.agent()

    @functools.cached_property
    def acting(self) -> AgentPolicy:
        """The acting copy with its memory."""
        return AgentPolicy(self.agent, self._job.setting.environments)

    def collect(self, request: Request) -> Reply:
        """Take over the weights if there are new ones, and write the rows that are asked for into the replay."""
        if request.updates is not None:
            self.agent.load_state_dict(self._job.weights)
            self.agent.updates = request.updates
        spent = self.collector.spent
        rows = self.collector.collect(request.rows, self.random if request.random else self.acting)
        self.replay.extend(rows)
        ended = (rows["terminated"] | rows["truncated"]).numpy()
        seconds = self.collector.spent - spent
        arrays = rows["reward"].numpy(), rows["is_first"].numpy(), ended
        return Reply(self.replay.ring.count, *arrays, self.collector.restarts, seconds, self.collector.told)


def work(connection: Any, job: Job) -> None:
    """Answer requests until the other side hangs up or dies; an error is the last answer."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # for the parent, which finishes and closes the connection
        signal.signal(ending, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    worker: Worker | None = None
    try:
        worker = Worker(job)
        while True:
            while not connection.poll(PATIENCE):
                if parent is not None and not parent.is_alive():
                    return
            connection.send(worker.collect(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        connection.send(portable(error))
    finally:
        if worker is not None:
            worker.collector.close()


def portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be pickled, with a note of where it was raised."""
    where = "".join(traceback.format_exception(error)).rstrip()
    try:
        sent = pickle.loads(pickle.dumps(error))
        sent = sent if str(sent) == str(error) else None
    except Exception:  # whatever its constructor raises
        sent = None
    if not isinstance(sent, Exception):
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"In the collecting process:\n{where}")
    return sent
