"""From a converted dataset to its `DatasetInfo`: references, statistics and the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from datamodules.envs.episode_infos import return_text
from datamodules.envs.recorded_environment import label
from datamodules.recorded.converted import Converted
from datamodules.recorded.dataset_info import BY_HAND, NO_REFERENCES, DatasetInfo
from datamodules.recorded.references import (
    Reference,
    d4rl_reference,
    measured_reference,
    standard_reference,
    why_not_standard,
)


def describe(
    dataset: Converted, references: tuple[float, float] | None = None, environment: Mapping[str, Any] | None = None
) -> DatasetInfo:
    """Everything known about a dataset.

    Args:
        dataset: the opened conversion.
        references: returns of a random policy and of an expert given by hand; they win over all others.
        environment: plain description of the environment, where it is another one than the dataset's own.

    Raises:
        ValueError: the references cannot be told apart.
    """
    environment = environment or dataset.metadata["environment_spec"]
    reference, missing = find_reference(dataset, references, environment)
    if reference is not None and not reference.maximum > reference.minimum:
        raise ValueError(
            f"{dataset.metadata['name']}: reference_max ({reference.maximum:g}) must be greater than reference_min "
            f"({reference.minimum:g})"
        )
    info = DatasetInfo(
        name=dataset.metadata["name"],
        content_hash=dataset.metadata["content_hash"],
        environment=environment["id"] if environment is not None else None,
        transitions=len(dataset.steps),
        episodes=len(dataset.episodes),
        episode_returns=dataset.episodes["return"].numpy().copy(),
        episode_lengths=dataset.episodes["steps"].numpy().copy(),
        reference_min=reference.minimum if reference else None,
        reference_max=reference.maximum if reference else None,
        reference_source=reference.source if reference else missing,
        card="",
        observation_parts=dataset.metadata["observation_parts"],
        observation_keys=dataset.metadata["observation_keys"],
    )
    object.__setattr__(info, "card", render_card(dataset, info, environment))
    return info


def find_reference(
    dataset: Converted, given: tuple[float, float] | None, environment: Mapping[str, Any] | None
) -> tuple[Reference | None, str]:
    """The first of: given by hand, stored in the dataset, D4RL's table, our own measurement; and why there is none."""
    if given is not None:
        return Reference(*given, BY_HAND), ""
    stored = dataset.metadata["reference_min"], dataset.metadata["reference_max"]
    standard = None if environment is None else standard_reference(environment)
    if standard is not None and stored == standard[:2]:
        return standard, ""
    if None not in stored:
        return Reference(*stored, "stored in the dataset"), ""
    names = dataset.metadata["name"].split("+")  # of several that were joined
    if dataset.metadata["format"] == "d4rl" or names[0].startswith("D4RL/"):
        found = {d4rl_reference(name) for name in names}
        if len(found) == 1 and None not in found:
            return found.pop(), ""
    recorded = dataset.metadata["recorded_spec"]
    if standard is not None and environment is not None and recorded is not None:
        return None, f"none: recorded in {label(recorded)}, and evaluated in {label(environment)}"
    if standard is not None or environment is None or measured_reference(environment["id"]) is None:
        return standard, NO_REFERENCES
    return None, f"none: {why_not_standard(environment)}"


def render_card(dataset: Converted, info: DatasetInfo, environment: Mapping[str, Any] | None) -> str:
    """The card: a dozen lines that a person checks before training."""
    quartiles = map(return_text, np.quantile(info.episode_returns, [0.0, 0.25, 0.5, 0.75, 1.0]))
    lines = [
        ("dataset", info.name),
        ("sha256", info.content_hash),
        ("environment", label(environment) if environment is not None else "none"),
        ("observation", dataset.spaces.observation),
        *([("joined from", ", ".join(joined))] if (joined := dataset.metadata["observation_keys"]) else []),
        ("action", dataset.spaces.action),
        ("episodes", f"{info.episodes:,}, {info.episode_lengths.min()} to {info.episode_lengths.max()} steps"),
        ("transitions", f"{info.transitions:,} (truncation: {dataset.metadata['truncation']})"),
        ("ends", f"{dataset.metadata['terminals']:,} terminals, {dataset.metadata['timeouts']:,} time-outs"),
        ("returns", f"mean {return_text(info.episode_returns.mean())}; quartiles {' / '.join(quartiles)}"),
    ]
    if info.reference_min is not None and info.reference_max is not None:
        score = float(info.normalized(info.episode_returns.mean()))
        low, high = return_text(info.reference_min), return_text(info.reference_max)
        lines.append(("references", f"{low} to {high} ({info.reference_source})"))
        lines.append(("normalised", f"{score:.1f} for the mean return"))
    else:
        lines.append(("references", info.reference_source))
    lines += [("note", note) for note in (*dataset.metadata["notes"], *findings(dataset))]
    return "\n".join(f"{key:<12} {_printable(value)}" for key, value in lines)


def _printable(value: object) -> str:
    """One line without characters that a terminal obeys: names and notes come from files."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def findings(dataset: Converted) -> list[str]:
    """Notes that are worth knowing before training, though no errors, of up to 100,000 rows spread over the data."""
    rows = dataset.steps["row"].numpy()[:: -(-len(dataset.steps) // 100_000)]
    notes = []
    column = dataset.columns.get("observation")
    if column is not None:
        constant = np.flatnonzero(np.ptp(rows[:, column.start : column.stop], axis=0) == 0)
        if len(constant):
            notes.append(f"observation features that never change: {constant.tolist()}")
    if np.ptp(rows[:, dataset.columns["next/reward"].start]) == 0:
        notes.append("all rewards are equal: there is nothing to learn from them")
    column, space = dataset.columns.get("action"), dataset.spaces.action
    if column is not None and isinstance(space, gym.spaces.Box):
        actions = rows[:, column.start : column.stop].reshape(-1, *column.shape)
        share = float(((actions <= space.low) | (actions >= space.high)).mean())
        if share > 0.01:
            notes.append(f"{100 * share:.0f}% of the action components lie on a bound")
    return notes
