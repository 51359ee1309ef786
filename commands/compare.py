"""`reverie compare`: runs by the protocol of Agarwal et al. 2021, by config, with intervals over their seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Literal

from rich.console import Console

from callbacks.evaluation.compared import ComparedRun, Difference, check_comparable, grouped, without_repetitions
from callbacks.evaluation.comparison import Comparison, Kind, compare_groups
from callbacks.evaluation.comparison_report import (
    comparison_footer,
    comparison_metrics,
    comparison_table,
    write_comparison,
)
from callbacks.evaluation.report import Score, print_table
from callbacks.mlflow.afterwards import add_results, new_run
from commands.compared_runs import find_runs
from commands.function_command import run_function
from commands.outputs import check_folder
from datamodules.recorded.dataset_info import BY_HAND, yardstick_text
from datamodules.recorded.references import Reference
from modules.arguments.checks import check_seed, check_sizes
from modules.trust.names import short

FOLDER = "compare"
"""Folder of the files among the artifacts of a run in MLflow, and the first part of the metrics' names."""


def compare(
    runs: list[str],
    score: Kind = "last",
    by: str | list[str] = [],  # noqa: B006 - read only
    across: Difference | list[Difference] = [],  # noqa: B006 - read only
    references: dict[str, tuple[float, float]] = {},  # noqa: B006 - read only
    target: float | None = None,
    unfinished: Literal["refuse", "leave_out"] = "refuse",
    resamples: int = 2000,
    seed: int = 0,
    output: str = "compare",
    mlflow_experiment: str | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Compare runs: runs that differ in their seeds alone are a group, and intervals are over them.

    Args:
        runs: folders of runs, or with runs in them; names of experiments and ids of runs of MLflow. They may stand
            first without the option's name.
        score: score of a run: that of the last policy, of the best checkpoint, or of the last regular evaluation
            (curve) that all runs reached.
        by: settings that make a group, such as lr or model.class_path; by default all that differ.
        across: what may differ between the runs: environment, data, yardstick, evaluation.
        references: returns of a random policy and of an expert by environment, which take the place of the runs' own.
        target: score that counts as solved, for the optimality gap; by default 100 where scores are normalised.
        unfinished: whether runs without such a score are refused or left out.
        resamples: draws of each bootstrap.
        seed: seed of the draws.
        output: folder of compare.csv, scores.csv, curves.csv, compare.png and compare.html.
        mlflow_experiment: experiment of MLflow that receives all of them in a run of its own.
        tracking_uri: MLflow's store; by default $MLFLOW_TRACKING_URI or mlflow.db.
    """
    # What is compared.
    check_sizes(resamples=resamples)
    check_seed(seed=seed)
    check_folder("--output", Path(output))
    if not runs:
        raise ValueError("reverie compare needs runs: folders such as runs/atac-pendulum, or experiments of MLflow")
    console = Console(stderr=True)
    with console.status("reading runs") as status:
        found = find_runs(runs, tracking_uri, lambda name: status.update(f"reading {short(name)}"))
        found, notes = _chosen([_measured(run, references) for run in found], score, unfinished)
        check_comparable(found, [across] if isinstance(across, str) else across)
        groups = grouped(found, [by] if isinstance(by, str) else by)
        status.update("drawing runs anew")
        comparison = compare_groups(groups, score, target, resamples, seed)

    # What is told of it.
    title = f"{len(found)} runs of {', '.join(short(word, 60) for word in runs[:3])}{', ...' if runs[3:] else ''}"
    footer = comparison_footer(comparison) | notes
    files = write_comparison(comparison, title, footer, Path(output))
    shown = footer | {"files": ", ".join(path.name for path in files) + f" in {output}"}
    if mlflow_experiment is not None:
        shown["MLflow"] = _log(comparison, title, files, mlflow_experiment, tracking_uri)
    print_table(comparison_table(comparison, title), shown, Console(markup=False))


def main(argv: list[str]) -> None:
    """`reverie compare RUN ... --option value`."""
    words = list(takewhile(lambda word: not word.startswith("-"), argv))
    run_function(compare, [f"--runs={json.dumps(words)}", *argv[len(words) :]] if words else argv)


def _measured(run: ComparedRun, references: Mapping[str, tuple[float, float]]) -> ComparedRun:
    """The run with returns normalised by references that were given for its environment.

    Raises:
        ValueError: a reference of an expert is not above that of a random policy.
    """
    known = references.get(run.task.environment)
    if known is None:
        return run
    low, high = known
    if not low < high:
        raise ValueError(f"--references: {run.task.environment} needs the lower return first, got {low:g} and {high:g}")
    reference = Reference(low, high, BY_HAND)

    def normalised(one: Score) -> Score:
        mean, lower, upper = (float(x) for x in reference.normalized([one.mean, one.low, one.high]))  # type: ignore[arg-type]
        return replace(one, normalized=mean, normalized_low=lower, normalized_high=upper)

    scores = [normalised(one) for one in run.scores]
    return replace(run, scores=scores, yardstick=yardstick_text(low, high, BY_HAND))


def _chosen(
    runs: Sequence[ComparedRun], score: Kind, unfinished: Literal["refuse", "leave_out"]
) -> tuple[list[ComparedRun], dict[str, str]]:
    """The runs that have a score and are no repetitions, and what is told of the others.

    Raises:
        ValueError: a run has no such score, and is not left out, or none has.
    """
    without = [run for run in runs if not run.rows(score)]
    ended = [run for run in runs if run.rows(score)]
    if not ended or (without and unfinished == "refuse"):
        more = f" and {len(without) - 1} more" if without[1:] else ""
        raise ValueError(
            f"{without[0].name}{more} has no score '{score}': it has not ended, diverged, or played no final episodes. "
            "Go on with it (reverie fit --ckpt_path last), compare regular evaluations with --score curve, or leave it "
            "out with --unfinished leave_out"
        )
    kept, repeated = without_repetitions(ended)
    told = {"left out, without a score": without, "left out, of the same config and seed as a newer run": repeated}
    return kept, {text: ", ".join(run.name for run in some) for text, some in told.items() if some}


def _log(comparison: Comparison, title: str, files: Sequence[Path], experiment: str, tracking_uri: str | None) -> str:
    """Numbers and files in a run of their own; how it is found."""
    run = new_run(experiment, f"compare {title}", tracking_uri)
    tags = {f"{FOLDER}/score": comparison.kind, f"{FOLDER}/unit": comparison.unit}
    add_results(run, FOLDER, files, comparison_metrics(comparison), tags)
    return f"run {run.run_id} of {experiment} in {run.tracking_uri}"
