"""Cells of the evidence from the results files, whose forms differ by what measured them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import capture_flag_results
import dqra_results
import dreamer_results
import group_results
import merlin_results
import muzero_results
import numpy as np
import popart_results
import r2d2_results
import sac_results
import select_results
import simple_results
import two_timescale_results
from evidence_cells import Cell, Goal, requoted
from learning_tables import last
from moe_results import SEEN
from muzero_cells import CELLS
from offline_results import iqm

Content = dict[str, Any]
GROUPS: dict[str, tuple[str, group_results.Groups]] = {
    "merlin": ("MERLIN", merlin_results.GROUPS),
    "r2d2": ("R2D2", r2d2_results.GROUPS),
    "sac": ("SAC", sac_results.GROUPS),
    "simple": ("SimPLe", simple_results.GROUPS),
}
"""Benchmarks whose runs stand in groups."""
OTHERS = re.compile(r"mutation-|baselines|lookahead|soak-")
"""Files of no learning, and of peers."""
SEED = "--seed_everything SEED"
DATASETS = json.loads((Path(__file__).parent / "data_hashes.json").read_text())
"""SHA-256 of the files that results before these records were made with, by the name of the dataset."""


def read_cells(folder: Path) -> list[Cell]:
    """All cells of the results in a folder, file by file.

    Raises:
        ValueError: a file is of a form that nothing here reads.
    """
    found: list[Cell] = []
    for path in sorted(folder.glob("*.json")):
        if OTHERS.match(path.name):
            continue
        content = json.loads(path.read_text())
        reader = next((read for prefix, read in READERS.items() if path.name.startswith(prefix)), None)
        if reader is None and "runs" in content and "command" in content:
            reader = seeded
        if reader is None:
            raise ValueError(f"{path.name}: docs/evidence.md has no reader for it: add one to {Path(__file__).name}")
        found += reader(path, content)
    return found


# ------------------------------------------------------------------------------------------- runs of `learning_runs.py`
def runs_cell(path: Path, content: Content, task: str, title: str, **more: Any) -> Cell:
    """The cell of a file with runs by seed; by default of the last weights' returns."""
    runs = content["runs"]
    scores = more.pop("scores", None) or last(content)
    command = re.sub(r"(?<=--data.source )\S*/(?=data/)", "", content["command"])
    source = re.search(r"--data\.source (\S+)", command)
    data = (source[1].removeprefix("data/minari/"),) if source else ()
    if recorded := re.search(r"/(\w+)_offline", command):
        data = (f"{recorded[1]}/mixed-v0",)
    known = {run["origin"]["data"]["recorded"] for run in runs if run.get("origin", {}).get("data")}
    told = {
        "origins": [run.get("origin") for run in runs],
        "processor": content["processor"],
        "dates": sorted({run["date"] for run in runs if "date" in run}),
        "minutes": sum(run.get("minutes", 0.0) for run in runs),
        "hashes": {name: " ".join(sorted(known)) for name in data if known},
    }
    beside = references(content) | more.pop("beside", {})
    seeds = dict(zip([run["seed"] for run in runs], scores, strict=True))
    return Cell(path.stem, path.name, task, title, seeds, more.pop("unit", "return"), f"{command} {SEED}", told,
                beside=beside, data=data, **more)  # fmt: skip


def references(content: Content) -> dict[str, float]:
    """Mean returns that a run measures beside its own: a random policy's and the recorded data's."""
    names = {"random": "random policy", "behaviour": "the data"}
    rows = [row for run in content["runs"] for row in run.get("rows", ()) if row.get("kind") in names]
    return {
        names[kind]: float(np.mean([r["mean"] for r in rows if r["kind"] == kind]))
        for kind in dict.fromkeys(r["kind"] for r in rows)
    }


def seeded(path: Path, content: Content) -> Iterator[Cell]:
    """A file of runs that no table names: of its config alone."""
    yield runs_cell(path, content, content["task"], content["command"].partition("--config ")[2].split()[0])


def grouped(path: Path, content: Content) -> Iterator[Cell]:
    """A run of a group, with the others of the group beside it."""
    benchmark, _, task = path.stem.partition("-")
    title, groups = GROUPS[benchmark]
    for head, goal, tasks in groups.values():
        if task in tasks.values():
            label = next(label for label, name in tasks.items() if name == task)
            paths = {label: path.with_name(f"{benchmark}-{name}.json") for label, name in tasks.items() if name != task}
            # Other tasks of the group, such as longer corridors, tell nothing about this one.
            there = {other: json.loads(found.read_text()) for other, found in paths.items() if found.exists()}
            alike = {other: runs for other, runs in there.items() if task_arguments(runs) == task_arguments(content)}
            beside = {other: iqm([last(runs)])[0] for other, runs in alike.items()}
            named = label if label.startswith((title, "PPO", "A2C")) else f"{title}, {label}"
            yield runs_cell(path, content, head, named, goals=(Goal(f"{goal:g}", goal),), beside=beside)
            return
    yield from seeded(path, content)


