"""Facts about a dataset apart from its steps: identity, returns, references, a card for people."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datamodules.envs.recorded_environment import check_recorded
from datamodules.recorded.references import Reference

BY_HAND = "given by hand"
"""Source of references that the user gave."""
NO_REFERENCES = "none"
"""Source of references where there are none, and no reason to expect any."""


@dataclass(frozen=True)
class DatasetInfo:
    """Identity and statistics of a dataset.

    Attributes:
        name: short name for people.
        content_hash: SHA-256 of the source's bytes, in hex.
        environment: gymnasium id, or None for data that belong to no environment.
        transitions: number of training rows (fewer than steps taken where time-out rows are dropped).
        episodes: number of episodes.
        episode_returns: `[episodes]` undiscounted sums of the source's rewards, before any scaling.
        episode_lengths: `[episodes]` environment steps per episode.
        reference_min: return of a random policy, or None.
        reference_max: return of an expert, or None.
        reference_source: where the two references come from, or why there are none.
        card: the above and more, as text of a dozen lines.
        observation_parts: spaces of the parts that observations were joined from, as `Spaces.to_json`; None of others.
        observation_keys: keys of these parts, in the order in which they were joined.
    """

    name: str
    content_hash: str
    environment: str | None
    transitions: int
    episodes: int
    episode_returns: np.ndarray
    episode_lengths: np.ndarray
    reference_min: float | None
    reference_max: float | None
    reference_source: str
    card: str
    observation_parts: str | None = None
    observation_keys: list[str] | None = None

    def to_plain(self) -> dict[str, Any]:
        """Facts that an evaluation needs when only a checkpoint is at hand, as plain values."""
        facts = {
            "name": self.name,
            "content_hash": self.content_hash,
            "environment": self.environment,
            "reference_min": self.reference_min,
            "reference_max": self.reference_max,
            "reference_source": self.reference_source,
        }
        if self.observation_parts is None:
            return facts
        return facts | {"observation_parts": self.observation_parts, "observation_keys": self.observation_keys}

    @property
    def yardstick(self) -> str:
        """The references and their source, as text for people."""
        return yardstick_text(self.reference_min, self.reference_max, self.reference_source)

    def normalized(self, returns: float | np.ndarray) -> np.ndarray:
        """Returns by the references, see `Reference.normalized`.

        Raises:
            ValueError: the dataset has no reference scores.
        """
        if self.reference_min is None or self.reference_max is None:
            raise ValueError(
                f"dataset {self.name} has no reference scores to normalise with; give reference_min and reference_max"
            )
        return Reference(self.reference_min, self.reference_max, self.reference_source).normalized(returns)


def yardstick_text(minimum: float | None, maximum: float | None, source: str) -> str:
    """References and their source for people; where one of them is missing, the reason that the source gives.

    It is a tag of logged runs, by which comparisons know the same yardstick: another form would part old and new runs.
    """
    if minimum is None or maximum is None:
        return source
    return f"0 is {minimum:.1f}, 100 is {maximum:.1f} ({source})"


def without_references(info: DatasetInfo, played: str) -> DatasetInfo:
    """The dataset's description for episodes in another environment: its references are not for those.

    Args:
        info: description of the dataset.
        played: name of the environment of the episodes, for people.
    """
    if info.reference_min is None or info.reference_source == BY_HAND:
        return info
    return replace(info, reference_min=None, reference_max=None, reference_source=f"none for {played}")


def check_environment(info: DatasetInfo, environment: str) -> None:
    """Refuse to use a dataset with an environment that it was not recorded in.

    Args:
        info: the dataset.
        environment: gymnasium id that is asked for.

    Raises:
        ValueError: the ids differ.
    """
    check_recorded(info.name, info.environment, environment)
