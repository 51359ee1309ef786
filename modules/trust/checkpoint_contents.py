"""The entries that reverie writes into a checkpoint, and whether a file holds them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.trust.hints import fits
from modules.trust.names import check_plain, is_class_path, short

AGENT: dict[str, Any] = {
    "class_path": str, "spaces": str, "updates": int, "alive": list[bool], "member_names": list[str] | tuple[str, ...],
    "compile_mode": str | None,
}  # fmt: skip
DATASET: dict[str, Any] = {
    "name": str | None, "content_hash": str | None, "environment": str | None, "reference_min": float | None,
    "reference_max": float | None, "reference_source": str | None, "observation_parts": str | None,
    "observation_keys": list[str] | None,
}  # fmt: skip
LARGEST_COUNT = 2**63
LONGEST_NAME = 300
MANY = 1000
"""Values that a list among the arguments may have whatever the size of the model: it may make a layer of each."""


def check_contents(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuse what reverie never writes into a checkpoint.

    Raises:
        ValueError: an entry is of another kind, or one of the agent's is missing.
    """

    def refuse(what: str) -> None:
        raise ValueError(f"checkpoint {path} is damaged: {what}; use another one")

    _check_weights(checkpoint["state_dict"], refuse)
    for name, kinds in (("agent", AGENT), ("dataset", DATASET)):
        entry = checkpoint.get(name)
        if entry is None:
            continue
        if not isinstance(entry, Mapping):
            refuse(f"its {name} is {short(entry)}")
        for key in {**kinds, **entry}:
            missing = name == "agent" and key not in entry and not fits(None, kinds[key])
            if key not in kinds:
                refuse(f"its {name} has an entry {short(key)}")
            if missing or not fits(entry.get(key), kinds[key]) or not _printable(entry.get(key)):
                refuse(f"{key} of its {name} is {short(entry[key]) if key in entry else 'missing'}")
    _check_agent(checkpoint, refuse)
    _check_references(checkpoint.get("dataset") or {}, refuse)
    _check_progress(checkpoint, refuse)
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        given = checkpoint.get(name, {})
        if not isinstance(given, Mapping):
            refuse(f"its {name} are {short(given)}")
        check_plain(given, f"{path}: {name}", (Tensor, torch.dtype, torch.device))


def _check_weights(weights: Any, refuse: Callable[[str], None]) -> None:
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        refuse("its state_dict holds more than tensors")
    for key in weights:
        if not isinstance(key, str) or not key.isprintable() or len(key) > LONGEST_NAME:
            refuse(f"a tensor of its state_dict is named {short(key)}")


def _check_agent(checkpoint: Mapping[str, Any], refuse: Callable[[str], None]) -> None:
    """Check the agent's entry against its arguments, and the sizes that its constructor will make."""
    agent, arguments = checkpoint.get("agent"), checkpoint.get("hyper_parameters")
    if agent is None:
        return
    members = len(agent["member_names"])
    if not is_class_path(agent["class_path"]):
        refuse(f"class_path of its agent is {short(agent['class_path'])}")
    if not 0 <= agent["updates"] < LARGEST_COUNT:
        refuse(f"updates of its agent is {short(agent['updates'])}")
    if not members or len(agent["alive"]) != members or max(map(len, agent["member_names"])) > LONGEST_NAME:
        refuse(f"its agent has the members {short(agent['member_names'])}, alive are {short(agent['alive'])}")
    if not isinstance(arguments, Mapping):
        refuse("it has no hyper_parameters" if arguments is None else f"its hyper_parameters are {short(arguments)}")
        return
    seeds = arguments.get("seeds")
    if isinstance(seeds, int) and seeds > members:
        refuse(f"its hyper_parameters say seeds: {short(seeds)}, and it has {members} members")
    _check_lengths(arguments, max(MANY, len(checkpoint["state_dict"])), refuse)


def _check_lengths(arguments: Mapping[str, Any], most: int, refuse: Callable[[str], None]) -> None:
    rest = list(arguments.items())
    while rest:
        name, value = rest.pop()
        if isinstance(value, list | tuple):
            if len(value) > most:
                refuse(f"{short(name)} of its hyper_parameters has {len(value):,} values, more than it has tensors")
            rest.extend((name, item) for item in value)
        elif isinstance(value, Mapping):
            rest.extend(value.items())


def _check_references(dataset: Mapping[str, Any], refuse: Callable[[str], None]) -> None:
    low, high = dataset.get("reference_min"), dataset.get("reference_max")
    for name, value in (("reference_min", low), ("reference_max", high)):
        if value is not None and not math.isfinite(value):
            refuse(f"{name} of its dataset is {value}")
    if (low is None) != (high is None):
        refuse("its dataset has one reference without the other")


def _check_progress(checkpoint: Mapping[str, Any], refuse: Callable[[str], None]) -> None:
    """Check what Lightning writes beside the model: its version, counters, and states of callbacks by name."""
    version = checkpoint.get("pytorch-lightning_version", "2.0.0")  # not in one that Lightning did not write
    if not isinstance(version, str) or not re.fullmatch(r"[2-9]\.\d{1,4}\.[\w.+]{1,20}", version):
        refuse(f"its pytorch-lightning_version is {short(version)}")
    for name in ("epoch", "global_step"):
        if not fits(checkpoint.get(name, 0), int) or not 0 <= checkpoint.get(name, 0) < LARGEST_COUNT:
            refuse(f"its {name} is {short(checkpoint[name])}")
    for name in ("loops", "callbacks"):
        entry = checkpoint.get(name, {})
        if not isinstance(entry, Mapping) or not all(isinstance(part, Mapping) for part in entry.values()):
            refuse(f"its {name} are {short(entry)}")
    rest = [(name, part) for loop in checkpoint.get("loops", {}).values() for name, part in loop.items()]
    while rest:
        name, part = rest.pop()
        if isinstance(part, Mapping):
            rest.extend((name, inner) for inner in part.values())
        elif name.endswith("progress") and (not isinstance(part, int) or not 0 <= part < LARGEST_COUNT):
            refuse(f"a counter in {short(name)} of its loops is {short(part)}")


def _printable(value: Any) -> bool:
    """Whether texts hold nothing that does more on a terminal than to be seen."""
    texts = value if isinstance(value, list | tuple) else [value]
    return all(text.isprintable() for text in texts if isinstance(text, str))