def task_arguments(content: Content) -> set[str]:
    """The arguments of a command that make its environment another task."""
    return set(re.findall(r"--data\.environment_arguments\S* \S+", content["command"]))


def middle(path: Path) -> float:
    """Interquartile mean of the last weights' returns in another file, over its seeds."""
    return iqm([last(json.loads(path.read_text()))])[0]


def dreamer(path: Path, content: Content) -> Iterator[Cell]:
    """DreamerV2 and V3, with the model-free baselines or the usual variant beside them."""
    task = content["task"]
    version, short = ("DreamerV3", task.removeprefix("v3-")) if task.startswith("v3-") else ("DreamerV2", task)
    base = short.split("-")[0]
    goal = dreamer_results.GOALS[base]
    told = Goal(f"{goal:g}", goal)
    beside: dict[str, Any] = {}
    if short == base:
        rows = json.loads((path.parent / "baselines.json").read_text())
        beside = {row["name"]: iqm([row["returns"]])[0] for row in rows if row["task"] == base}
    elif short.endswith("-offline"):
        version = dreamer_results.OPTIMISTIC if "-optimistic-" in short else dreamer_results.OFFLINE
        beside = {"DreamerV2, playing for itself": middle(path.with_name(f"dreamer-{base}.json"))}
        told = Goal("0.9 of what it reaches playing for itself", 0.9 * next(iter(beside.values())))
    else:
        labels = {name: label for _, runs in dreamer_results.GROUPS.values() for label, name in runs.items()}
        version += f", {labels.get(short, short)}"
        beside = {"DreamerV2 as it is": middle(path.with_name(f"dreamer-{base}.json"))}
    yield runs_cell(path, content, dreamer_results.TASKS[base], version, beside=beside, goals=(told,))


def popart(path: Path, content: Content) -> Iterator[Cell]:
    """A2C, and both games at once by the mean of their returns, each in units of its own rewards."""
    task = content["task"]
    if task in popart_results.PRESETS:
        yield runs_cell(path, content, popart_results.PRESETS[task], "A2C")
        return
    scores = [float(np.mean(run["games"])) for run in content["runs"]]
    other = "two-catch-off" if task == "two-catch" else "two-catch"
    there = path.with_name(f"popart-{other}.json")
    beside = {}
    if there.exists():
        means = [float(np.mean(run["games"])) for run in json.loads(there.read_text())["runs"]]
        beside = {popart_results.VARIANTS[other]: iqm([means])[0]}
    title = f"A2C, {popart_results.VARIANTS[task]}"
    cell = runs_cell(path, content, "two games of Catch, rewards of 1 and 10,000", title, scores=scores, beside=beside,
                     unit="share of the best return", goals=(Goal("0.9", 0.9),))  # fmt: skip
    yield Cell(**{**vars(cell), "beside": beside | {"random policy": -0.6}})


def dqra(path: Path, content: Content) -> Iterator[Cell]:
    """Learning with a Bellman residual of some weight, that without one beside it."""
    name, _, weight = path.stem.partition("-")[2].rpartition("-")
    there = path.with_name(f"{dqra_results.name_of(name, 0.0)}.json")
    beside = {"without a residual": middle(there)} if float(weight) and there.exists() else {}
    title, _, task = dqra_results.TITLES[name].partition(", ")
    yield runs_cell(path, content, task, f"{title}, residual {weight}", beside=beside)


