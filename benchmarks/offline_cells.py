"""Cells of the table of offline learning: one agent on one dataset, trained by `reverie fit` in a folder of its own.

A cell that has ended is read back from its folder; one that was interrupted goes on where its last checkpoint is. The
folder's name holds a hash of all that decides the numbers: arguments, preset and the data's content.
"""

from __future__ import annotations

import math
import pkgutil
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from measured_by import origin
from resumed_runs import finished, key_of, read_facts, read_rows

import commands.quiet  # noqa: F401 - before torch is imported
from commands.class_names import argument_names
from commands.config_files import ConfigFile
from commands.parsing import find_config
from datamodules.recorded.best_episodes import best_episodes
from datamodules.recorded.card import describe
from datamodules.recorded.conversion import convert
from modules.agent.checkpoint_file import read_checkpoint

EVALUATIONS = 10
"""Regular evaluations of a run that is shorter than its preset, at the least."""
HELD_OUT = ("action_error", "negative_log_likelihood", "accuracy", "td_error")
"""Held-out numbers that are kept, where an agent gives them."""


# ---------------------------------------------------------------------------------------------------------------- data
@dataclass(frozen=True)
class Dataset:
    """One dataset of the table.

    Attributes:
        source: file, folder or Minari id, as it was given.
        name: its name in the table.
        arguments: arguments of `reverie fit` for these data.
        discrete: whether its actions are numbered.
        facts: what is known without any training.
    """

    source: str
    name: str
    arguments: tuple[str, ...]
    discrete: bool
    facts: dict[str, Any]


def read_dataset(source: str, environment: str | None, taken: Sequence[str]) -> Dataset:
    """Convert and describe a dataset.

    Args:
        source: file, folder or Minari id.
        environment: gymnasium id of data that name none.
        taken: names that other datasets of the table have.

    Raises:
        ValueError: the source is missing, unreadable or holds bad data.
    """
    converted = convert([source])
    named = converted.metadata["environment"] is not None
    if not named and environment is not None:
        converted = convert([source], environment=environment)
    info = describe(converted)
    returns = info.episode_returns
    best = float(returns[best_episodes(returns, 0.1)].mean())
    normal = info.normalized if info.reference_min is not None else None
    name = info.name if info.name not in taken else f"{info.name} ({info.content_hash[:6]})"
    facts = {
        "set": name,
        "source": Path(source).name if Path(source).exists() else source,
        "content_hash": info.content_hash,
        "environment": info.environment,
        "episodes": info.episodes,
        "transitions": info.transitions,
        "mean": float(returns.mean()),
        "best_decile": best,
        "normalized": None if normal is None else [float(normal(returns.mean())), float(normal(best))],
        "references": [info.reference_min, info.reference_max],
        "yardstick": info.yardstick,
    }
    given = () if named or environment is None else ("--data.environment", environment)
    if "observation" not in converted.columns:  # images and other bytes, which presets of vectors would normalise
        given += ("--data.normalize_observation", "false")
    discrete = isinstance(converted.spaces.action, gym.spaces.Discrete)
    return Dataset(source, name, ("--data.source", source, *given), discrete, facts)


