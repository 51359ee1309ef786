"""`reverie select`: the choice among policies by recorded data, without the environment, or with few episodes in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from callbacks.evaluation.report import print_table
from callbacks.evaluation.selection import Selection, judge
from callbacks.evaluation.selection_report import budget_report, selection_footer, selection_table, write_selection
from callbacks.mlflow.afterwards import LoggedRun, add_results, logged_run, named_run
from commands.candidate_files import Candidate, find_checkpoints, open_data, read_candidates
from commands.checkpoints import load_agent
from commands.counting import counting
from commands.export import export as export_policy
from commands.function_command import run_function
from commands.outputs import check_folder
from commands.real_episodes import WAYS, RealEpisodes, spend
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes
from datamodules.offline import OfflineDataModule
from datamodules.recorded.whole_episodes import split
from modules.agent.candidates import Candidates
from modules.algorithms.fitted_q import Fitting, fitted_q_values
from modules.arguments.checks import check_choice, check_counts, check_positive, check_ranges, check_seed
from modules.functional.bandits import Spent
from modules.same_spaces import check_same_spaces

DISCOUNT = 0.99
"""Where no agent has one, as of cloned policies alone."""

MOST_DISCOUNT = 0.9999
"""Values of larger ones hardly settle."""

FOLDER = "select"
"""Folder of the files, in the run's folder and among its artifacts."""


def select(
    ckpt_path: str | list[str] = "last",
    data: str | list[str] | None = None,
    held_out: float = 0.2,
    discount: float | None = None,
    fqe: Fitting = Fitting(),
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    output: str | None = None,
    export: str | None = None,
    mlflow_run: str | None = None,
    tracking_uri: str | None = None,
    budget: int = 0,
    spending: Literal["halving", "ucb"] = "halving",
    environment: str | None = None,
    config: str | None = None,
    run_dir: str | None = None,
) -> None:
    """Choose a policy by recorded data alone: fitted values of all members and checkpoints, and a safe fallback.

    Args:
        ckpt_path: one of these, or a list: a checkpoint file; a folder of a run, whose last checkpoint is meant, or of
            several runs; last, best, trusted or cloned, of the newest run of that config or folder, or of all.
        data: recorded data to compare on; by default those that the checkpoints learned from.
        held_out: share of the episodes that the values are judged on, and do not learn from.
        discount: discount factor of the values; by default the largest of the agents', or 0.99.
        fqe: settings of the fitted values.
        seed: seed of the fitted values and of the first real episode.
        device: device of the fitted values; auto is the first GPU, where there is one.
        output: folder for select.json, select.csv and select.png; by default the folder select beside the checkpoints.
        export: folder that receives the chosen policy, as `reverie export` writes it.
        mlflow_run: id of the MLflow run that receives table and files; by default that of the run, where all candidates
            are of one; none for none.
        tracking_uri: store of that run; by default $MLFLOW_TRACKING_URI or mlflow.db.
        budget: number of real episodes that are spent on the candidates in the environment; they decide then.
        spending: how they are spent: halving (successive halving) or ucb (upper confidence bounds).
        environment: Gymnasium id for these; by default the environment that training evaluated in.
        config: name or file of the config that `fit` was given, for these names.
        run_dir: folder of the experiment that `fit` was given, for these names.
    """
    # Whatever can be refused is refused before the values are fitted.
    _check(held_out, discount, budget, spending, environment, seed)
    read = read_candidates(find_checkpoints([ckpt_path] if isinstance(ckpt_path, str) else ckpt_path, config, run_dir))
    place = _device(device)
    candidates = Candidates([c.agent for c in read], [c.name or str(c.path) for c in read], place)
    spec = _environment(read[0], environment) if budget else None
    logged = _logged(read, mlflow_run, tracking_uri)
    opened = open_data(read, [data] if isinstance(data, str) else data)
    gamma = _discount(candidates) if discount is None else discount
    folder = Path(output) if output is not None else _common_folder(read) / FOLDER
    check_folder("--output", folder)
    if export is not None:
        check_folder("--export", Path(export))
    selection = _selection(read, candidates, opened, held_out, gamma, fqe, seed, place)
    _show(selection, opened.info.name, folder)
    spent = [] if spec is None else _spend(candidates, selection, spec, budget, spending, seed, folder)
    _finish(selection, spent, folder, logged, export)


def main(argv: list[str]) -> None:
    """`reverie select ...`."""
    run_function(select, argv)


def _check(
    held_out: float, discount: float | None, budget: int, spending: str, environment: str | None, seed: int
) -> None:
    check_positive(held_out=held_out)
    check_ranges(("held_out", held_out, 0.0, 0.9), ("discount", discount or 0.0, 0.0, MOST_DISCOUNT))
    check_counts(0, budget=budget)
    check_seed(seed=seed)
    check_choice("spending", spending, tuple(WAYS))
    if budget == 0 and environment is not None:
        raise ValueError("--environment is for real episodes; say how many with --budget, or leave it out")