def muzero(path: Path, content: Content) -> Iterator[Cell]:
    """A run of the MuZero family by its goals, and the run that it is to be above."""
    name = path.stem.partition("-")[2]
    cell = CELLS[name]
    goals = []
    for goal in cell.goals:
        when = goal.played or ("" if goal.at is None else f"at {goal.at:,} steps")
        values = tuple(muzero_results.values(content, goal)) if when else ()
        goals.append(Goal(f"{goal.least:.4g} {when}".strip(), goal.least, values))
    beside = {}
    if cell.above_data:
        goals.append(Goal("above the data", muzero_results.recorded(content)))
    if cell.above is not None and (there := path.with_name(f"muzero-{cell.above[0]}.json")).exists():
        beside = {CELLS[cell.above[0]].title: middle(there)}
        goals.append(Goal(f"{cell.above[1]:g} above it", beside[CELLS[cell.above[0]].title] + cell.above[1]))
    won = [run["plays"][play][0]["success"] for run in content["runs"] for play in cell.plays if run.get("plays")]
    if won and won[0] is not None:
        beside[f"won against {next(iter(cell.plays))}"] = f"{np.mean(won):.0%}"
    yield runs_cell(path, content, cell.group, f"MuZero, {cell.title}", goals=tuple(goals), beside=beside)


def capture_flag(path: Path, content: Content) -> Iterator[Cell]:
    """Self-play, by the points of rating that the last copy gained on the first that had learned."""
    copies = [capture_flag_results.copies_of(run) for run in content["runs"]]
    gains = [found[-1]["rating"] - found[1]["rating"] for found in copies]
    goal = capture_flag_results.GOAL
    yield runs_cell(path, content, "capture the flag", "PPO, self-play", scores=gains, unit="points of rating gained",
                    goals=(Goal(f"{goal:g}", goal),))  # fmt: skip


def population(path: Path, content: Content) -> Iterator[Cell]:
    """A population on the grid with a key and a door, by the wins of its best member."""
    wins = [run["wins"] for run in content["runs"]]
    there = {name: path.with_name(f"population-{name}.json") for name in ("events", "wins")}
    others = {name: other for name, other in there.items() if other != path and other.exists()}
    beside = {
        name: float(np.mean([r["wins"] for r in json.loads(p.read_text())["runs"]])) for name, p in others.items()
    }
    title = f"population of PPO, {path.stem.partition('-')[2]}"
    told = {**content, "command": "reverie evolve --config evolve/key_door --seed SEED"}
    cell = runs_cell(path, told, "key and door", title, scores=wins, unit="wins", beside=beside)
    yield Cell(**{**vars(cell), "command": f"{content['command']} --tasks {path.stem.partition('-')[2]}"})


