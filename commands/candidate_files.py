"""The checkpoints that `select` compares, and the recorded data that they have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.evaluation.selection import Trained
from commands.run_directory import NAMES, checkpoint_of_run
from commands.told_data import UNITS, told_arguments
from datamodules.envs.from_file import environment_from_file
from datamodules.offline import OfflineDataModule
from datamodules.recorded.converted import METADATA
from datamodules.recorded.sources import check_format, open_source, source_path
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.batch import Spaces
from modules.same_spaces import check_same_spaces
from modules.trust.names import short

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds its checkpoints."""

VIEW = ("observation_keys", "resize")
"""Arguments of the data that say how observations are seen."""

HANDED_ON = ("source", "format", "truncation", "environment", "seed", *VIEW)
"""Arguments of the data that say which rows there are, how they are seen, and which of them a run held out."""


@dataclass(frozen=True)
class Candidate:
    """One checkpoint.

    Attributes:
        path: file.
        name: short name among the others, empty where it is alone.
        agent: its agent, on the CPU.
        dataset: facts about the data that it learned from; {} where it names none.
        arguments: arguments of these data that say which rows they are, and in which units; {} where it names none.
    """

    path: Path
    name: str
    agent: Agent
    dataset: Mapping[str, Any]
    arguments: Mapping[str, Any]

    @property
    def run(self) -> Path:
        """Folder of the run, or of the file where that belongs to none."""
        return run_folder(self.path)

    @property
    def trained(self) -> Trained:
        """The units of its critics."""
        scale, shift = (float(self.arguments.get(name, usual)) for name, usual in zip(UNITS, (1.0, 0.0), strict=True))
        return Trained(self.name, str(self.path), scale, shift)


