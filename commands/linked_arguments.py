"""Arguments of model and data that follow from others: their links set them, and nobody else may."""

from __future__ import annotations

from collections.abc import Sequence

from commands.config_files import ConfigFile
from modules.arguments.checks import check_sizes

LINKED = {
    ("model", "spaces"): "the spaces come from the data",
    ("model", "seed"): "use --seed_everything",
    ("data", "seed"): "use --seed_everything",
    ("data", "minibatches"): "it follows from model.seeds and model.shared_batch",
}
"""Arguments that links set, and the setting to use instead."""


def refuse_linked(argv: Sequence[str], files: Sequence[ConfigFile]) -> None:
    """Refuse values that a link would override without a word.

    Raises:
        ValueError: `spaces` or `seed` of model or data is given by hand.
    """
    for group, name in LINKED:
        flags = tuple(f"--{group}.{prefix}{name}" for prefix in ("", "init_args."))
        places = [flag.split("=")[0] for flag in argv if flag.split("=")[0] in flags]
        for file in files:
            if file.arguments(group).get(name) is not None:
                places.append(f"{group}.init_args.{name} in {file.path}")
        if places:
            raise ValueError(f"{places[0]} would be overridden: {LINKED[group, name]}")


def minibatches(seeds: int, shared_batch: bool) -> int:
    """Independent minibatches that a population needs per update: one a seed, or one for all.

    Raises:
        ValueError: there is no seed.
    """
    check_sizes(**{"model.seeds": seeds})
    return 1 if shared_batch else seeds