# ------------------------------------------------------------------------------------------------------ files with data
def hashes(names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of the files of these datasets, where they are known."""
    return {name: DATASETS[name] for name in names if name in DATASETS}


def learning(path: Path, content: Content) -> Iterator[Cell]:
    """ATAC with several members, with the data and the cloned policy beside it."""
    kinds: dict[str, list[float]] = {}
    for row in content["rows"]:
        if row["member"] or row["kind"] == "behaviour":
            kinds.setdefault(row["kind"], []).append(row["mean"])
    beside = {"the data": kinds["behaviour"][0], "cloned": iqm([kinds["phase"]])[0]}
    variant = content["task"].removeprefix(content["dataset"])
    named = {"": "", "-shuffled": ", rewards permuted", "-moe": ", mixture trunks", "-bf16": ", bfloat16 products"}
    origin = content.get("origin")
    told = {
        "origins": [origin], "processor": content["processor"], "dates": [content["date"]],
        "minutes": content["minutes"],
        "hashes": origin["data"] if origin else hashes((content["dataset"],)),
    }  # fmt: skip
    yield Cell(path.stem, path.name, content["dataset"], f"ATAC{named[variant]}", dict(enumerate(kinds["last"])),
               "return", content["command"], told, beside=beside, data=(content["dataset"],))  # fmt: skip


def offline(path: Path, content: Content) -> Iterator[Cell]:
    """Tables of offline learning, a cell for each agent on each set."""
    first, ways = content["command"].partition("python ")[0], {"cloning": "cloning", "td3_bc": "TD3+BC"}
    seeds = content["seeds"] if isinstance(content["seeds"], list) else list(range(content["seeds"]))
    facts = {facts["set"]: facts for facts in content["sets"]}
    for cell in content["cells"]:
        if not cell.get("last"):
            continue
        about = facts[cell["set"]]
        beside = {"the data": about["mean"], "their best tenth": about["best_decile"]}
        if cell["cloned"]:
            beside["its cloned policy"] = iqm([cell["cloned"]])[0]
        others = [c for c in content["cells"] if c["set"] == cell["set"] and c is not cell and c.get("last")]
        beside |= {other["agent"]: iqm([other["last"]])[0] for other in others}
        command = cell["command"]
        if "--model.seeds" not in command:
            command = re.sub(r"--seed_everything \d+", SEED, command)
        told = {
            "origins": [cell.get("origin")], "processor": content["processor"], "dates": [content["date"]],
            "minutes": cell["minutes"], "hashes": {cell["set"]: about["content_hash"]},
        }  # fmt: skip
        name = f"{path.stem}/{cell['set'].replace('/', '-')}/{cell['agent']}"
        title = ways.get(cell["agent"], cell["agent"].upper())
        title += f", {content['title']}" if content.get("title") else ""
        yield Cell(name, path.name, cell["set"], title, dict(zip(seeds, cell["last"], strict=True)), "return",
                   first + command, told, beside=beside, data=(cell["set"],))  # fmt: skip


def select(path: Path, content: Content) -> Iterator[Cell]:
    """The true return of the policy that recorded data chose, with those of the best candidate and of the safe one."""
    scores, best, safe = {}, [], []
    for run in content["runs"]:
        true, picked = select_results.true_scores(run), select_results.picked(run)
        scores[run["seed"]] = float(true[picked["choice, with fallback"]])
        best.append(true.max())
        safe.append(true[picked["safe fallback"]])
    beside = {"best candidate": float(np.mean(best)), "safe fallback": float(np.mean(safe))}
    told = {
        "origins": [run.get("origin") for run in content["runs"]], "processor": content["runs"][0]["processor"],
        "dates": sorted({run["date"] for run in content["runs"]}), "minutes": 0.0, "hashes": hashes((content["set"],)),
    }  # fmt: skip
    command = f"{content['command']} --sets {content['set']}"
    title = "choice by recorded data" + (f", {content['title']}" if content.get("title") else "")
    yield Cell(path.stem, path.name, content["set"], title, scores, "return of the choice", command,
               told, beside=beside, data=(content["set"],))  # fmt: skip


# ----------------------------------------------------------------------------------------------------- other quantities
def moe(path: Path, content: Content) -> Iterator[Cell]:
    """Mixtures by their error, with the dense network of equal arithmetic beside them."""
    by_variant: dict[str, list[dict[str, Any]]] = {}
    for row in content["rows"]:
        by_variant.setdefault(row["variant"], []).append(row)
    short = f"--data.updates_per_epoch {content['updates']} --trainer.max_epochs 1 {SEED}"
    for variant, rows in by_variant.items():
        dense = "dense, equal arithmetic" if content["experiment"] == "mixture" else f"{variant.split(', ')[0]}, none"
        beside = {} if variant == dense else {dense: iqm([[row[SEEN] for row in by_variant[dense]]])[0]}
        told = {
            "origins": [content.get("origin")], "processor": content["processor"], "dates": [content["date"]],
            "minutes": sum(row["cpu_seconds"] for row in rows) / 60.0, "hashes": {},
        }  # fmt: skip
        name = f"{path.stem}/{re.sub(r'[^a-z0-9_]+', '-', variant.lower())}"
        task = {"mixture": "64 latent tasks", "stacking": "compositions of maps"}[content["experiment"]]
        yield Cell(name, path.name, task, variant, {row["seed"]: row[SEEN] for row in rows}, "relative error, less is "
                   "better", f"{requoted(content['variants'][variant])} {short}", told, beside=beside)  # fmt: skip


def two_timescale(path: Path, content: Content) -> Iterator[Cell]:
    """Memories that are taught to keep a cue, by their accuracy."""
    kind = path.stem.partition("-")[2]
    runs, goal = content["runs"], two_timescale_results.GOAL
    told = {
        "origins": [content.get("origin")], "processor": content["processor"],
        "dates": sorted({run["date"] for run in runs}), "minutes": sum(run["seconds"] for run in runs) / 60.0,
        "hashes": {},
    }  # fmt: skip
    yield Cell(path.stem, path.name, "a cue over 100 steps", two_timescale_results.LABELS[kind],
               {run["seed"]: run["last"] for run in runs}, "accuracy", f"python benchmarks/bench_two_timescale.py "
               f"--kinds {kind}", told, goals=(Goal(f"{goal:g}", goal),), beside={"chance": 0.25})  # fmt: skip


READERS: dict[str, Callable[[Path, Content], Iterator[Cell]]] = {
    "armor": offline,
    "capture-flag-": capture_flag,
    "dqra-": dqra,
    "dreamer-": dreamer,
    "learning-": learning,
    "moe-": moe,
    "muzero-": muzero,
    "offline-table": offline,
    "popart-": popart,
    "population-": population,
    "select-": select,
    "two_timescale-": two_timescale,
} | {f"{benchmark}-": grouped for benchmark in GROUPS}
