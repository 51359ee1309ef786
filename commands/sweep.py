"""`reverie sweep`: a search over keys of a config, by Optuna, that any number of workers share and resume."""

from __future__ import annotations

import json
import math
import os
import pkgutil
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from callbacks.evaluation.comparison import Kind
from callbacks.evaluation.report import print_table
from callbacks.evaluation.swept import Row, best_row, rows_table, told_values
from callbacks.mlflow.afterwards import store_address
from callbacks.mlflow.sweep import SweepPage
from commands import run_directory
from commands.class_names import arguments_of_class
from commands.function_command import run_with_fits
from commands.resolved_config import resolved_config
from commands.search_space import SearchSpace, bare
from commands.space_check import checked_space, population_argument
from commands.sweep_ray import work_on_ray
from commands.sweep_results import BEST, PICTURE, TRIALS, draw_results
from commands.sweep_study import Search
from commands.sweep_trial import Job, is_return
from commands.sweep_worker import Plan, work_together
from commands.turns import say
from datamodules.played.ray_start import need_ray
from modules.arguments.checks import check_counts, check_positive, check_seed, check_sizes

SET = ("--seed_everything", "--ckpt_path", "--run_dir", "--model.seeds", "--model.init_args.seeds")
"""Arguments of `fit` that a sweep sets itself."""

TRIALS_WITHOUT_NUMBER = 20

OWN = ("ckpt_path", "run_dir", "seed_everything")
"""Settings of a run that its sweep sets, or that mean nothing for its result."""


