"""The trials of a sweep: which one comes next, who has it, what it has reached; safe for any number of workers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from commands.search_space import SearchSpace
from commands.sweep_storage import open_storage, quiet
from modules.disk import make_folder
from modules.trust.names import short

Sampler = Literal["tpe", "gp", "random", "qmc", "grid"]
Pruner = Literal["median", "hyperband", "none"]
STILLBORN = "stillborn"
"""Mark of a trial whose worker ended before all of its values were drawn; it does not count."""


@dataclass(frozen=True)
class Search:
    """How trials are chosen, and given up.

    Args:
        sampler: tpe (a tree of Parzen estimators), gp (a Gaussian process), random, qmc (Sobol's sequence) or grid.
        pruner: median: a trial ends whose evaluation is worse than the median of earlier trials at the same one;
            hyperband; or none.
        startup: trials before the sampler goes by earlier ones, and before any is pruned.
        warmup: evaluations of each trial behind which it is never pruned.
        seed: seed of what is drawn.
    """

    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    startup: int = 5
    warmup: int = 0
    seed: int = 0

    def sampler_of(self, number: int) -> BaseSampler:
        """The sampler for one trial, whose draws do not depend on when the sweep was interrupted."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if self.sampler == "tpe":
                return TPESampler(n_startup_trials=self.startup, seed=seed)
            if self.sampler == "gp":
                return GPSampler(n_startup_trials=self.startup, seed=seed)
            if self.sampler == "qmc":
                return QMCSampler(
                    scramble=True,
                    seed=self.seed,
                    independent_sampler=RandomSampler(seed),
                    warn_independent_sampling=False,
                )
        return RandomSampler(seed)  # of a grid, all is given

    def pruner_of(self, evaluations: int | None) -> BasePruner:
        """The pruner of trials with so many evaluations."""
        if self.pruner == "median":
            return MedianPruner(n_startup_trials=self.startup, n_warmup_steps=self.warmup + 1)
        if self.pruner == "hyperband":
            return HyperbandPruner(min_resource=self.warmup + 1, max_resource=evaluations or "auto")
        return NopPruner()


class Claim(NamedTuple):
    """A trial that this worker trains.

    Attributes:
        number: number of the trial.
        drawn: what was drawn for each key.
        folder: its folder.
        lock: is held as long as the worker has it.
        resumed: whether another worker, or this one in another life, has begun it.
        known: what was kept of it, by name.
    """

    number: int
    drawn: Mapping[str, Any]
    folder: Path
    lock: FileLock
    resumed: bool
    known: Mapping[str, Any]


class SweepStudy:
    """Trials in a storage that other workers use at the same time, from the same folder.

    Args:
        root: folder of the sweep.
        storage: address of the storage; None for a journal in the folder.
        search: how trials are chosen.
        space: what is drawn.
        settings: what may not change while a sweep goes on, as plain values.
        evaluations: evaluations of a whole trial, where they are known.
        lower: whether less is better.

    Raises:
        ValueError: the storage cannot be used, or holds a sweep with other settings.
    """

    def __init__(
        self,
        root: Path,
        storage: str | None,
        search: Search,
        space: SearchSpace,
        settings: Mapping[str, Any],
        evaluations: int | None,
        lower: bool,
    ) -> None:
        quiet()
        self.root = root
        self.search = search
        self.space = space
        make_folder(root)
        with self.locked():
            self.storage = open_storage(storage, root)
            self.study = optuna.create_study(
                storage=self.storage, study_name=root.name, load_if_exists=True,
                direction="minimize" if lower else "maximize", pruner=search.pruner_of(evaluations),
            )  # fmt: skip
            self.study_id = self.storage.get_study_id_from_name(root.name)
            self._check_settings(settings)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within, no other worker chooses a trial or writes results."""
        with FileLock(self.root / ".sweep.lock"):
            yield

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True)
        kept = self.study.user_attrs.get("settings")
        if kept is None:
            self.study.set_user_attr("settings", text)
            return
        for name, (old, new) in _differences(json.loads(kept), json.loads(text)):
            raise ValueError(
                f"{self.root} holds a sweep whose {name} is {short(json.dumps(old), 80)}, and not "
                f"{short(json.dumps(new), 80)}: give the old one to go on with it, or another --run_dir for a new sweep"
            )

    # --------------------------------------------------------------------------------------------------------- trials
    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials that count, in their order."""
        found = self.study.get_trials(deepcopy=False)
        return [t for t in found if STILLBORN not in t.user_attrs and t.state != TrialState.WAITING]

    def claim(self, trials: int, may_begin: bool) -> Claim | None:
        """The next trial for this worker: one that nobody trains any more, else a new one; None where there is none.

        Args:
            trials: number of trials that all workers begin together.
            may_begin: whether a new one may begin.
        """
        with self.locked():
            for trial in self.trials:
                if trial.state == TrialState.RUNNING and (claim := self._take(trial, resumed=True)) is not None:
                    return claim
            if not may_begin or len(self.trials) >= trials:
                return None
            number = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = self.search.sampler_of(number)
            if self.search.sampler == "grid":
                self._enqueue_next_point()
            asked = self.study.ask(fixed_distributions=self.space.distributions())
            return self._take(self.storage.get_trial(self._id(asked.number)), resumed=False)

    def _take(self, trial: FrozenTrial, resumed: bool) -> Claim | None:
        """The trial, unless another worker has it, or it was never whole."""
        folder = self.root / f"trial-{trial.number}"
        make_folder(folder)
        lock = FileLock(folder / ".trial.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        current = self.storage.get_trial(self._id(trial.number))
        if current.state.is_finished():
            lock.release()
            return None
        if current.params.keys() != self.space.drawn.keys():
            self.keep(trial.number, STILLBORN, True)
            self.storage.set_trial_state_values(self._id(trial.number), TrialState.FAIL)
            lock.release()
            return None
        return Claim(trial.number, current.params, folder, lock, resumed, current.user_attrs)

    def _enqueue_next_point(self) -> None:
        """Let the next trial be the first point of the grid that none has had; one that is waiting comes first."""
        if any(t.state == TrialState.WAITING for t in self.study.get_trials(deepcopy=False)):
            return
        had = [trial.params for trial in self.trials]
        self.study.enqueue_trial(next(point for point in self.space.grid() if point not in had))

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def keep(self, number: int, name: str, value: Any) -> None:
        """Keep a plain value of a trial."""
        self.storage.set_trial_user_attr(self._id(number), name, value)

    def report(self, number: int, step: int, value: float) -> bool:
        """Keep what a trial has reached at an evaluation; whether it is to be pruned."""
        self.storage.set_trial_intermediate_value(self._id(number), step, value)
        return self.study.pruner.prune(self.study, self.storage.get_trial(self._id(number)))

    def finish(self, number: int, state: TrialState, value: float | None = None) -> None:
        """End a trial: complete with its value, pruned, or failed."""
        values = None if value is None else [value]
        self.storage.set_trial_state_values(self._id(number), state, values)


def _differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Places with dots at which two plain values differ, with both."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
    elif old != new:
        yield place, (old, new)
