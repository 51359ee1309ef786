"""Turns of a population's members on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from commands.ray_workers import enter, resources_of
from commands.turns import Turn, take
from datamodules.played.ray_start import original
from modules.agent.evolution import Returns
from modules.trust.beside import with_finder


class TurnTaker:
    """An actor, which takes one turn after the other.

    Args:
        folder: working folder of the command, which every machine has.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def take(self, taken: Callable[[Turn], Returns], turn: Turn) -> Returns:
        """Returns of a turn.

        Raises:
            ValueError: the turn is refused, or this machine has no such folder.
        """
        enter(self.folder, "the population")
        return taken(turn)


@contextmanager
def on_ray(workers: int) -> Iterator[Callable[[Sequence[Turn]], list[Returns]]]:
    """Takes turns as actors of a cluster.

    Args:
        workers: number of actors, which is that of the turns that are taken at the same time.

    Raises:
        ValueError: Ray has fewer processors.
    """
    with resources_of(workers) as resources:
        import ray
        from ray.util import ActorPool

        taker: Any = ray.remote(**resources)(TurnTaker)
        actors = [taker.remote(os.getcwd()) for _ in range(workers)]
        taken = with_finder(take)

        def take_all(turns: Sequence[Turn]) -> list[Returns]:
            try:
                return list(ActorPool(actors).map(lambda actor, turn: actor.take.remote(taken, turn), list(turns)))
            except ray.exceptions.RayActorError as error:
                raise ValueError(
                    "a worker of the Ray cluster has died in the middle of a turn; the same command with --ckpt_path "
                    "last, before any --, goes on"
                ) from error
            except ray.exceptions.RayTaskError as error:
                raise original(error) from error

        try:
            yield take_all
        finally:
            for actor in actors:
                ray.kill(actor)
