"""One trial of a sweep: its runs, one for all seeds or one for each, and what they are judged by."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from optuna.trial import TrialState

from callbacks.evaluation.comparison import Kind
from callbacks.evaluation.report import Score
from callbacks.trial_report import TrialReport
from commands.search_space import SearchSpace, argument
from commands.sweep_study import Claim, SweepStudy
from commands.turns import in_folder
from modules.disk import make_folder
from modules.functional.aggregate_scores import interquartile_mean
from modules.trust.names import short

PRUNED, SCORES, SECONDS, ERROR, DONE = "pruned", "scores", "seconds", "error", "done"
"""Names under which a trial keeps: the evaluation behind which it ends; its scores by choice and seed; seconds of work;
what has ended it; scores of its runs that are over."""

Scores = dict[str, dict[str, float]]
"""Returns by label of a choice and by seed; the label of a sweep without an axis is empty."""


def is_return(score: str) -> bool:
    """Whether a score is a return of a kind that `reverie compare` knows, and not a metric."""
    return score in get_args(Kind)


@dataclass(frozen=True)
class Job:
    """All that the trials of a sweep have in common.

    Attributes:
        root: folder of the sweep.
        shared: arguments of `reverie fit`.
        space: what is varied.
        seeds: seeds of each trial.
        together: whether they are members of one process.
        score: which score of a run counts, as in `reverie compare`, or the name of a metric.
        lower: whether less of it is better.
        evaluations: regular evaluations of a run, where they are known.
    """

    root: Path
    shared: Sequence[str]
    space: SearchSpace
    seeds: Sequence[int]
    together: bool
    score: str
    lower: bool
    evaluations: int | None

    @property
    def labels(self) -> list[str]:
        """Labels of the choices that are members of one process."""
        return ["" if label is None else f"{label:g}" for label in self.space.axis_labels]

    def runs(self, folder: Path) -> dict[Path, list[int]]:
        """Folders of a trial's runs, and the seeds of each."""
        if self.together:
            return {folder / "run": list(self.seeds)}
        return {folder / f"seed-{seed}": [seed] for seed in self.seeds}

    def arguments(self, drawn: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
        """Arguments of `reverie fit` of one run."""
        own = ["--run_dir", str(self.root), "--seed_everything", str(seeds[0]), "--ckpt_path", "last"]
        if self.together:
            own.append(argument("model.seeds", len(seeds)))
        return [*self.shared, *self.space.arguments(drawn), *own]

    @property
    def metric(self) -> str | None:
        """The metric that counts; None where a return does."""
        return None if is_return(self.score) else self.score

    @property
    def best(self) -> Callable[[Iterable[float]], float]:
        """Chooses among scores."""
        return min if self.lower else max

    def value_of(self, scores: Scores, seeds: int) -> tuple[float, str] | None:
        """Value of the best choice so many of whose seeds have scores, and its label; None where there is none.

        A value is the interquartile mean over seeds, of fewer than four the mean.
        """
        whole = {label: list(some.values()) for label, some in scores.items() if len(some) == seeds}
        values = [(float(interquartile_mean(np.array(some))), label) for label, some in whole.items()]
        best = self.best((value for value, _ in values)) if values else None
        return next((pair for pair in values if pair[0] == best), None)

    def by_choice(self, scores: Sequence[Score], seeds: Sequence[int]) -> Scores:
        """Returns of living members, from scores of one evaluation."""
        found: Scores = {label: {} for label in self.labels}
        alone = len(self.labels) * len(seeds) == 1
        for score in scores:
            if alone and not score.member:
                found[self.labels[0]][str(seeds[0])] = score.mean
            # Others are called `beta=4/seed=0`, or `seed=0`; the empty name is their mean.
            group, _, last = score.member.rpartition("/")
            label = group.partition("=")[2] if self.space.axis else ""
            if last.startswith("seed=") and label in found:
                found[label][last.removeprefix("seed=")] = score.mean
        return found


def train(study: SweepStudy, job: Job, claim: Claim, tags: Mapping[str, str]) -> tuple[TrialState, float | None]:
    """Train a trial to its end, from where it stands, and keep what came of it.

    Args:
        study: where it is kept.
        job: what all trials have in common.
        claim: the trial.
        tags: tags of its runs in MLflow.

    Returns:
        How it has ended, and its value where it is complete.

    Raises:
        ValueError: nothing is evaluated, so that trials cannot be compared.
        SystemExit: a signal has ended it; the trial stays unfinished.
        KeyboardInterrupt: likewise.
    """
    began, before = time.monotonic(), float(claim.known.get(SECONDS, 0.0))
    try:
        scores = _run_all(study, job, claim, tags)
        found = None if scores is None else job.value_of(scores, len(job.seeds))
        if scores is None:
            state, value = TrialState.PRUNED, None
        elif found is None:
            study.keep(claim.number, ERROR, "the training of a seed has diverged")
            state, value = TrialState.FAIL, None
        else:
            state, value = TrialState.COMPLETE, found[0]
        if scores is not None:
            study.keep(claim.number, SCORES, scores)
    except Unscored as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # whatever ends one trial does not end the others
        study.keep(claim.number, ERROR, short(f"{str(error) or type(error).__name__}", 300))
        state, value = TrialState.FAIL, None
    finally:
        study.keep(claim.number, SECONDS, before + time.monotonic() - began)
    study.finish(claim.number, state, value)
    return state, value


class Unscored(Exception):
    """A run has ended without a score that trials could be compared by."""


def _run_all(study: SweepStudy, job: Job, claim: Claim, tags: Mapping[str, str]) -> Scores | None:
    """Scores of all seeds; None where the trial is pruned."""
    done: dict[str, Scores] = dict(claim.known.get(DONE, {}))
    if PRUNED in claim.known:
        return None
    for number, (folder, seeds) in enumerate(job.runs(claim.folder).items()):
        if folder.name not in done:
            found = _run(study, job, claim, folder, seeds, tags, may_prune=number == 0)
            if found is None:
                return None
            done[folder.name] = found
            study.keep(claim.number, DONE, done)
        # Seeds that train in turn: behind the evaluations of the first one, the mean over those so far is a step each.
        mean = job.value_of(_joined(done.values()), number + 1)
        if 0 < number < len(job.seeds) - 1 and job.evaluations is not None and mean is not None:
            step = job.evaluations + number
            if study.report(claim.number, step, mean[0]):
                study.keep(claim.number, PRUNED, step)
                return None
    return _joined(done.values())


def _run(
    study: SweepStudy, job: Job, claim: Claim, folder: Path, seeds: Sequence[int], tags: Mapping[str, str],
    may_prune: bool,
) -> Scores | None:  # fmt: skip
    """Train one run; its scores, or None where it was pruned.

    What it prints is in `fit.log` of its folder's parent.

    Raises:
        ValueError: `fit` refuses the arguments.
        Unscored: there is no score.
    """
    from commands.lightning import run

    pruned: list[int] = []

    def report(evaluation: int, scores: Sequence[Score]) -> bool:
        living = [list(some.values()) for some in job.by_choice(scores, seeds).values() if some]
        if not may_prune or not living:
            return False
        best = job.best(float(interquartile_mean(np.array(some))) for some in living)
        if study.report(claim.number, evaluation, best):
            study.keep(claim.number, PRUNED, evaluation)
            pruned.append(evaluation)
        return bool(pruned)

    # The run, which begins or goes on.
    make_folder(folder)
    told = TrialReport(tags, job.metric)
    told.report = report
    path = claim.folder / "fit.log"
    with path.open("a") as log, in_folder(folder):
        try:
            with redirect_stdout(log), redirect_stderr(log):
                run("fit", job.arguments(claim.drawn, seeds), [told])
        except SystemExit as leaving:
            if leaving.code != 2:
                raise
            log.flush()
            raise ValueError(path.read_text().strip().splitlines()[-1].removeprefix("reverie: error: ")) from leaving

    # What it is judged by.
    if pruned:
        return None
    chosen = [score for score in told.scores if score.kind == job.score]
    latest = [score for score in chosen if score.updates == chosen[-1].updates]
    if not latest:
        raise Unscored(_why_unscored(job, folder, told))
    return job.by_choice(latest, seeds)


def _why_unscored(job: Job, folder: Path, told: TrialReport) -> str:
    """Why a run has no score, and what to do about it."""
    if job.metric is None:
        return (
            f"{folder} has no score '{job.score}': give an environment to evaluate in (--data.environment) and let "
            "evaluation.every_n_epochs be no more than trainer.max_epochs; without an environment name a metric of "
            "held-out data, such as --score validation/action_error --mode min"
        )
    near = difflib.get_close_matches(job.metric, told.known, n=3, cutoff=0.0)
    return f"--score {job.metric} is logged by no validation of {folder}" + (
        f", which logs {', '.join(near)}" if near else ": let data.validation_fraction be above 0"
    )


def _joined(parts: Iterable[Scores]) -> Scores:
    """Scores of several runs by choice and seed."""
    whole: Scores = {}
    for scores in parts:
        for label, some in scores.items():
            whole.setdefault(label, {}).update(some)
    return whole
