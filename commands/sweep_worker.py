"""A worker of a sweep: it trains one trial after the other, as long as there are some, beside any number of others."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from optuna.trial import TrialState

from callbacks.evaluation.swept import Row, best_row, told_values
from callbacks.mlflow.sweep import SweepPage
from commands.devices import visible_devices
from commands.messages import shorten
from commands.sweep_results import rows_of, write_results
from commands.sweep_study import Claim, Search, SweepStudy
from commands.sweep_trial import Job, train
from commands.turns import say
from modules.trust.beside import with_finder

ALIKE = 3
"""Failures in a row, for the same reason, that end a sweep: more of them would tell nothing new."""

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to know.

    Attributes:
        job: what all trials have in common.
        storage: address of the storage; None for a journal in the folder.
        search: how trials are chosen.
        settings: what may not change while the sweep goes on.
        trials: number of trials that all workers begin together.
        deadline: time after which none begins any more, in seconds since 1970.
        page: experiment, store and place of files in MLflow; None without a page.
    """

    job: Job
    storage: str | None
    search: Search
    settings: Mapping[str, Any]
    trials: int
    deadline: float
    page: tuple[str, str, str | None] | None

    def study(self) -> SweepStudy:
        """The trials, which other workers share."""
        job = self.job
        return SweepStudy(job.root, self.storage, self.search, job.space, self.settings, job.evaluations, job.lower)


def work(plan: Plan) -> list[Row]:
    """Train trials until none is left; what all workers have reached.

    Raises:
        ValueError: the last trials have all failed for one reason, or nothing is evaluated.
        SystemExit: a signal has ended the worker; its trial goes on with the next one that asks.
        KeyboardInterrupt: likewise.
    """
    study, job = plan.study(), plan.job
    page = None if plan.page is None else SweepPage(job.root, *plan.page)
    with study.locked():
        parent = None if page is None else page.open()
    failed: list[str] = []
    while (claim := study.claim(plan.trials, time.time() < plan.deadline)) is not None:
        # The trial, and its page.
        tags = {} if page is None else page.begin(claim.folder, claim.drawn, parent)
        try:
            state, value = train(study, job, claim, tags)
        finally:
            claim.lock.release()
        # What has come of it, for people.
        with study.locked():
            rows = rows_of(study.trials, job)
            write_results(rows, job)
        mine = [row for row in rows if row.trial == claim.number]
        best = best_row(rows)
        say(_line(claim, state, mine, best))
        if page is not None:
            metrics = {"seconds": mine[0].seconds} | ({} if value is None else {"score": value})
            told = {"reason": mine[0].reason} if mine[0].reason else {}
            page.end(tags, parent, claim.number, STATUS[state], metrics, told, None if best is None else best.score)
        # Mistakes of the config fail each time.
        failed = [*failed, mine[0].reason] if state == TrialState.FAIL else []
        if len(failed) >= ALIKE and len(set(failed[-ALIKE:])) == 1:
            raise ValueError(f"{ALIKE} trials in a row have failed: {failed[-1]}; what they printed is in "
                             f"{claim.folder / 'fit.log'}")  # fmt: skip
    return rows_of(study.trials, job)


def _line(claim: Claim, state: TrialState, rows: Sequence[Row], best: Row | None) -> str:
    """One line about a trial that has ended, and the best one so far."""
    first = best_row(rows) or rows[0]
    if state == TrialState.COMPLETE:
        outcome = f"{first.score:.4g}"
    else:
        outcome = first.reason if state == TrialState.PRUNED else f"failed: {shorten(first.reason, 150)}"
    again = ", resumed" if claim.resumed else ""
    leader = "none yet" if best is None else f"{best.score:.4g} of trial {best.trial}"
    return f"trial {claim.number}: {outcome} ({first.seconds:.0f} s{again}) {told_values(first.values)}; best {leader}"


# --------------------------------------------------------------------------------------------------- several of them
def work_together(plan: Plan, workers: int) -> list[Row]:
    """`work` in several processes of this machine, each of which imports everything once.

    Where there are several GPUs, each process sees one of them, in turn.

    Raises:
        ValueError: a worker has ended before its time, and has said why.
        SystemExit: a signal has ended them all, in good order.
    """
    if workers == 1:
        return work(plan)
    # Signals, which reach this process alone, go on to the others.
    context = multiprocessing.get_context("spawn")
    devices = visible_devices()
    started = []
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number in range(workers):
            device = devices[number % len(devices)] if len(devices) > 1 else None
            given = (plan, number, device)
            process = context.Process(target=with_finder(_be_worker), args=given, name=f"worker {number}")
            process.start()
            started.append(process)
        for process in started:
            process.join()
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()
        for process in started:
            process.join()
        for received, handler in before.items():
            signal.signal(received, handler)
    lost = [process.name for process in started if process.exitcode]
    if lost:
        raise ValueError(f"{', '.join(lost)} ended before its time, for the reason above; the same command goes on")
    return rows_of(plan.study().trials, plan.job)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _be_worker(plan: Plan, number: int, device: str | None) -> None:
    """The work of one process, which says why it ends before its time."""
    importlib.import_module("commands.quiet")  # as `reverie` does, which has not started this process
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        work(plan)
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        say(f"reverie sweep: worker {number}: {shorten(str(error))}")
        sys.exit(2)
