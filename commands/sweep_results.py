"""Files of a sweep: trials as rows, the best config, and what importances need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState, create_trial

from callbacks.evaluation.swept import Row, best_row, write_rows
from callbacks.files.written_aside import written_aside
from callbacks.sweep_figure import draw_sweep
from commands.config_files import dump
from commands.search_space import Range, SearchSpace
from commands.sweep_storage import quiet
from commands.sweep_trial import ERROR, PRUNED, SCORES, SECONDS, Job, Scores

STATES = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}  # fmt: skip
BEST, TRIALS, PICTURE = "best.yaml", "trials.csv", "sweep.png"
"""Files in the folder of a sweep."""

LEAST, PER_KEY = 10, 5
"""Scores, and scores for each key, below which importances are noise."""


def rows_of(trials: Sequence[FrozenTrial], job: Job) -> list[Row]:
    """A row for each setting that was tried: for each choice of those that a trial trains side by side."""
    rows = []
    for trial in trials:
        scores: Scores = trial.user_attrs.get(SCORES, {})
        for label, choice in zip(job.labels, job.space.axis_labels, strict=True):
            found = job.value_of({label: scores.get(label, {})}, len(job.seeds))
            axis = {} if job.space.axis is None else {job.space.axis: choice}
            drawn = trial.params | axis
            failed = trial.state == TrialState.COMPLETE and found is None
            pruned = trial.user_attrs.get(PRUNED)
            reason = "" if pruned is None else f"pruned at evaluation {pruned}"
            rows.append(
                Row(
                    trial=trial.number,
                    state="failed" if failed else STATES[trial.state],
                    values={key: drawn[key] for key in job.space.keys},
                    score=None if found is None or trial.state != TrialState.COMPLETE else found[0],
                    seeds=scores.get(label, {}),
                    evaluations=trial.intermediate_values,
                    seconds=float(trial.user_attrs.get(SECONDS, 0.0)),
                    reason="a seed has diverged" if failed else str(trial.user_attrs.get(ERROR, reason)),
                    lower=job.lower,
                )
            )
    return rows


def write_results(rows: Sequence[Row], job: Job) -> None:
    """`trials.csv` and, as soon as there is one, `best.yaml`."""
    write_rows(rows, list(job.space.keys), job.root / TRIALS)
    best = best_row(rows)
    if best is None:
        return
    folder = next(iter(job.runs(job.root / f"trial-{best.trial}")))
    config = best_config(yaml.safe_load((folder / "config.yaml").read_text()), job.space, best, job.root)
    head = (
        f"# Trial {best.trial} of the sweep {job.root.name}: {job.score} {best.score:.6g} over {len(best.seeds)} "
        f"{'seeds' if len(best.seeds) > 1 else 'seed'}.\n#   reverie fit --config {job.root / BEST}\n"
    )
    with written_aside(job.root / BEST) as aside:
        aside.write_text(head + dump(config))


def draw_results(rows: Sequence[Row], space: SearchSpace, root: Path) -> str:
    """Draw `sweep.png`; what it says of importances."""
    importances = importances_of(rows, space)
    spread = {key: isinstance(values, Range) and values.log for key, values in space.keys.items()}
    draw_sweep(rows, importances, spread, root / PICTURE)
    if isinstance(importances, str):
        return importances
    ordered = sorted(importances.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{key.rpartition('.')[2]} {share:.2f}" for key, share in ordered)


def importances_of(rows: Sequence[Row], space: SearchSpace) -> Mapping[str, float] | str:
    """How much each key decides whether a trial is among the best, adding up to 1; or why nothing can be said.

    Source: Watanabe et al. 2023, "PED-ANOVA" (https://arxiv.org/abs/2304.10255), by Optuna.
    """
    scored = [row for row in rows if row.score is not None]
    needed = max(LEAST, PER_KEY * len(space.keys))
    if len(scored) < needed:
        return f"{len(scored)} scores tell no importances, {needed} might"
    if len({row.score for row in scored}) == 1:
        return "all scores are equal"
    quiet()
    study = optuna.create_study(direction="minimize" if scored[0].lower else "maximize")
    kinds = {key: values.distribution() for key, values in space.keys.items()}
    for row in scored:
        study.add_trial(create_trial(params=dict(row.values), distributions=kinds, value=row.score))
    return optuna.importance.get_param_importances(study)


def best_config(config: Mapping[str, Any], space: SearchSpace, best: Row, root: Path) -> dict[str, Any]:
    """The config of the best trial's first run as one of a run of its own: with its choice, in a folder by its name."""
    from commands.lightning_cli import EXPERIMENT

    own: dict[str, Any] = {**config, "run_dir": None, "ckpt_path": None}
    if space.axis is not None:
        name = space.axis.rpartition(".")[2]
        model = own["model"]
        own["model"] = {**model, "init_args": {**model["init_args"], name: best.values[space.axis]}}
    # The experiment of the sweep is not that of the run.
    trainer = own["trainer"]
    loggers = trainer["logger"] if isinstance(trainer["logger"], list) else [trainer["logger"]]
    for logger in loggers:
        arguments = logger.get("init_args", {}) if isinstance(logger, dict) else {}
        if arguments.get("experiment_name") == root.name:
            arguments["experiment_name"] = EXPERIMENT
    return own
