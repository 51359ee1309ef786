"""Workers of a sweep on a Ray cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from callbacks.evaluation.swept import Row
from commands.ray_workers import enter, resources_of
from commands.sweep_results import rows_of
from commands.sweep_worker import Plan, work
from datamodules.played.ray_start import original
from modules.trust.beside import with_finder

RESTARTS = 3
"""How often Ray starts a worker anew that has died; its trial goes on."""
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_LEAVE = 60.0
"""How long workers have to save their trials when a signal ends the sweep."""


def work_on_ray(plan: Plan, workers: int) -> list[Row]:
    """`work` in tasks of a cluster, whose machines share the folder of the sweep; what all of them have reached.

    Raises:
        ValueError: Ray has fewer processors, or a worker has ended before its time, for a reason of its own.
        SystemExit: a signal has ended them all, in good order.
    """
    with resources_of(workers) as resources, signals_noted() as received:
        import ray

        task: Any = ray.remote(**resources, max_retries=RESTARTS)(_work_there)
        started = waiting = [task.remote(os.getcwd(), with_finder(work), plan) for _ in range(workers)]
        while waiting and not received:
            waiting = ray.wait(waiting, num_returns=len(waiting), timeout=SECONDS_BETWEEN_LOOKS)[1]
        if received:
            for one in waiting:
                ray.cancel(one, force=False)  # as by Ctrl-C: the trial is saved
            ray.wait(started, num_returns=workers, timeout=SECONDS_TO_LEAVE)
            raise SystemExit(128 + received[0])
        reasons = []
        for one in started:
            try:
                ray.get(one)
            except ray.exceptions.WorkerCrashedError:
                reasons.append(f"a worker of the Ray cluster has died {RESTARTS + 1} times")
            except ray.exceptions.RayTaskError as error:
                reasons.append(str(original(error)))
    if reasons:
        raise ValueError(f"{'; '.join(dict.fromkeys(reasons))}; the same command goes on")
    return rows_of(plan.study().trials, plan.job)


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Signals that are to end this process and arrive within; what a handler raises, Ray would replace."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work_there(folder: str, working: Callable[[Plan], object], plan: Plan) -> None:
    enter(folder, "the sweep")
    working(plan)
