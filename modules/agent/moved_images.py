"""Images that an agent learns from are moved and brightened at random, so that it cannot learn them by heart.

Sources: Yarats et al. 2021, "Image Augmentation Is All You Need" (https://arxiv.org/abs/2004.13649); Schwarzer et al.
2021, "Data-Efficient Reinforcement Learning with Self-Predictive Representations" (https://arxiv.org/abs/2007.05929),
for the brightness; Ye et al. 2021 (https://arxiv.org/abs/2111.00210) for where both are drawn: once for the first row
of a sequence and once for all later ones, which its latents are compared with.

Letters: `L` rows of a sequence, `B` sequences, `H` rows, `W` columns and `C` channels of an image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.agent.action_masks import ActionMask
from modules.agent.augmentation import Augmentation
from modules.agent.planning import Record
from modules.arguments.checks import check_counts, check_ranges
from modules.batch import SequenceBatch, brief, is_image
from modules.functional.augmentation import brightness, shifted


class Draws(NamedTuple):
    """Draws for the first row of each sequence, and for all later ones.

    Attributes:
        offset: int64 `[2, B, 2]` rows and columns that images are moved by.
        factor: `[2, B]` of their brightness.
    """

    offset: Tensor
    factor: Tensor


class MovedImages(Augmentation):
    """Changes the images in sequences; all images of one row alike.

    Args:
        mask: knows the spaces.
        shift: pixels that an image is moved by at most, up or down, and to the left or the right.
        intensity: standard deviation of the factor of its brightness, which lies within two of them around 1.

    Raises:
        ValueError: a number is out of range, nothing that is observed is an image, or one is no larger than it would be
            moved.
    """

    def __init__(self, mask: ActionMask, shift: int = 4, intensity: float = 0.05) -> None:
        super().__init__()
        check_counts(0, **{"augmentation.shift": shift})
        check_ranges(("augmentation.intensity", intensity, 0.0, 0.5))
        parts = mask.seen.observations_by_key()
        self.shift = shift
        self.intensity = intensity
        self.keys = [key for key, space in parts.items() if is_image(space)]
        if not self.keys:
            raise ValueError(
                "MovedImages changes images (uint8, of rows, columns and channels), and none is observed in "
                f"{brief(mask.seen.observation)}: set model.augmentation to null"
            )
        least = min(side for key in self.keys for side in (parts[key].shape or ())[:2])
        if shift >= least:
            raise ValueError(
                f"augmentation.shift of {shift} pixels would move images of {least} out of sight: set it to "
                f"{least // 8}"
            )

    def draw(self, count: int, device: torch.device) -> Draws:
        """Draws for so many sequences."""
        shift = self.shift
        offset = torch.randint(-shift, shift + 1, (2, count, 2), device=device)
        return Draws(offset, brightness(torch.randn(2, count, device=device), self.intensity))

    def changed(
        self, rows: SequenceBatch, record: Record, draws: tuple[Tensor, ...], steps: int
    ) -> tuple[SequenceBatch, Record]:
        """`[L, B]` rows with their images changed, of which `steps + 1` are left, as floats; policies are the same."""
        drawn = Draws(*draws)
        number = torch.arange(steps + 1, device=drawn.factor.device).clamp_max(1)  # which of the two draws
        offset, factor = drawn.offset[number].flatten(0, 1), drawn.factor[number].view(steps + 1, -1, 1, 1, 1)
        images = {}
        for key in self.keys:
            image = rows.observation[key][: steps + 1]
            images[key] = shifted(image.flatten(0, 1), offset).view(image.shape) * factor
        return rows._replace(observation={**rows.observation, **images}), record