def run_folder(checkpoint: Path) -> Path:
    """Folder of the run that a checkpoint belongs to, else the file's own."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def find_checkpoints(given: Sequence[str], config: str | None, run_dir: str | None) -> list[Path]:
    """The files that are meant, each once.

    Args:
        given: files; folders of runs, of which the last checkpoint is meant; folders of such folders; `last`, `best`,
            `trusted` or `cloned`. The cloned policy that a run has kept is always one more.
        config: config of the run, for these names.
        run_dir: folder of the experiment, for these names.

    Raises:
        ValueError: one of them is no checkpoint and holds none, or there is none.
    """
    if not given:
        raise ValueError("--ckpt_path is an empty list; give last, checkpoints or folders of runs")
    found: list[Path] = []
    for one in given:
        folder = Path(one)
        if one in NAMES or not folder.is_dir():
            found.append(checkpoint_of_run(one, config, run_dir).absolute())
            continue
        runs = [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]
        last = [path for run in runs if (path := run / CHECKPOINTS / NAMES["last"]).is_file()]
        if not last:
            raise ValueError(
                f"no run in {folder} has {CHECKPOINTS}/{NAMES['last']}; give a run's folder or a checkpoint"
            )
        found += [path.absolute() for path in last]
    found += [path for run in map(run_folder, found) if (path := run / CHECKPOINTS / NAMES["cloned"]).is_file()]
    return list(dict.fromkeys(found))


def read_candidates(paths: Sequence[Path]) -> list[Candidate]:
    """The agents of these files, with names that tell them apart.

    Raises:
        ValueError: a file is missing, damaged, not written by reverie, or names what is not trusted.
    """
    read = []
    for path, name in zip(paths, short_names(paths), strict=True):
        content = read_checkpoint(path, "cpu")
        agent = Agent.restored(content, path)
        dataset = content.get("dataset") or {}
        if dataset.get("environment") is not None:
            environment_from_file(dataset["environment"], f"{path}: its dataset")
        read.append(Candidate(path, name, agent, dataset, told_arguments(content, path, (*HANDED_ON, *UNITS))))
    return read


def short_names(paths: Sequence[Path]) -> list[str]:
    """Names of files that tell them apart: of the run, of the file, or of both, else the paths; empty for one alone."""
    if len(paths) == 1:
        return [""]
    runs, stems = [run_folder(path) for path in paths], [path.stem for path in paths]
    parts: list[list[str]] = [[] for _ in paths]
    if len(set(runs)) > 1:
        common = os.path.commonpath(runs)
        below = [Path(os.path.relpath(run, common)) for run in runs]
        # Of experiments with one run each, the run's own folder, a date, tells nothing.
        first = {path.parts[:1] for path in below}
        parts = [[(path.parts or ("."))[0] if len(first) == len(set(runs)) else path.as_posix()] for path in below]
    if len(set(stems)) > 1:
        parts = [[*part, stem] for part, stem in zip(parts, stems, strict=True)]
    names = ["/".join(part) for part in parts]
    if len(set(names)) == len(names):
        return names
    # Two files of one run that differ in their endings or folders alone.
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def open_data(candidates: Sequence[Candidate], data: Sequence[str] | None) -> OfflineDataModule:
    """The recorded data that the candidates are compared on: those that are given, or those that all learned from.

    Raises:
        ValueError: the checkpoints name no recorded data, different ones, or what is not there or not the same any
            more; or the data do not fit the agents.
    """
    first = candidates[0]
    kept = {name: first.arguments[name] for name in HANDED_ON if name in first.arguments}
    environment = first.dataset.get("environment")
    _check_same_view(candidates)
    if data is not None:
        view = {name: kept[name] for name in VIEW if name in kept}
        kept = {"source": list(data), "seed": kept.get("seed", 0), "environment": environment, **view}
    elif "source" not in kept:
        raise ValueError(f"{first.path} names no recorded data; give them with --data")
    else:
        for other in candidates:
            if other.dataset.get("content_hash") != first.dataset.get("content_hash"):
                raise ValueError(
                    f"{other.path} learned from other data ({short(other.dataset.get('name'))}) than {first.path} "
                    f"({short(first.dataset.get('name'))}); name those to compare on with --data"
                )
    # Opened and held against the agents.
    try:
        if data is not None or environment is None:  # nothing else may say what the numbers mean
            kept |= _missing_spaces(kept, first.agent.spaces)
        opened = OfflineDataModule(**kept)
        dataset = opened.dataset
    except ValueError as error:
        sources = [kept["source"]] if isinstance(kept["source"], str) else kept["source"]
        if data is not None or all(Path(source).exists() for source in sources):
            raise
        raise ValueError(f"{error}; the data of {first.path} can be named with --data") from error
    check_same_spaces(str(first.path), first.agent.spaces, str(dataset.metadata["name"]), dataset.spaces)
    if data is None and dataset.metadata["content_hash"] != first.dataset.get("content_hash"):
        raise ValueError(
            f"{', '.join(opened.sources)} has changed since {first.path.name} learned from it; name the data "
            "with --data to compare on them all the same"
        )
    return opened


def _check_same_view(candidates: Sequence[Candidate]) -> None:
    """Refuse agents that see other parts of the same observations, which would be compared on one's view.

    Raises:
        ValueError: two of them do.
    """
    told = [c for c in candidates if c.arguments]
    for other in told[1:]:
        for name in VIEW:
            mine, theirs = told[0].arguments.get(name), other.arguments.get(name)
            if mine != theirs:
                raise ValueError(
                    f"{other.path} learned with data.{name} {short(theirs, 80)}, {told[0].path} with "
                    f"{short(mine, 80)}; compare those that see the same"
                )


def _missing_spaces(arguments: Mapping[str, Any], spaces: Spaces) -> dict[str, Any]:
    """The agents' spaces, as arguments of the data, as far as the data hold none themselves.

    Raises:
        ValueError: a source is missing or damaged.
    """
    source, format = arguments["source"], arguments.get("format", "auto")
    first = source_path(source if isinstance(source, str) else source[0], format, arguments.get("download", False))
    if (first / METADATA).is_file():  # converted before, with its spaces
        return {}
    check_format(first, format)
    described = open_source(first, format)
    held = {"observation_space": described.observation_space, "action_space": described.action_space}
    mine = {"observation_space": spaces.observation, "action_space": spaces.action}
    return {name: mine[name] for name, space in held.items() if space is None}
