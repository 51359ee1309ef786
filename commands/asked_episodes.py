"""Episodes that `reverie evaluate` is asked to play with each policy."""

from __future__ import annotations

from typing import NamedTuple

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection

PARALLEL = 10


class Asked(NamedTuple):
    """Episodes that are asked for.

    Attributes:
        spec: specification of the environment.
        episodes: their number, of each policy.
        seed: seed of the first one; the next ones count upwards.
        max_episode_steps: steps beyond which an episode is taken to have no end.
        protection: protection of the environments.
    """

    spec: EnvironmentSpec
    episodes: int
    seed: int
    max_episode_steps: int
    protection: Protection

    @property
    def parallel(self) -> int:
        """Number of environments that one policy plays in at once."""
        return min(PARALLEL, self.episodes)