def _show(selection: Selection, data: str, folder: Path) -> None:
    """The table without the environment, on the screen and in files."""
    write_selection(selection, folder)
    title = f"{data}: values without the environment, discount {selection.about['discount']:g}"
    footer = selection_footer(selection) | {"table": str(folder / "select.csv"), "picture": str(folder / "select.png")}
    print_table(selection_table(selection, title), footer, Console(markup=False))


def _finish(
    selection: Selection, spent: list[Spent], folder: Path, logged: LoggedRun | None, export: str | None
) -> None:
    """Real episodes where there were some, MLflow's page, and the exported policy."""
    files = write_selection(selection, folder, spent)
    chosen = selection.chosen
    if spent:
        chosen = selection.candidates[spent[-1].leader]
        print_table(*budget_report(selection, spent), Console(markup=False))
    if logged is not None:
        _add_to_page(logged, selection, files, chosen.name)
    if export is not None:
        export_policy(chosen.checkpoint, export, chosen.member or None)


def _selection(
    read: list[Candidate],
    candidates: Candidates,
    opened: OfflineDataModule,
    share: float,
    discount: float,
    fqe: Fitting,
    seed: int,
    device: torch.device,
) -> Selection:
    """Fit values on a part of the data and judge all candidates on the other."""
    train, held_out = split(opened.dataset, share, opened.seed)
    with _bar("fitting values", "nothing was written; the same command starts again") as bar:
        values = fitted_q_values(candidates, train, held_out, discount, fqe, seed=seed, device=device, progress=bar)
    about = {
        "discount": discount,
        "data": {"name": opened.info.name, "content_hash": opened.info.content_hash, "sources": opened.sources},
        "held_out": share,
        "fqe": asdict(fqe) | {"target_rate": fqe.rate(discount)},
        "seed": seed,
        "device": str(device),
    }
    return judge(candidates, [c.trained for c in read], values, held_out, discount, about)


def _spend(
    candidates: Candidates,
    selection: Selection,
    spec: EnvironmentSpec,
    budget: int,
    way: str,
    seed: int,
    folder: Path,
) -> list[Spent]:
    names = [row.name for row in selection.candidates]
    with RealEpisodes(candidates, names, spec, seed) as episodes, _bar("episodes", f"the table is in {folder}") as bar:
        played = iter(range(1, budget + 1))
        return spend(episodes, selection, budget, way, lambda: bar(next(played), budget))


@contextmanager
def _bar(what: str, left: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for who calls it with what is done and what there is; Ctrl-C within says how far it was, and what is left.

    Raises:
        KeyboardInterrupt: with that message.
    """
    at = [0, 0]
    with counting(what) as count:

        def advance(done: int, total: int) -> None:
            at[:] = done, total
            count(done, total)

        try:
            yield advance
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"interrupted while {what}, {at[0]:,} of {at[1]:,}: {left}") from error


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device; leave it out for the processor")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _discount(candidates: Candidates) -> float:
    """The largest discount of the agents.

    Raises:
        ValueError: values of that discount cannot be fitted.
    """
    own: list[Any] = [getattr(agent, "discount", None) for agent in candidates.agents]
    found = float(max((x for x in own if x is not None), default=DISCOUNT))
    if found > MOST_DISCOUNT:
        raise ValueError(
            f"an agent's discount is {found:g}, and fitted values need one of at most {MOST_DISCOUNT}; give one with "
            "--discount"
        )
    return found


def _environment(first: Candidate, environment: str | None) -> EnvironmentSpec:
    """The environment of the real episodes.

    Raises:
        ValueError: it is not known, cannot be made or does not fit.
    """
    _, origin = load_agent(first.path, Changes(environment))
    spec = origin.known_environment(str(first.path))
    check_same_spaces(str(first.path), first.agent.spaces, spec.id, spec.spaces())
    return spec


def _common_folder(read: list[Candidate]) -> Path:
    return Path(os.path.commonpath([c.run for c in read]))


def _logged(read: list[Candidate], mlflow_run: str | None, tracking_uri: str | None) -> LoggedRun | None:
    """The MLflow run that receives the table: the one that is named, or that of all candidates."""
    if mlflow_run == "none":
        return None
    if mlflow_run is not None:
        return named_run(mlflow_run, tracking_uri)
    if tracking_uri is not None:
        raise ValueError("--tracking_uri is the store of the run that --mlflow_run names; give both or neither")
    return logged_run(read[0].run) if len({c.run for c in read}) == 1 else None


def _add_to_page(logged: LoggedRun, selection: Selection, files: list[Path], chosen: str) -> None:
    """Table and files in MLflow; where that fails, they are in the folder all the same."""
    metrics = {}
    for row in selection.candidates:
        numbers = {
            "value": row.value, "value/low": row.low, "value/high": row.high, "tournament": row.tournament,
            "bellman_error": row.bellman_error, "advantage_gap": row.advantage_gap, "distance": row.distance,
            "gain": row.gain, "log_likelihood": row.log_likelihood,
        }  # fmt: skip
        metrics[row.name] = {name: value for name, value in numbers.items() if value is not None}
    try:
        add_results(logged, FOLDER, files, metrics, {f"{FOLDER}/choice": chosen})
    except ValueError as error:
        print(f"not in MLflow: {error}", file=sys.stderr)
