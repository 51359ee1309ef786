"""Complete episodes of a behaviour policy, and how they are stored as a Minari dataset."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from gymnasium.vector import AutoresetMode
from minari.data_collector import EpisodeBuffer

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.parallel import protected
from datamodules.envs.restarting import Protection
from datamodules.envs.stepping import SeededEpisodes
from datamodules.played.behaviours import Behaviour, Moment
from modules.arguments.memory import check_disk
from modules.trust.files import json_object, read_json_object

SETTINGS_KEY = "reverie_collection"
"""Key of the dataset's metadata that holds the settings it was collected with, as JSON."""


def recordable_spaces(
    environment: str | EnvironmentSpec,
) -> tuple[gym.spaces.Box | gym.spaces.Dict, gym.spaces.Box | gym.spaces.Discrete]:
    """Observation and action space of an environment that can be collected from, in plain kinds.

    Raises:
        ValueError: the environment is unknown, or an observation or a part of one is no box, or its actions are neither
            a bounded box nor numbered.
    """
    spec = _spec(environment)
    offered = spec.spaces()
    observation, action = offered.observation, offered.action
    # Observations are a box, or parts that are.
    if isinstance(observation, gym.spaces.Dict):
        numbers = [key for key, part in observation.items() if isinstance(part, gym.spaces.Box)]
        if len(numbers) < len(observation):
            other = next(key for key in observation if key not in numbers)
            keep = f"; leave it out with the wrapper datamodules.envs.wrappers.KeepKeys, keys {numbers}" * bool(numbers)
            raise ValueError(f"{spec.id} shows {other}, a {type(observation[other]).__name__} without numbers{keep}")
    elif not isinstance(observation, gym.spaces.Box):
        raise ValueError(
            f"{spec.id} has observations of type {type(observation).__name__}; Box, and Dict and Tuple of such, can be "
            "collected"
        )
    # Actions are numbered, or a bounded box.
    if isinstance(action, gym.spaces.Discrete):
        return observation, action
    if not isinstance(action, gym.spaces.Box):
        raise ValueError(
            f"{spec.id} has actions of type {type(action).__name__}; only Box and Discrete can be collected"
        )
    if not action.is_bounded():
        raise ValueError(
            f"{spec.id} has unbounded actions, which no behaviour can draw from; bound them with the wrapper "
            "datamodules.envs.wrappers.LimitActions"
        )
    return observation, action


def _spec(environment: str | EnvironmentSpec) -> EnvironmentSpec:
    return EnvironmentSpec(environment) if isinstance(environment, str) else environment


def episodes(
    environment: str | EnvironmentSpec, behaviour: Behaviour, *, seed: int, environments: int
) -> Iterator[EpisodeBuffer]:
    """Complete episodes without end, in the order in which they were started.

    The order of starting does not depend on how long an episode lasts, so any first `n` of them are a fair sample;
    the first `n` to finish would prefer short ones. Episode `i` is reset with `seed + i`. An episode in which the
    environment fails is played again from its beginning, see `Protection`, and never handed out.

    Args:
        environment: gymnasium id, or specification of the environment in its wrappers.
        behaviour: policy, called with rows in the order of the environments.
        seed: seed of the first episode.
        environments: number of environments `N` that are stepped together.

    Yields:
        Episodes of `T` steps with `T + 1` observations, or by key: the last one is the true last one, also at a
        time-out.

    Raises:
        ValueError: the environment fails for good or returns invalid values, or an episode has no end.
    """
    spec = _spec(environment)
    forgiving = Protection(same_episodes=True)
    env = protected(spec, environments, seed=seed, autoreset=AutoresetMode.DISABLED, protection=forgiving)
    played = SeededEpisodes(env, spec.id)
    running = {index: _empty_episode(index, seed) for index in range(environments)}
    finished: dict[int, EpisodeBuffer] = {}
    started, next_out = environments, 0
    try:
        observation = played.begin([seed + index for index in running])
        moment = Moment(observation, np.ones(environments, bool), np.zeros(environments, np.float32), None)
        while True:
            action = behaviour(moment)
            step = played.step(action)
            for index, episode in running.items():
                ends = step.terminated[index], step.truncated[index]
                _append(episode, _row(moment.observation, index), action[index], step.reward[index], *ends)
            reward = np.where(step.ended, 0.0, step.reward).astype(np.float32)
            moment = Moment(step.observation, step.ended, reward, action)
            if not step.ended.any():
                continue

            # An episode that failed is begun again under its number; the others make room for the next ones.
            for index in np.flatnonzero(step.ended).tolist():
                episode = running[index]
                assert episode.id is not None
                number = episode.id
                if not step.failed[index]:
                    finished[number] = _stack(episode, _row(step.observation, index))
                    number, started = started, started + 1
                running[index] = _empty_episode(number, seed)
            while next_out in finished:
                yield finished.pop(next_out)
                next_out += 1
            observation = played.begin([int(episode.seed or 0) for episode in running.values()], step.ended)
            moment = moment._replace(observation=observation)
    finally:
        env.close()


