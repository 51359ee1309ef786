"""Gymnasium environments by id: quiet, seeded, and with an error that names the nearest id."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import multiprocessing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from datamodules.envs.file_arguments import arguments_from_file, check_observation
from datamodules.envs.from_file import environment_from_file, read_plain, wrapper_from_file
from datamodules.envs.lookup import missing_module, missing_package, unknown_id
from datamodules.envs.plain import plain_observations
from datamodules.envs.plain_actions import plain_actions
from datamodules.envs.processes import Processes
from modules.arguments.checks import check_sizes
from modules.batch import Spaces
from modules.trust.beside import find_beside, with_finder
from modules.trust.class_path import describe
from modules.trust.names import is_trusted, short

_log = logging.getLogger(__name__)

gym.register("reverie/Catch-v0", "datamodules.envs.toys:Catch")
gym.register("reverie/TwoCatch-v0", "datamodules.envs.toys:TwoCatch")
gym.register("reverie/TMaze-v0", "datamodules.envs.toys:TMaze")
gym.register("reverie/DelayedCue-v0", "datamodules.envs.memory_toys:DelayedCue")
gym.register("reverie/Pairs-v0", "datamodules.envs.memory_toys:Pairs")
gym.register("reverie/KeyDoor-v0", "datamodules.envs.key_door:KeyDoor")
gym.register("reverie/PointMass-v0", "datamodules.envs.toys:PointMass")
gym.register("reverie/TicTacToe-v0", "datamodules.envs.boards:TicTacToe")
gym.register("reverie/ConnectFour-v0", "datamodules.envs.boards:ConnectFour")
gym.register(
    "reverie/CaptureFlag-v0",
    "datamodules.envs.capture_flag:CaptureFlag",
    vector_entry_point="datamodules.envs.capture_flag:CaptureFlags",
)
gym.register("reverie/Crafter-v1", "datamodules.envs.adapters:Crafter")
gym.register("reverie/ControlSuite-v1", "datamodules.envs.adapters:ControlSuite")

MakeEnv = Callable[[], gym.Env]


@dataclass(frozen=True)
class EnvironmentSpec:
    """Specification of an environment, from which it can be made again, here or on another machine.

    Attributes:
        id: registered id, see `make_env`.
        arguments: arguments of the environment.
        wrappers: wrappers of the environment, innermost first: classes, or `functools.partial` of classes with
            keywords. A wrapper that a config names by class path is accepted too.

    Raises:
        ValueError: a wrapper is neither.
    """

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[Callable[[gym.Env], gym.Env], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", dict(self.arguments))
        object.__setattr__(self, "wrappers", tuple(plain_partial(wrapper) for wrapper in self.wrappers))
        self.to_plain()

    def make(self, **more: Any) -> gym.Env:
        """The environment of `bare`, with observations and actions of the kinds that agents know.

        See `datamodules.envs.plain` and `datamodules.envs.plain_actions`; spaces of such kinds stay as they are.
        """
        return plain_actions(plain_observations(self.bare(**more)))

    def bare(self, **more: Any) -> gym.Env:
        """One environment in its wrappers, with spaces of any kind.

        Args:
            **more: arguments of the environment that replace or join the spec's, such as `render_mode="rgb_array"`.

        Raises:
            ValueError: the environment cannot be made, or a wrapper does not fit it; the message names it.
        """
        env = make_env(self.id, **{**self.arguments, **more})
        check_observation(env.observation_space, self.id)
        for wrapper in self.wrappers:
            name = getattr(getattr(wrapper, "func", wrapper), "__name__", str(wrapper))
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*precision lowered by casting")
                    env = wrapper(env)
            except (ImportError, gym.error.DependencyNotInstalled) as error:
                raise ValueError(f"{name} cannot wrap {self.id!r}: {missing_module(error)}") from error
            except Exception as error:  # of the wrapper's own code
                raise ValueError(f"{name} cannot wrap {self.id!r}: {short(str(error), 200)}") from error
            if not isinstance(env, gym.Env):
                raise ValueError(f"{name} is no wrapper: it makes a {type(env).__name__} of {self.id!r}")
            check_observation(env.observation_space, self.id)
        return env

    def spaces(self) -> Spaces:
        """Spaces of one environment, in the kinds that agents know."""
        return offered_spaces(self.make())

    def to_plain(self) -> dict[str, Any]:
        """The spec in plain values, fit for a checkpoint or a YAML file."""
        wrappers = [{"init_args": {}, **describe(wrapper, "wrappers")} for wrapper in self.wrappers]
        return {"id": self.id, "arguments": dict(self.arguments), "wrappers": wrappers}

    @classmethod
    def from_plain(cls, plain: Any, where: str, given: str | None = None) -> EnvironmentSpec:
        """Inverse of `to_plain`, for a description from a file; nothing is imported that the user does not trust.

        Args:
            plain: description in the form of `to_plain`, unchecked.
            where: file, for errors.
            given: id from the user's own config or command line, if there is one.

        Raises:
            ValueError: it is no such specification, or names a package or a class that is not trusted.
        """
        plain = read_plain(plain, where)
        id = environment_from_file(plain["id"], where, given)
        arguments = plain["arguments"]
        if not is_trusted(id.rpartition(":")[0]):
            way_out = "if it should be so, give it yourself in environment_arguments"
            arguments = arguments_from_file(arguments, f"{where}: the arguments of {id}", way_out)
        wrappers = tuple(
            wrapper_from_file(wrapper, f"{where}: wrapper {n} of {id}") for n, wrapper in enumerate(plain["wrappers"])
        )
        return cls(id, arguments, wrappers)


def plain_partial(made_by: Any) -> Any:
    """A callable that jsonargparse made of a class path, without the helpers that it calls the class through.

    Its arguments may be such callables themselves, such as the storage of a replay.
    """
    if isinstance(made_by, functools.partial) and made_by.args and inspect.isclass(made_by.args[-1]):
        made: Any = made_by.args[-1]
        return functools.partial(made, **{name: plain_partial(value) for name, value in made_by.keywords.items()})
    return made_by


def offered_spaces(env: gym.Env) -> Spaces:
    """Spaces of an environment that was made for them alone; it is closed."""
    env.close()
    return Spaces(env.observation_space, env.action_space)


def make_env(id: str, /, **kwargs: Any) -> gym.Env:
    """One environment, as `gymnasium.make` builds it from its registered id.

    Args:
        id: registered id such as `Pendulum-v1`, or `package:Env-v0`, which imports the package first, or a module in
            the current folder.
        **kwargs: arguments of the environment, for example `render_mode="rgb_array"`.

    Raises:
        ValueError: no environment of this id can be made; the message names the nearest registered id, or the
            package that is missing, or the argument that it does not take.
    """
    quiet_mujoco()
    quiet_atari()
    if ":" in id:
        find_beside(id.partition(":")[0])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date", category=DeprecationWarning)
            return gym.make(id, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(f"unknown environment {id!r}; {unknown_id(id)}") from error
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise ValueError(missing_package(id, error)) from error
    except TypeError as error:  # what an argument that the environment's constructor does not know raises
        given = "--data.environment_arguments"
        hint = f"; give {given} '{{NAME: VALUE}}'" if "missing" in str(error) else f"; without any: {given} null"
        raise ValueError(
            f"environment {id!r} cannot be made with the arguments {short(kwargs)}: {short(str(error), 200)}{hint}"
        ) from error
    except (gym.error.Error, ValueError) as error:
        raise ValueError(f"environment {id!r} cannot be made: {short(str(error), 300)}") from error
    except Exception as error:  # of the environment's own code
        raise ValueError(
            f"environment {id!r} cannot be made: {type(error).__name__}: {short(str(error), 300)}"
        ) from error


def vector_of(
    makers: Sequence[MakeEnv],
    *,
    seed: int,
    autoreset: AutoresetMode,
    asynchronous: bool = False,
    copy: bool = True,
    name: str = "",
    step_timeout: float = 0.0,
) -> SyncVectorEnv | AsyncVectorEnv:
    """Environments that are made by functions, stepped together.

    Args:
        makers: functions that make one environment each.
        seed: environment `i` is reset with `seed + i` here; a later `reset()` without a seed draws from that generator.
        autoreset: behaviour of environments after the last step of an episode. With `SAME_STEP` the returned
            observation is the first of the next episode and the true last one is `infos["final_obs"]`.
        asynchronous: give each environment a process of its own. The processes are started afresh and import what they
            need: an environment that is registered elsewhere needs an id with its module, `package:Env-v0`.
        copy: observations of a step stay as they are in the next one.
        name: name of the environment, for errors of processes.
        step_timeout: seconds that a process may be silent for, see `Processes`; 0 for no limit.

    Raises:
        ValueError: there is nothing to make, or the environment cannot be made.
    """
    check_sizes(environments=len(makers))
    env: SyncVectorEnv | AsyncVectorEnv
    if asynchronous:
        # A forked process would inherit the locks of this one's threads, as they happen to be.
        multiprocessing.set_forkserver_preload(["datamodules.envs.restarting", "datamodules.envs.make"])
        makers = [with_finder(make) for make in makers]
        env = Processes(makers, name, step_timeout, copy=copy, context="forkserver", autoreset_mode=autoreset)
    else:
        env = SyncVectorEnv(makers, copy=copy, autoreset_mode=autoreset)
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


@functools.cache
def quiet_atari() -> None:
    """Leave out the banner that the Arcade Learning Environment prints with every environment."""
    if importlib.util.find_spec("ale_py") is not None:
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
