"""Who takes the turns of a population's members: this process, others of this machine, launched ones, or Ray's."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from commands.turn_ranks import launched, launched_ranks
from commands.turns import Turn, take
from datamodules.played.ray_start import need_ray
from modules.agent.evolution import Returns
from modules.arguments.checks import check_sizes
from modules.trust.beside import with_finder

TakeAll = Callable[[Sequence[Turn]], list[Returns]]
"""Takes turns, in whatever order, and gives the returns of each."""


@contextmanager
def taking_turns(workers: int, ray_workers: int | None) -> Iterator[TakeAll | None]:
    """How turns are taken; what members learn does not depend on it.

    Args:
        workers: processes of this machine at the same time.
        ray_workers: actors of a Ray cluster at the same time instead; None for no cluster.

    Yields:
        The function; None in a process of a launcher that was not the first, when it has done its share.

    Raises:
        ValueError: two of the ways are asked for at once, or what one of them needs is missing.
    """
    check_sizes(workers=workers, ray_workers=ray_workers)
    if (workers > 1) + (ray_workers is not None) + launched() > 1:
        raise ValueError(
            "workers, ray_workers and the processes of a launcher such as torchrun are three ways to train members at "
            "the same time: take one of them"
        )
    if launched():
        with launched_ranks() as ranks:
            if ranks.rank:
                ranks.serve()
            yield None if ranks.rank else ranks.take_all
    elif ray_workers is not None:
        need_ray("ray_workers")
        from commands.turn_ray import on_ray

        with on_ray(ray_workers) as take_all:
            yield take_all
    elif workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _be_quiet) as pool:
            taken = with_finder(take)
            yield lambda turns: list(pool.map(taken, turns))
    else:
        yield lambda turns: [take(turn) for turn in turns]


def _be_quiet() -> None:
    importlib.import_module("commands.quiet")  # as `reverie` does, which has not started this process