def _empty_episode(number: int, first_seed: int) -> EpisodeBuffer:
    return EpisodeBuffer(id=number, seed=first_seed + number, observations=[], actions=[])


def _row(observation: Any, index: int) -> Any:
    """The observation of one environment, by key where there are several parts."""
    if isinstance(observation, Mapping):
        return {key: part[index] for key, part in observation.items()}
    return observation[index]


def _append(episode: EpisodeBuffer, observation: Any, action: np.ndarray, reward: float, end: bool, cut: bool) -> None:
    assert isinstance(episode.observations, list)
    assert isinstance(episode.actions, list)
    episode.observations.append(observation)
    episode.actions.append(action)
    episode.rewards.append(float(reward))
    episode.terminations.append(bool(end))
    episode.truncations.append(bool(cut))


def _stack(episode: EpisodeBuffer, last: Any) -> EpisodeBuffer:
    """The finished episode with `[T + 1, D]` observations, or by key, and `[T, A]` actions, as Minari stores them."""
    assert isinstance(episode.observations, list)
    assert isinstance(episode.actions, list)
    seen: Any = [*episode.observations, last]
    seen = {key: np.stack([row[key] for row in seen]) for key in last} if isinstance(last, dict) else np.stack(seen)
    return EpisodeBuffer(
        id=episode.id,
        seed=episode.seed,
        observations=seen,
        actions=np.stack(episode.actions),
        rewards=episode.rewards,
        terminations=episode.terminations,
        truncations=episode.truncations,
        infos={},
    )


def mean_return(
    environment: str | EnvironmentSpec, behaviour: Behaviour, *, count: int, seed: int, environments: int
) -> float:
    """Mean undiscounted return over `count` episodes."""
    sample = islice(episodes(environment, behaviour, seed=seed, environments=environments), count)
    return float(np.mean([np.sum(e.rewards) for e in sample]))


