"""Collecting in another process, while the agent learns in this one."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.multiprocessing as torch_multiprocessing
from torch import Tensor

from datamodules.envs.processes import RESTART_SECONDS
from datamodules.played.ahead import PATIENCE, Ahead, Reply, Request
from datamodules.played.collector import Collector
from datamodules.played.policies import AgentPolicy, RandomPolicy
from datamodules.played.setting import Setting
from datamodules.replay.streams import StreamReplay
from modules.batch import by_name
from modules.contracts import Copyable
from modules.trust.beside import with_finder


@dataclass
class Job:
    """Everything that the collecting process needs, in a form that can be pickled.

    Attributes:
        setting: environments and how they are collected from.
        steps: number of environment steps that were taken before.
        agent: function that makes the acting agent.
        weights: weights of the learning agent, in shared memory.
        entered: `[1]` moment of the latest step in shared memory, see `Collector`.
    """

    setting: Setting
    steps: int
    agent: Callable[[], Copyable]
    weights: dict[str, Tensor]
    entered: Tensor


class BackgroundCollection(Ahead):
    """Rows from another process, which steps the environments and sends what it finds.

    Args:
        setting: environments and how they are collected from.
        replay: replay that the rows are written into.
        agent: learning agent.
    """

    def __init__(self, setting: Setting, replay: StreamReplay, agent: Copyable) -> None:
        super().__init__(setting, replay, agent)
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
        # Environments without processes of their own are stepped one after another.
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
    """Steps the environments on request.

    Args:
        job: description of the work.
    """

    def __init__(self, job: Job) -> None:
        setting = job.setting
        seed = setting.seed_at(job.steps)
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        env = setting.make(seed)
        self.collector = Collector(env, setting.spec.id, seed, setting.protection.infos)
        self.collector.entered = job.entered.numpy()
        self.random = RandomPolicy(env.single_action_space, setting.environments, seed)
        self._job = job

    @functools.cached_property
    def agent(self) -> Copyable:
        """The acting agent, a copy of the learning one."""
        return self._job.agent()

    @functools.cached_property
    def acting(self) -> AgentPolicy:
        """The acting agent with its recurrent states."""
        return AgentPolicy(self.agent, self._job.setting.environments)

    def collect(self, request: Request) -> Reply:
        """Take over new weights if there are any, and play the requested rows."""
        if request.updates is not None:
            self.agent.load_state_dict(self._job.weights)
            self.agent.updates = request.updates
        spent = self.collector.spent
        rows = self.collector.collect(request.rows, self.random if request.random else self.acting)
        arrays = {name: values.numpy() for name, values in by_name(rows).items()}
        seconds = self.collector.spent - spent
        return Reply(arrays, self.collector.restarts, seconds, self.collector.numbers_of_rows)


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
    """The error with a note of its traceback; one that cannot be pickled becomes a RuntimeError of the same text."""
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
