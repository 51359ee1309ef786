"""Numbers that an environment reports about an episode in the info of its last step: success, and others by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

EPISODE = "numbers of the episode"
"""Key of the info in which a protected environment gives `(name, number)` pairs, in the last step of an episode."""

SUCCESS = "success"
SUCCESS_KEYS = ("is_success", "success")

OUTCOMES = ("draw", "loss")
"""Keys of how else a match may have ended, beside a success that is a win."""

Numbers = dict[str, float]


def episode_numbers(info: Mapping[str, Any], names: Sequence[str] = ()) -> Numbers:
    """Numbers of an episode from the info of its last step: `success` where it is reported, and others by name.

    Where a win is reported as `success`, so are `draw` and `loss` if they are there. Success is 0 or 1, and 1 for
    numbers above zero; one that is no finite number is left out, with a warning.

    Args:
        info: info of one environment. Booleans, numbers and arrays of one element are numbers.
        names: further keys; `a/b` is the key `b` of the dict under `a`.
    """
    key = next((key for key in SUCCESS_KEYS if key in info), SUCCESS)
    found = {SUCCESS: _truth(key, info.get(key))}
    asked = names if found[SUCCESS] is None else (*OUTCOMES, *names)
    found |= {name: number(_inner(info, name)) for name in asked}
    return {name: value for name, value in found.items() if value is not None}


def vector_numbers(info: Mapping[str, Any], ended: np.ndarray, names: Sequence[str] = ()) -> dict[int, Numbers]:
    """`episode_numbers` of the environments whose episodes have ended, by index, from a vector environment's infos.

    Protected environments give them under one key. A vector environment of another kind gives arrays by key, with a
    mask under `_key` of the environments that they belong to, perhaps below `final_info`.

    Args:
        info: infos of a vector environment of `N` environments.
        ended: `[N]` bool, the episode has ended.
        names: further keys, see `episode_numbers`.
    """
    last = np.flatnonzero(ended).tolist()
    if not info or not last:
        return {}
    if EPISODE in info:
        return {i: dict(info[EPISODE][i]) for i in last if info[EPISODE][i] is not None}
    wanted = {key: _rows(info, key) for key in (*SUCCESS_KEYS, *OUTCOMES, *names)}
    found = {i: {key: rows[i] for key, rows in wanted.items() if i in rows} for i in last}
    return {i: numbers for i in last if (numbers := episode_numbers(found[i], names))}


def number(value: Any) -> float | None:
    """A value as a number, or None if it is none, or NaN."""
    if not isinstance(value, bool | int | float | np.generic | np.ndarray):
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        return None
    single = float(array.reshape(())[()])
    return None if np.isnan(single) else single


def _truth(key: str, value: Any) -> float | None:
    """Whether an episode was a success, as 0 or 1; None where that is not reported."""
    success = number(value)
    if success is not None and np.isfinite(success):
        return float(success > 0)
    if value is not None:
        what = str(value) if isinstance(value, float | np.floating) else f"a {type(value).__name__}"
        warnings.warn(
            f"info[{key!r}] of an episode's last step is {what}, neither true nor false: it counts as not reported",
            stacklevel=2,
        )
    return None


def written(name: str, value: float) -> str:
    """Text of one of `mean_numbers` for a table; shares of episodes are in percent."""
    return f"{100 * value:.0f}%" if name in ("success_rate", *OUTCOMES) else f"{value:.4g}"


def return_text(value: float, sign: str = "", thousands: str = "") -> str:
    """Text of a return for a table: one decimal from 10 on, three digits that matter below, where tenths hide much.

    Args:
        value: a return, a mean of returns or a difference of means.
        sign: `+` for the sign of both directions.
        thousands: what parts thousands, such as `,`.
    """
    return f"{value:{sign}{thousands}.1f}" if not abs(value) < 9.995 else f"{value:{sign}#.3g}"


def mean_numbers(episodes: Sequence[Numbers]) -> Numbers:
    """Means over several episodes: `success_rate`, the share of successful ones among all, and other means by name.

    An episode without a report of success counts as none where another has one. Any other mean is over the episodes
    that report the number.
    """
    means = {}
    for name in dict.fromkeys(name for numbers in episodes for name in numbers):
        values = [numbers[name] for numbers in episodes if name in numbers]
        if name == SUCCESS:
            means["success_rate"] = float(sum(values)) / len(episodes)
        else:
            means[name] = float(np.mean(values))
    return means


def _inner(info: Any, name: str) -> Any:
    for part in [name] if isinstance(info, Mapping) and name in info else name.split("/"):
        info = info.get(part) if isinstance(info, Mapping) else None
    return info


def _rows(info: Mapping[str, Any], name: str) -> dict[int, Any]:
    """Values of a key by the index of their environment, from a vector environment's own infos."""
    for place in (info, info.get("final_info")):
        *above, key = name.split("/")
        inner = _inner(place, "/".join(above)) if above else place
        if isinstance(inner, Mapping) and key in inner:
            mask = inner.get(f"_{key}", np.ones(len(inner[key]), bool))
            return {i: inner[key][i] for i in np.flatnonzero(mask).tolist()}
    return {}