def write_minari(
    root: Path,
    dataset: str,
    environment: str | EnvironmentSpec,
    buffer: list[EpisodeBuffer],
    *,
    settings: Mapping[str, Any],
    algorithm: str,
    description: str,
    references: tuple[float, float] | None,
    reference_episodes: int,
) -> Path:
    """Store episodes as a Minari dataset; it appears under its name only when it is complete.

    Args:
        root: folder of Minari datasets, as in `MINARI_DATASETS_PATH`.
        dataset: id such as `pendulum/mixed-v0`.
        environment: gymnasium id, or specification of the environment; stored as the dataset's environment and its
            evaluation environment, with arguments and wrappers.
        buffer: complete episodes; ids are given anew, in this order, and parts of observations are nested as their keys
            say.
        settings: JSON-like settings, kept in the metadata and read back by `collection_settings`.
        algorithm: short name of the policy that acted.
        description: sentence for the dataset's card.
        references: mean return of a random policy and of an expert, or None to store none.
        reference_episodes: number of episodes behind the references.

    Returns:
        The absolute folder of the dataset. One that existed there is replaced.
    """
    root = root.resolve()  # Minari joins a relative folder with itself
    root.mkdir(parents=True, exist_ok=True)
    # On a full disk HDF5 ends the process, so that the room is checked before.
    check_disk(f"{dataset}: free some space, or choose another --root", _file_size(buffer), root, at_once=True)
    env = _spec(environment).bare()
    observation_space, action_space = recordable_spaces(environment)  # made plain, unlike those of `env`
    low, high = references or (None, None)

    # Written aside and renamed, so that a dataset is complete as soon as it has its name.
    with tempfile.TemporaryDirectory(dir=root, prefix=".collecting-") as aside, minari_root(Path(aside)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # Minari asks for an author, mail and a permalink
            made = minari.create_dataset_from_buffers(
                dataset,
                [_numbered(e, i) for i, e in enumerate(buffer)],
                env=env,
                eval_env=env,
                observation_space=_nested_space(observation_space),
                action_space=action_space,
                algorithm_name=algorithm,
                description=description,
                ref_min_score=low,
                ref_max_score=high,
                num_episodes_average_score=reference_episodes,
                data_format="hdf5",
            )
        made.storage.update_metadata({SETTINGS_KEY: json.dumps(settings, sort_keys=True)})
        env.close()
        _move_into_place(Path(aside), root, dataset)
    return root / dataset


def _file_size(buffer: list[EpisodeBuffer]) -> int:
    """Upper bound of the bytes that HDF5 takes for episodes."""
    arrays = [array for episode in buffer for array in _arrays(vars(episode))]
    return sum(array.nbytes for array in arrays) + 5120 * len(arrays) + (1 << 18)


def _arrays(value: Any) -> Iterator[np.ndarray]:
    """The arrays that are stored of an episode, however deep; a list is stored as one."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _arrays(inner)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping | tuple):
        for inner in value:
            yield from _arrays(inner)
    elif isinstance(value, list | tuple | np.ndarray):
        yield np.asarray(value)


def _numbered(episode: EpisodeBuffer, index: int) -> EpisodeBuffer:
    parts = episode.observations
    return EpisodeBuffer(
        **{**vars(episode), "id": index, "observations": _nested(parts) if isinstance(parts, Mapping) else parts}
    )


def _nested(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Dicts in the place of slashes between keys: what Minari's users expect of `desired_goal/position`."""
    tree: dict[str, Any] = {}
    for key, part in parts.items():
        *path, last = key.split("/")
        inner = tree
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = part
    return tree


def _nested_space(space: gym.Space) -> gym.Space:
    """The space of nested observations."""

    def as_space(tree: Any) -> gym.Space:
        return gym.spaces.Dict({k: as_space(x) for k, x in tree.items()}) if isinstance(tree, dict) else tree

    return as_space(_nested(space.spaces)) if isinstance(space, gym.spaces.Dict) else space


def _move_into_place(aside: Path, root: Path, dataset: str) -> None:
    """Rename the finished dataset to its name, after an older one there, and add its namespaces' metadata files."""
    target = root / dataset
    target.parent.mkdir(parents=True, exist_ok=True)
    for marker in aside.rglob("namespace_metadata.json"):
        place = root / marker.relative_to(aside)
        if not place.exists():
            os.replace(marker, place)
    if target.exists():
        os.replace(target, aside / "replaced")
    os.replace(aside / dataset, target)
    shutil.rmtree(aside / "replaced", ignore_errors=True)


def collection_settings(folder: Path) -> dict[str, Any] | None:
    """Settings with which a dataset was collected; None for a dataset that was made by other means.

    Raises:
        ValueError: its metadata are damaged.
    """
    file = folder / "data" / "metadata.json"
    settings = read_json_object(file).get(SETTINGS_KEY)
    return None if settings is None else json_object(f"{file}: {SETTINGS_KEY}", settings)


@contextmanager
def minari_root(root: Path) -> Iterator[None]:
    """Let Minari's functions, which take no folder, work on the datasets under `root`."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
