"""Images that an agent learns from are moved and brightened at random, so that it cannot learn them by heart.

Sources: Yarats et al. 2021, "Image Augmentation Is All You Need" (https://arxiv.org/abs/2004.13649); Schwarzer et al.
2021, "Data-Efficient Reinforcement Learning with Self-Predictive Representations" (https://arxiv.org/abs/2007.05929),
for the brightness; Ye et al. 2021 (https://arxiv.org/abs/2111.00210) for where both are drawn: once for the first row
of a sequence and once for all later ones, which its latents are compared with.

Letters: `L` rows of a sequence, `B` sequences, `H` rows, `W` columns and `C` channels of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.arguments.checks import check_counts, check_group, check_ranges
from modules.batch import SequenceBatch, Spaces, brief, is_image
from modules.functional.augmentation import brightness, shifted


@dataclass(frozen=True)
class Augmentation:
    """How far images are changed.

    Args:
        shift: pixels that an image is moved by at most, up or down, and to the left or the right.
        intensity: standard deviation of the factor of its brightness, which lies within two of them around 1.

    Raises:
        ValueError: a field is of another type or out of range; it is named as `augmentation.shift` and so on.
    """

    shift: int = 4
    intensity: float = 0.05

    def __post_init__(self) -> None:
        """Refuse distances and deviations that are negative."""
        check_group("augmentation", self)
        check_counts(0, **{"augmentation.shift": self.shift})
        check_ranges(("augmentation.intensity", self.intensity, 0.0, 0.5))


class Draws(NamedTuple):
    """Draws for the first row of each sequence, and for all later ones.

    Attributes:
        offset: int64 `[2, B, 2]` rows and columns that images are moved by.
        factor: `[2, B]` of their brightness.
    """

    offset: Tensor
    factor: Tensor


class Augmented:
    """Changes the images in sequences; all images of one row alike.

    Args:
        spaces: announced by the datamodule.
        settings: how far.

    Raises:
        ValueError: nothing that is observed is an image, or one is not larger than it would be moved.
    """

    def __init__(self, spaces: Spaces, settings: Augmentation) -> None:
        parts = spaces.observations_by_key()
        self.settings = settings
        self.keys = [key for key, space in parts.items() if is_image(space)]
        if not self.keys:
            raise ValueError(
                "augmentation is of images (uint8, of rows, columns and channels), and none is observed in "
                f"{brief(spaces.observation)}: set model.augmentation to null"
            )
        least = min(side for key in self.keys for side in (parts[key].shape or ())[:2])
        if settings.shift >= least:
            raise ValueError(
                f"augmentation.shift of {settings.shift} pixels would move images of {least} out of sight: set it to "
                f"{least // 8}"
            )

    def draw(self, count: int, device: torch.device) -> Draws:
        """Draws for so many sequences."""
        shift = self.settings.shift
        offset = torch.randint(-shift, shift + 1, (2, count, 2), device=device)
        return Draws(offset, brightness(torch.randn(2, count, device=device), self.settings.intensity))

    def rows(self, rows: SequenceBatch, draws: Draws, steps: int) -> SequenceBatch:
        """`[L, B]` rows with their images changed; of these the first `steps + 1` rows are left, as floats."""
        number = torch.arange(steps + 1, device=draws.factor.device).clamp_max(1)  # which of the two draws
        offset, factor = draws.offset[number].flatten(0, 1), draws.factor[number].view(steps + 1, -1, 1, 1, 1)
        changed = {}
        for key in self.keys:
            image = rows.observation[key][: steps + 1]
            changed[key] = shifted(image.flatten(0, 1), offset).view(image.shape) * factor
        return rows._replace(observation={**rows.observation, **changed})