# --------------------------------------------------------------------------------------------------------------- agents
@dataclass(frozen=True)
class Contestant:
    """One agent of the table: a preset, and how it is shortened.

    Attributes:
        name: its name in the table.
        config: name or file of the config that `reverie fit` is given.
        content: the config's content, plain values.
        members: whether one process trains several seeds.
    """

    name: str
    config: str
    content: dict[str, Any] = field(repr=False)
    members: bool

    def for_numbers(self) -> tuple[str, ...]:
        """Arguments without which a preset's cloning is not for numbered actions: their loss is the cross-entropy."""
        model = self.content["model"]["init_args"]
        arguments: list[str] = []
        for prefix, group in (("--model", model), ("--model.warm_start", model.get("warm_start", {}))):
            usual = {"loss": "likelihood", "saturation": 0}
            chosen = {name: value for name, value in usual.items() if group.get(name, value) != value}
            arguments += [part for name, value in chosen.items() for part in (f"{prefix}.{name}", str(value))]
        return tuple(arguments)

    def shortened(self, updates: int | None) -> tuple[str, ...]:
        """Arguments that make a run this short; none where the preset ends by then anyway.

        Evaluations come more often, so that there is a curve. A rule that waits for so many validations waits for as
        many updates as before, and cloning before a game takes at most half of them.
        """
        data, trainer = self.content["data"]["init_args"], self.content["trainer"]
        usual, epochs = data["updates_per_epoch"], trainer["max_epochs"]
        if updates is None or updates >= usual * epochs:
            return ()
        each = -(-updates // max(EVALUATIONS, -(-updates // usual)))
        arguments = ["--data.updates_per_epoch", str(each), "--trainer.max_epochs", str(-(-updates // each))]
        model = self.content["model"]["init_args"]
        warm_start = model.get("warm_start", {})
        for prefix, group in (("--model", model), ("--model.warm_start", warm_start)):
            if group.get("patience") is not None:
                arguments += [f"{prefix}.patience", str(math.ceil(group["patience"] * usual / each))]
        if warm_start.get("updates", 0) > updates // 2:
            arguments += ["--model.warm_start.updates", str(updates // 2)]
        return tuple(arguments)


def contestant(name: str) -> Contestant:
    """The agent of a name such as `iql`, whose preset is `iql/mujoco`, or of any other config.

    Raises:
        ValueError: there is no such config, or it is for no dataset.
    """
    config = name if "/" in name or name.endswith(".yaml") else f"{name}/mujoco"
    content = ConfigFile.read(find_config(config)).content
    if not {"updates_per_epoch", "source"} <= (content.get("data", {}).get("init_args") or {}).keys():
        raise ValueError(f"{config} learns from no dataset; agents of the table do")
    members = "seeds" in argument_names(pkgutil.resolve_name(content["model"]["class_path"]))
    return Contestant(name.removesuffix(".yaml"), config, content, members)


# ---------------------------------------------------------------------------------------------------------------- cells
@dataclass(frozen=True)
class Budget:
    """How long and how often each agent is trained and played.

    Attributes:
        seeds: number of seeds.
        updates: most gradient updates; None for the preset's.
        episodes: episodes of each seed's last evaluation.
        threads: threads of torch.
        extra: further arguments of each `reverie fit`.
    """

    seeds: int
    updates: int | None
    episodes: int
    threads: int
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One agent on one dataset, with all seeds.

    Attributes:
        folder: folder of the cell; with an agent without members, one below it for each seed.
        runs: folder and arguments of each `reverie fit`.
    """

    dataset: Dataset
    agent: Contestant
    budget: Budget
    folder: Path
    runs: tuple[tuple[Path, tuple[str, ...]], ...]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.dataset.name} {self.agent.name}"


def make_cell(dataset: Dataset, agent: Contestant, budget: Budget, root: Path) -> Cell:
    """The cell of an agent and a dataset, in its folder below `root`."""
    arguments = ["--config", agent.config, *dataset.arguments, *agent.shortened(budget.updates)]
    arguments += agent.for_numbers() if dataset.discrete else ()
    arguments += ["--evaluation.final_episodes", str(budget.episodes), *budget.extra]
    seeds = [["--model.seeds", str(budget.seeds)]] if agent.members else None
    seeds = seeds or [["--seed_everything", str(seed)] for seed in range(budget.seeds)]
    key = key_of(arguments, seeds, agent.content, dataset.facts["content_hash"])
    slug = re.sub(r"[^\w.-]+", "-", agent.name)
    folder = root / re.sub(r"[^\w.-]+", "-", dataset.name) / f"{slug}-{key}"
    places = [folder] if agent.members else [folder / f"seed={seed}" for seed in range(budget.seeds)]
    return Cell(
        dataset, agent, budget, folder, tuple((p, (*arguments, *s)) for p, s in zip(places, seeds, strict=True))
    )


def train(cell: Cell, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train what the cell lacks, and return its result; one that has ended is only read.

    Args:
        cell: the cell.
        tell: receives a line about the progress now and then.

    Returns:
        `status` (`done`, `refused` or `failed`), `reason`, `minutes`, and the figures of `figures`.
    """
    for folder, arguments in cell.runs:
        facts = finished(folder, arguments, cell.budget.threads, tell)
        if facts["status"] != "done":
            break
    seconds = sum(read_facts(folder)["seconds"] for folder, _ in cell.runs)
    command = shlex.join(["reverie", "fit", *cell.runs[0][1]])
    result = {
        "set": cell.dataset.name,
        "agent": cell.agent.name,
        "command": command.replace(cell.dataset.source, cell.dataset.facts["source"]),
        "minutes": round(seconds / 60, 1),
        "status": facts["status"],
        "reason": facts["reason"],
        "origin": origin([folder for folder, _ in cell.runs], {cell.dataset.name: cell.dataset.facts["content_hash"]}),
    }
    return result | (figures([folder for folder, _ in cell.runs]) if facts["status"] == "done" else {})


# -------------------------------------------------------------------------------------------------------------- figures
def figures(folders: Sequence[Path]) -> dict[str, Any]:
    """The numbers of a cell whose runs have ended.

    Returns:
        `last`, `best` and `cloned`, the mean return of each seed at the end, of the best checkpoint and at the end of
        the warm start; `updates` of each of them, 0 where there is none; `curve`, a list of `[updates, returns of the
        seeds]`; `held_out`, the last held-out losses, means over the seeds. Lists are empty where nothing was played.
    """
    runs = [read_rows(folder / "evaluation.csv") for folder in folders]
    returns: dict[str, list[float]] = {}
    updates: dict[str, int] = {}
    for kind, name in (("last", "last"), ("best", "best"), ("phase", "cloned")):
        rows = [row for run in runs for row in seeds_of([r for r in run if r["kind"] == kind])]
        returns[name] = [row["mean"] for row in rows]
        updates[name] = int(max((row["updates"] for row in rows), default=0))
    updates["last"] = max(read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] for folder in folders)
    curve: dict[int, list[float]] = {}
    for run in runs:
        for row in seeds_of([r for r in run if r["kind"] == "curve"]):
            curve.setdefault(int(row["updates"]), []).append(row["mean"])
    return {**returns, "updates": updates, "curve": sorted(curve.items()), "held_out": held_out(folders)}


def seeds_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the members; that of the run itself where it has one seed."""
    return [row for row in rows if row["member"]] or rows


def held_out(folders: Sequence[Path]) -> dict[str, float]:
    """Last held-out losses that the runs logged, means over all seeds."""
    found: dict[str, list[float]] = {}
    for folder in folders:
        logs = sorted(folder.glob("metrics/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
        last: dict[str, float] = {}
        for row in (row for log in logs for row in read_rows(log)):  # every start of a run writes one
            last |= {k: v for k, v in row.items() if k.startswith("validation/") and isinstance(v, float)}
        for key, value in last.items():
            found.setdefault(key.rpartition("/")[2], []).append(value)
    return {name: float(np.mean(found[name])) for name in HELD_OUT if name in found}
