"""Workers of a command on a Ray cluster: in the command's folder, each with a processor and its share of the GPUs."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datamodules.played.ray_start import connect_ray


@contextmanager
def resources_of(workers: int) -> Iterator[dict[str, Any]]:
    """The cluster that `connect_ray` finds, as long as so many workers use it.

    Yields:
        What `ray.remote` gives each of them.

    Raises:
        ValueError: Ray has fewer processors.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines of two workers that differ in numbers alone are both of use
    made = connect_ray(workers)
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    try:
        yield {"num_cpus": 1, "num_gpus": 1.0 / math.ceil(workers / gpus) if gpus else 0.0}
    finally:
        if made:
            ray.shutdown()


def enter(folder: str, what: str) -> None:
    """Make this process of a cluster one of the command's.

    Args:
        folder: working folder of the command, which every machine has.
        what: what the command makes, for the error.

    Raises:
        ValueError: this machine has no such folder.
    """
    importlib.import_module("commands.quiet")  # as `reverie` does, which has not started this process
    if not os.path.isdir(folder):
        raise ValueError(
            f"a machine of the Ray cluster has no folder {folder}: start {what} in a folder that all of them share"
        )
    os.chdir(folder)