def sweep(
    config: list[str],
    space: str,
    trials: int | None = None,
    seeds: list[int] = [0],  # noqa: B006 - read only
    score: str = "last",
    mode: Literal["max", "min"] = "max",
    search: Search = Search(),
    hours: float | None = None,
    workers: int = 1,
    ray_workers: int | None = None,
    storage: str | None = None,
    run_dir: str | None = None,
    arguments: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Search for the settings of a config that do best over seeds; the same command goes on after any end.

    Arguments of `reverie fit` may follow after `--`: they are those of every trial.

    Args:
        config: config, or configs, of `reverie fit` that every trial trains with.
        space: YAML file of what is varied: keys of the config, each with {low, high} (and log or step) or {choices}.
        trials: number of trials of all calls and workers together; by default 20, or all of a grid.
        seeds: seeds of each trial, as members of one process where the agent can and they follow each other.
        score: what a trial is judged by: the return of the last policy, of the best checkpoint, or of the last regular
            evaluation (curve); or a metric of held-out data, such as validation/action_error.
        mode: whether more (max) or less (min) of the metric is better.
        search: how trials are chosen, and given up.
        hours: hours from now after which no trial begins; those that train then are finished.
        workers: processes of this machine; the same command on another machine that has the folder adds some.
        ray_workers: workers on a Ray cluster instead, whose machines share the folder.
        storage: journal file, or database such as sqlite:///sweep.db; by default sweep.journal in the folder.
        run_dir: folder of the sweep; by default runs/sweep-NAME of the first config.
        arguments: arguments of `reverie fit`, as after `--`.
    """
    # Whatever can be refused is refused before a trial begins.
    _check(trials, seeds, hours, workers, ray_workers, config)
    root = run_directory.experiment_root(run_dir, [f"sweep-{config[0]}"])
    read = SearchSpace.read(space)
    _check_arguments(arguments, read)
    shared = [*(part for name in config for part in ("--config", name)), *arguments]
    resolved = resolved_config(shared)
    agent = pkgutil.resolve_name(resolved["model"]["class_path"])
    _check_config(resolved, agent, score, mode, read)
    checked = checked_space(read, shared, agent)
    count = _number_of_trials(trials, checked, search)

    # The trials.
    together = "seeds" in arguments_of_class(agent) and [*seeds] == [*range(seeds[0], seeds[0] + len(seeds))]
    job = Job(root, shared, checked, seeds, together, score, mode == "min", _evaluations(resolved, score))
    deadline = math.inf if hours is None else time.time() + 3600.0 * hours
    plan = Plan(job, storage, search, _settings(resolved, job), count, deadline, _page(resolved, root))
    _say_what_begins(job, count, ray_workers or workers)
    try:
        rows = work_together(plan, workers) if ray_workers is None else work_on_ray(plan, ray_workers)
    except (KeyboardInterrupt, SystemExit):
        say(f"reverie sweep: stopped in {root}; the same command goes on")
        raise
    _finish(rows, job, plan)


def main(argv: list[str]) -> None:
    """`reverie sweep ... -- ...`."""
    end = argv.index("--") if "--" in argv else len(argv)
    own = _as_lists(argv[:end], {"--config": "--config", "-c": "--config", "--seeds": "--seeds"})
    run_with_fits(sweep, [*own, *argv[end:]])


def _as_lists(argv: list[str], lists: Mapping[str, str]) -> list[str]:
    """Arguments in which `--seeds 0 1 --seeds 2` stands once, as `--seeds=[0, 1, 2]`."""
    rest: list[str] = []
    found: dict[str, list[str]] = {}
    open_list: list[str] | None = None
    for word in argv:
        name, equals, value = word.partition("=")
        if name in lists:
            open_list = found.setdefault(lists[name], [])
            if equals:
                open_list.append(value)
        elif word.startswith("-") or open_list is None:
            open_list = None
            rest.append(word)
        else:
            open_list.append(word)
    for name, words in found.items():
        texts = words if name == "--config" else [part for word in words for part in word.strip("[]").split(",")]
        rest.append(f"{name}={json.dumps(texts) if name == '--config' else '[' + ','.join(texts) + ']'}")
    return rest


# ------------------------------------------------------------------------------------------------------------- checks
def _check(
    trials: int | None,
    seeds: list[int],
    hours: float | None,
    workers: int,
    ray_workers: int | None,
    config: list[str],
) -> None:
    check_sizes(trials=trials, workers=workers, ray_workers=ray_workers)
    if ray_workers is not None:
        if workers > 1:
            raise ValueError("--workers and --ray_workers are two ways to train trials at the same time: take one")
        need_ray("--ray_workers")
    if not config:
        raise ValueError("--config: name the config of reverie fit that trials train with")
    if not seeds:
        raise ValueError("--seeds needs at least one seed, such as --seeds 0 1 2")
    for seed in seeds:
        check_seed(seeds=seed)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds has a seed twice, got {seeds}: equal seeds learn the same")
    if hours is not None:
        check_positive(hours=hours)


def _check_arguments(arguments: list[str], space: SearchSpace) -> None:
    """Refuse arguments of trials that the sweep would override."""
    varied = {bare(key): key for key in space.keys}
    for word in arguments:
        flag = word.partition("=")[0]
        if flag in SET:
            raise ValueError(f"{flag} would be overridden: a sweep has --seeds and --run_dir of its own, before the --")
        if flag.startswith("--") and bare(flag[2:]) in varied:
            raise ValueError(f"{flag} would be overridden: {space.path} varies it; keep one of both")


def _check_config(config: Mapping[str, Any], agent: type, score: str, mode: str, space: SearchSpace) -> None:
    """Refuse a config whose runs cannot be trials.

    Raises:
        ValueError: it says why, and what to set.
    """
    trainer, evaluation = config["trainer"], config["evaluation"]
    if str(trainer["devices"]) != "1" or trainer["num_nodes"] != 1:
        raise ValueError(
            f"trainer.devices {trainer['devices']}: a trial trains in one process; set it to 1, and let --workers "
            "train several trials at once"
        )
    returns = is_return(score)
    if not returns and "/" not in score:
        raise ValueError(f"--score {score}: one of {', '.join(get_args(Kind))}, or a metric such as "
                         "validation/action_error")  # fmt: skip
    if returns and mode == "min":
        raise ValueError(f"--mode min: of returns, which --score {score} is, more is better; it is for metrics")
    if returns and score != "curve" and not evaluation["final_episodes"]:
        raise ValueError(
            f"--score {score} is what evaluation.final_episodes are played for, and they are 0: give some, or "
            "--score curve"
        )
    given = config["model"].get("init_args", {})
    if given.get("seeds", 1) != 1 and "seeds" in given and population_argument(agent) is not None:
        raise ValueError(f"model.seeds is {given['seeds']} and would be overridden: seeds of a sweep are --seeds")
    name = population_argument(agent)
    varied = name is not None and f"model.{name}" in map(bare, space.keys)
    if name is not None and not varied and isinstance(given.get(name), list) and len(given[name]) > 1:
        raise ValueError(f"model.{name} is a list, whose members would not be told apart: name it in {space.path}, "
                         f"model.{name}: {{choices: {given[name]}}}, or give one value")  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ settings
def _number_of_trials(trials: int | None, space: SearchSpace, search: Search) -> int:
    """Number of trials, which a grid bounds, as do keys that are all members of one process."""
    check_counts(1, **{"search.startup": search.startup})
    check_counts(0, **{"search.warmup": search.warmup})
    check_seed(**{"search.seed": search.seed})
    most = len(space.grid()) if search.sampler == "grid" or not space.drawn else None
    if most is None:
        return TRIALS_WITHOUT_NUMBER if trials is None else trials
    return most if trials is None else min(trials, most)


def _evaluations(config: Mapping[str, Any], score: str) -> int | None:
    """Regular evaluations of a run, or validations, where the number of epochs alone ends it."""
    trainer = config["trainer"]
    if not isinstance(trainer["max_epochs"], int) or trainer["max_epochs"] < 1 or trainer["max_steps"] != -1:
        return None
    every = config["evaluation"]["every_n_epochs"] if is_return(score) else trainer["check_val_every_n_epoch"] or 1
    return int(trainer["max_epochs"] // every) or None


def _settings(config: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Settings that may not change while a sweep goes on: trials with other settings do not compare."""
    kept = {key: value for key, value in config.items() if key not in OWN}
    kept["trainer"] = {key: value for key, value in config["trainer"].items() if key != "logger"}
    told = f"{job.score}, the less the better" if job.lower else job.score
    keys = {key: [repr(value) for value in values.probes()] for key, values in job.space.keys.items()}
    plain: dict[str, Any] = json.loads(
        json.dumps({"config": kept, "space": keys, "seeds": [*job.seeds], "score": told}, default=str)
    )
    return plain


def _page(config: Mapping[str, Any], root: Path) -> tuple[str, str, str | None] | None:
    """Experiment, store and place of files in MLflow; None where runs are not logged there."""
    from commands.lightning_cli import EXPERIMENT

    loggers = config["trainer"]["logger"]
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, dict) and str(logger.get("class_path")).endswith(".MLflowLogger"):
            given = logger.get("init_args", {})
            name = given.get("experiment_name", EXPERIMENT)
            uri = store_address(given.get("tracking_uri"))
            return root.name if name == EXPERIMENT else name, uri, given.get("artifact_location")
    return None


