"""Gymnasium environments by id: quiet, seeded, and with an error that names the nearest id."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import logging
import warnings
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv

_log = logging.getLogger(__name__)


def make_env(id: str, **kwargs: Any) -> gym.Env:
    """One environment, as `gymnasium.make` builds it from its registered id.

    Args:
        id: registered id such as `Pendulum-v1`, or `package:Env-v0`, which imports the package first.
        **kwargs: arguments of the environment, for example `render_mode="rgb_array"`.

    Raises:
        ValueError: no environment of this id can be made; the message names the nearest registered id, or the
            package that is missing, or the argument that it does not take.
    """
    quiet_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date", category=DeprecationWarning)
            return gym.make(id, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(f"unknown environment {id!r}; {_nearest(id)}") from error
    except ImportError as error:
        raise ValueError(f"environment {id!r} needs a package that is not installed: {error}") from error
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"environment {id!r} needs a package that is not installed: {error}") from error
    except TypeError as error:  # what an argument that the environment's constructor does not know raises
        raise ValueError(f"environment {id!r} cannot be made with the arguments {kwargs}: {error}") from error


def make_vector_env(
    id: str, count: int, *, seed: int, autoreset: AutoresetMode = AutoresetMode.SAME_STEP, **kwargs: Any
) -> SyncVectorEnv:
    """`count` copies of one environment, stepped in this process.

    Args:
        id: registered id, see `make_env`.
        count: number of copies `B`.
        seed: copy `i` is reset with `seed + i`, here; a later `reset()` without a seed draws from that generator.
        autoreset: what happens after the last step of an episode. With `SAME_STEP` the returned observation is the
            first of the next episode and the true last one is `infos["final_obs"]`.
        **kwargs: arguments of the environment.

    Raises:
        ValueError: `count` is not positive, or the environment cannot be made.
    """
    if count < 1:
        raise ValueError(f"a vector environment needs at least one copy, got count={count}")
    env = SyncVectorEnv([functools.partial(make_env, id, **kwargs)] * count, autoreset_mode=autoreset)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    return env


@functools.cache
def quiet_mujoco() -> None:
    """Send MuJoCo's warnings to `logging` at level DEBUG.

    MuJoCo 4 otherwise prints a line per environment and appends it to MUJOCO_LOG.TXT in the working directory.
    """
    if importlib.util.find_spec("mujoco") is not None:
        import mujoco

        mujoco.set_mju_user_warning(_log.debug)


def _nearest(id: str) -> str:
    """Name the registered id that is spelled most alike, or say where the ids are listed."""
    close = difflib.get_close_matches(id, gym.registry, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return 'list the ids with: python -c "import gymnasium; gymnasium.pprint_registry()"'
