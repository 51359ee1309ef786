"""A `fit` that trains nothing: its returns follow from its arguments, so that sweeps can be tested in milliseconds."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

import commands.lightning
from callbacks.evaluation.report import Score
from callbacks.trial_report import TrialReport
from commands.sweep_worker import Plan, work

EVALUATIONS = 4

Return = Callable[[float, int, int], float]
"""From learning rate, seed and number of an evaluation to a return."""


def best_at(lr: float) -> Return:
    """Returns that rise with the evaluations, to 100 for this learning rate, and differ a little between seeds."""
    return lambda mine, seed, number: 100 * number / EVALUATIONS - 30 * abs(math.log10(mine / lr)) + seed


def score(kind: str, updates: int, mean: float, member: str = "") -> Score:
    return Score(updates, kind, kind, member, 1, mean, mean, mean)


class FakeFit:
    """Takes the place of `commands.lightning.run`.

    Args:
        returns: what a run reaches.
        end: is called with the number of the run and of each evaluation before it is reported; it may raise.

    Attributes:
        runs: arguments by name of all runs that have begun.
    """

    def __init__(self, returns: Return, end: Callable[[int, int], None] = lambda run, evaluation: None) -> None:
        self.returns = returns
        self.end = end
        self.runs: list[dict[str, str]] = []

    def __call__(self, subcommand: str, argv: Sequence[str], more: Sequence[TrialReport] = ()) -> None:
        """Report all evaluations, unless the trial is pruned, and keep the scores."""
        flags = [part for word in argv for part in word.split("=", 1)]
        given = {flag.removeprefix("--"): value for flag, value in itertools.pairwise(flags)}
        self.runs.append(given)
        folder, number = Path(os.environ["REVERIE_RUN_DIR"]), len(self.runs)
        config = {"model": {"init_args": {"lr": float(given["model.lr"])}}, "trainer": {"logger": False}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"seed_everything": int(given["seed_everything"])}))
        (told,) = more
        lr, seed = float(given["model.lr"]), int(given["seed_everything"])
        for evaluation in range(1, EVALUATIONS + 1):
            self.end(number, evaluation)
            mean = self.returns(lr, seed, evaluation)
            told.scores.append(score(told.metric or "curve", evaluation, mean))
            if told.report(evaluation, told.scores[-1:]):
                return
        if told.metric is None:
            told.scores.append(score("last", EVALUATIONS, mean))


def work_alone(plan: Plan, killed_at: tuple[int, int] | None, seconds: float) -> None:
    """Be a worker in a process of its own, whose runs have the best learning rate 0.003.

    Args:
        plan: of the sweep.
        killed_at: run and evaluation at which the process is killed; None for never.
        seconds: how long an evaluation takes.
    """

    def end(run: int, evaluation: int) -> None:
        time.sleep(seconds)
        if (run, evaluation) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    commands.lightning.run = FakeFit(best_at(3e-3), end)  # type: ignore[assignment]
    work(plan)
