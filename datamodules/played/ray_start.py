"""Ray as all who use it start and leave it: the cluster that is there, or one that is started on this machine."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from modules.trust.names import short

ATTEMPTS = 3
"""How often Ray is started here: it gives its own processes 30 s, which a busy machine may not have for them."""


def need_ray(setting: str) -> None:
    """See that Ray is installed, without importing it.

    Args:
        setting: setting that asks for it, for the error.

    Raises:
        ValueError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise ValueError(f"{setting} needs Ray, which is not installed: pip install -e '.[ray]'")


def connect_ray(workers: int) -> bool:
    """Connect to the cluster that is initialised, or that of `RAY_ADDRESS`, or one that is started here.

    Args:
        workers: number of actors, each of which takes a processor.

    Returns:
        Whether the connection was made here, so that whoever called closes it.

    Raises:
        ValueError: Ray does not start, or there are fewer processors.
    """
    import ray

    made = not ray.is_initialized()
    if made:
        _start(ray)
    processors = int(ray.cluster_resources().get("CPU", 0))
    if processors < workers:  # the actors beyond them would be waited for without end
        if made:
            ray.shutdown()
        raise ValueError(f"ray_workers: {workers} are more than the {processors} processors that Ray has")
    return made


def _start(ray: Any) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start one here, several times if need be."""
    address = os.environ.get("RAY_ADDRESS")
    for left in reversed(range(1 if address else ATTEMPTS)):
        try:
            ray.init(include_dashboard=False, logging_level="warning")
        except Exception as error:  # Ray raises what it finds, at times without a type of its own
            ray.shutdown()  # what of it has started
            if not left:
                tried = f"has not answered at $RAY_ADDRESS, {short(address)}" if address else "has not started here"
                raise ValueError(
                    f"ray_workers: Ray {tried}: {short(str(error), 200)}; start it by `ray start --head`, and name its "
                    "address in $RAY_ADDRESS"
                ) from error
        else:
            return


def original(error: Exception) -> Exception:
    """The error that a worker raised, with its own type, if `error` is Ray's report of one."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
