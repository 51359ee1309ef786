"""Parts of a Dict observation as one array: what agents for flat observations see of goals, positions and the like."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from datamodules.envs.plain import Convert, flat_rows, leaf_values, leaves, plain_part
from modules.trust.names import short


@dataclass(frozen=True)
class Joined:
    """Some parts of an observation in plain form, see `plain_part`, one behind the other.

    Attributes:
        parts: space of each part as the environment gives it, by key, in the order in which they are joined.
        space: of what is joined, a Box of float32 `[D]`; or of one image, or several on their channels, uint8
            `[H, W, C]`.
        converts: how the values of each part become plain; None where they are.
    """

    parts: dict[str, gym.Space]
    space: spaces.Box
    converts: dict[str, Convert | None]

    def __call__(self, values: Mapping[str, Any]) -> np.ndarray:
        """Values of the parts by key, or batches of them along first axes, to one array, or a batch of such."""
        plain = [values[key] if convert is None else convert(values[key]) for key, convert in self.converts.items()]
        if self.space.dtype == np.uint8:
            return np.concatenate(plain, -1)
        shapes = [plain_part(part)[0].shape or () for part in self.parts.values()]
        flat = [flat_rows(np.asarray(x, np.float32), shape) for x, shape in zip(plain, shapes, strict=True)]
        return np.concatenate(flat, -1)

    @property
    def plain(self) -> spaces.Dict:
        """The parts in plain form, by key."""
        return spaces.Dict({key: plain_part(part)[0] for key, part in self.parts.items()})


def joined(space: gym.Space, keys: Sequence[str] | None = None) -> Joined:
    """How the parts of a Dict or Tuple of observations are joined.

    Args:
        space: space of the observations.
        keys: keys of parts, in the order in which they are joined; a slash stands between the keys of nested parts,
            and the key of a nested Dict alone means all of its parts. None for all parts of numbers, sorted by key.

    Raises:
        ValueError: the observations have no parts, a key is unknown or there twice, or is of a part that holds no
            numbers or of images beside vectors.
    """
    known = dict(leaves(space))
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        raise ValueError(f"observation_keys choose parts of a Dict of observations, got {short(space)}; leave them out")
    numeric = {key: part for key, part in known.items() if isinstance(plain_part(part)[0], spaces.Box)}
    has = f"it has {short(', '.join(sorted(numeric)) or 'none', 200)}"
    chosen = sorted(numeric) if keys is None else [leaf for key in keys for leaf in _meant(key, known, has)]
    # Each once, of numbers, and either images or vectors.
    for key in chosen:
        if key not in numeric:
            raise ValueError(f"observation_keys: {short(key)} holds no numbers but {short(known[key])}; {has}")
        if chosen.count(key) > 1:
            raise ValueError(f"observation_keys: {short(key)} is there twice; keep one of them")
    if not chosen:
        raise ValueError(f"observation_keys: no part of the observation is chosen; {has}")
    plain = {key: plain_part(known[key]) for key in chosen}
    images = [key for key, (part, _) in plain.items() if len(part.shape or ()) == 3]
    if images and (len(images) < len(plain) or len({(plain[key][0].shape or ())[:2] for key in images}) > 1):
        raise ValueError(
            f"observation_keys: images ({short(', '.join(images))}) are joined with images of their size alone; choose "
            f"them or others with observation_keys; {has}"
        )
    box = _images_space if images else _vectors_space
    return Joined(
        {key: known[key] for key in chosen},
        box([part for part, _ in plain.values() if isinstance(part, spaces.Box)]),
        {key: convert for key, (_, convert) in plain.items()},
    )


def _meant(key: str, known: Mapping[str, gym.Space], has: str) -> list[str]:
    """The parts that a key names: itself, or all that are nested under it."""
    if key in known:
        return [key]
    below = sorted(leaf for leaf in known if leaf.startswith(f"{key}/"))
    if not below:
        raise ValueError(f"observation_keys: the observation has no part {short(key)}; {has}")
    return below


def _vectors_space(parts: Sequence[spaces.Box]) -> spaces.Box:
    low, high = (np.concatenate([getattr(part, end).reshape(-1) for part in parts]) for end in ("low", "high"))
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _images_space(parts: Sequence[spaces.Box]) -> spaces.Box:
    height, width = parts[0].shape[:2]
    return spaces.Box(0, 255, (height, width, sum(part.shape[2] for part in parts)), np.uint8)


class JoinKeys(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Joins parts of a Dict or Tuple observation to one array, see `joined`.

    Args:
        env: environment of such observations.
        keys: keys of the parts, in order; None for all parts of numbers, sorted by key.

    Raises:
        ValueError: as of `joined`.
    """

    def __init__(self, env: gym.Env, keys: list[str] | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, keys=keys)
        gym.Wrapper.__init__(self, env)
        join = joined(env.observation_space, keys)
        self.observation_space = join.space
        self._join = functools.partial(join)  # a partial counts as constant in snapshots

    def observation(self, observation: Any) -> np.ndarray:
        """The joined parts."""
        return self._join(dict(leaf_values(self.env.observation_space, observation)))