# ------------------------------------------------------------------------------------------------------------- reports
def _say_what_begins(job: Job, trials: int, workers: int) -> None:
    if len(job.seeds) > 1:
        how = "members of one process" if job.together else "one after the other"
        seeds = f"seeds {', '.join(map(str, job.seeds))} ({how})"
    else:
        seeds = f"seed {job.seeds[0]}"
    axis = "" if job.space.axis is None else f", {job.space.axis} as members of one process"
    beside = f", {workers} workers" if workers > 1 else ""
    say(f"reverie sweep: {trials} trials of {len(job.space.drawn)} keys{axis}, {seeds}{beside}, in {job.root}")


def _finish(rows: list[Row], job: Job, plan: Plan) -> None:
    """The table, and where everything is."""
    best = best_row(rows)
    if best is None:
        raise ValueError(f"no trial has a score; {job.root / TRIALS} has the reasons")
    count = len({row.trial for row in rows})
    title = f"{count} trials of {job.root.name}"
    table = rows_table(rows, list(job.space.keys), title)
    ends = [row.state for row in rows]
    importances = draw_results(rows, job.space, job.root)
    told = {
        "trials": ", ".join(f"{ends.count(state)} {state}" for state in dict.fromkeys(ends)),
        "best": f"trial {best.trial}: {told_values(best.values)}",
        "to train it": f"reverie fit --config {_from_here(job.root / BEST)}",
        "importance": importances,
        "all trials": _from_here(job.root / TRIALS),
        "picture": _from_here(job.root / PICTURE),
    }
    print_table(table, told, Console(markup=False))
    if plan.page is not None:
        page = SweepPage(job.root, *plan.page)
        page.close(
            page.open(),
            [job.root / name for name in (BEST, TRIALS, PICTURE)],
            f"{told['trials']}. Best: {told['best']}",
        )


def _from_here(path: Path) -> str:
    """The path from the working directory, where that is shorter, for a shell."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)
