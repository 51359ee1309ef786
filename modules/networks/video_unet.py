"""The video model of SimPLe: a U-net that paints the next frame at once, with a discrete latent for what is chance.

Source: Kaiser et al. 2020, "Model-Based Reinforcement Learning for Atari" (https://arxiv.org/abs/1903.00374), section
4; sizes and constants of github.com/tensorflow/tensor2tensor, `rlmb_base_stochastic_discrete`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import check_counts, check_ranges, check_sizes, check_widths
from modules.functional.frame_classes import floored_cross_entropy, from_levels, to_levels
from modules.networks.blocks import OutputLinear
from modules.networks.encoders import scale_image
from modules.networks.frame_latent import FrameLatent, bottom_size
from modules.networks.frame_unet import FrameUNet
from modules.networks.video_model import Clip, Foreseen, VideoModel, last_frames, pushed

REWARDS = 3
"""Classes of a reward: -1, 0 and 1."""
OUTCOME_UNITS = 128
"""Width of the layer behind which reward and end are told."""


Latent = Callable[[Tensor], Tensor]
"""Gives the latent `[B, D]` for the features at the bottom of the U-net, `[B, C, h, w]`."""


class Guess(NamedTuple):
    """The network's output for the next frame.

    Attributes:
        pixels: `[B, H, W, C, K]` logits of the levels of brightness.
        reward: `[B, 3]` logits of the rewards -1, 0 and 1.
        end: `[B]` logit of an episode's end.
    """

    pixels: Tensor
    reward: Tensor
    end: Tensor


class VideoUNet(VideoModel):
    """Frames and an action to the next frame, each pixel and channel one of a number of levels of brightness.

    The loss is the negative log-likelihood of frame, reward, end and bits, in nats: a sum over pixels, where the
    paper's is a mean. Small objects are then as much worth as a reward.

    A frame that is drawn has the likeliest level in each place: all that is chance is in the bits of the latent.
    The end of an episode is told beside the reward, which is this project's own: the paper's rollouts never end.

    Args:
        frame: space of a frame, uint8 `[H, W, C]`.
        d_action: width of an action.
        context: number of last frames that are looked at.
        levels: levels of brightness, 2 to 256; frames must have no others where there are fewer than 256.
        hidden: channels of the first layer.
        downs: steps of stride 2.
        doublings: the first steps, at which the channels double.
        dropout: share of the features that are dropped while it learns.
        floor: loss of a pixel below which it is good enough, in nats.
        bits: bits of the latent; 0 for a model without chance.
        group: bits that the prior draws at once, a divisor of `bits`.
        prior_units: width of the prior's LSTM.
        noise: deviation of the noise on the latent while it learns.
        flips: share of the bits that are turned over while it learns.
        mixed: share of the bits that the prior draws while it learns, times the share of own frames.
        skipped: share of the rows that learn without a latent.

    Raises:
        ValueError: observations are no images, the image is too small for so many steps, or a number is out of range.
    """

    def __init__(
        self,
        frame: gym.Space,
        d_action: int,
        context: int = 4,
        levels: int = 256,
        hidden: int = 96,
        downs: int = 6,
        doublings: int = 3,
        dropout: float = 0.15,
        floor: float = 0.03,
        bits: int = 128,
        group: int = 8,
        prior_units: int = 128,
        noise: float = 0.2,
        flips: float = 0.1,
        mixed: float = 0.5,
        skipped: float = 0.2,
    ) -> None:
        super().__init__(frame, d_action, context)
        check_sizes(context=context, downs=downs)
        check_widths(hidden=hidden)
        check_counts(0, doublings=doublings, bits=bits)
        check_ranges(
            ("levels", levels, 2, 256),
            ("dropout", dropout, 0.0, 0.99),
            ("floor", floor, 0.0, 1e3),
            ("noise", noise, 0.0, 1e3),
            ("flips", flips, 0.0, 0.5),
            ("mixed", mixed, 0.0, 1.0),
            ("skipped", skipped, 0.0, 1.0),
        )
        height, width, channels = self.shape
        if 2 ** (downs - 1) >= max(height, width):
            raise ValueError(f"downs: {downs} halve an image of {height} x {width} more often than it can be; lower it")
        # What is painted and told, and what is chance in it.
        self.levels = levels
        self.floor = floor
        self.unet = FrameUNet(context * channels, d_action, bits, hidden, downs, doublings, dropout)
        self.pixels = OutputLinear(hidden, channels * levels)
        self.outcome = nn.Linear(self.unet.width, OUTCOME_UNITS)
        self.output = OutputLinear(OUTCOME_UNITS, REWARDS + 1)
        self.latent: FrameLatent | None = None
        if bits:
            bottom = (self.unet.narrow, *bottom_size((height, width), downs))
            seen = (context + 1) * channels
            sizes = (hidden, bits, group, prior_units)
            self.latent = FrameLatent(seen, bottom, *sizes, noise, flips, mixed, skipped)
        self.d_noise = self.latent.prior.groups if self.latent else 0

    # -------------------------------------------------------------------------------------------------------- learning
    def losses(self, clip: Clip, own: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of frame, reward, end and latent, and the share of frames that are foreseen in every pixel.

        All rows are foreseen at once. Own predictions that are looked back at are of one step from recorded frames
        (parallel scheduled sampling, Duckworth et al. 2019, https://arxiv.org/abs/1906.04331); the paper's follow one
        another row by row.
        """
        context, frame = self.context, clip.frame
        counted = ~clip.is_first[context:].flatten()  # first rows are nobody's target
        truth, action, reward, end = (
            x[context:].flatten(0, 1)[counted] for x in (frame, clip.action, clip.reward, clip.terminated)
        )

        def seen(frames: Tensor) -> Tensor:
            """The last frames before each target: `[context, n, ...]`."""
            return last_frames(frames, clip.is_first, context)[:, context - 1 : -1].flatten(1, 2)[:, counted]

        if own > 0.0:
            with torch.no_grad():
                guess, _ = self._guess_while_learning(seen(frame), truth, action, own)
            drawn = from_levels(guess.pixels.argmax(-1), self.levels)
            mine = torch.rand(len(drawn), 1, 1, 1, device=own.device) < own
            looked = frame.flatten(0, 1).clone()
            looked[context * frame.shape[1] :][counted] = torch.where(mine, drawn, truth)
            frame = looked.view_as(frame)
        guess, prior = self._guess_while_learning(seen(frame), truth, action, own)
        # What each row's frame, reward and end would have been.
        level = to_levels(truth, self.levels)
        errors = {
            "frame": floored_cross_entropy(guess.pixels, level, self.floor).sum((1, 2, 3)),
            "reward": F.cross_entropy(guess.reward, reward.long() + 1, reduction="none"),
            "end": F.binary_cross_entropy_with_logits(guess.end, end.float(), reduction="none"),
            "whole_frames": (guess.pixels.argmax(-1) == level).flatten(1).all(-1).float(),
        }
        errors |= {} if prior is None else {"latent": prior}
        means = {name: each.sum() / max(1, len(truth)) for name, each in errors.items()}
        return means, {"whole_frames": means.pop("whole_frames").detach()}

    def _guess_while_learning(
        self, seen: Tensor, frame: Tensor, action: Tensor, own: Tensor
    ) -> tuple[Guess, Tensor | None]:
        """The guess of a frame by a latent that sees it, and the loss of the latent's prior, `[B]`."""
        if self.latent is None:
            return self._guess(seen, action, no_latent, learning=True), None
        latent, image = self.latent, as_channels(torch.cat([seen, frame.unsqueeze(0)]))
        loss: list[Tensor] = []

        def write(bottom: Tensor) -> Tensor:
            bits, of_prior = latent.learned(bottom, image, own)
            loss.append(of_prior)
            return bits

        return self._guess(seen, action, write, learning=True), loss[0]

    def _guess(self, seen: Tensor, action: Tensor, latent: Latent, learning: bool) -> Guess:
        painted = self.unet(as_channels(seen), action, latent, learning)
        pixels = self.pixels(painted.places.permute(0, 2, 3, 1)).unflatten(-1, (self.shape[-1], self.levels))
        told = self.output(F.relu(self.outcome(painted.pooled)))
        return Guess(pixels, told[:, :REWARDS], told[:, REWARDS])

    # -------------------------------------------------------------------------------------------------------- foresight
    def begin(self, frames: Tensor) -> Tensor:
        """The frames themselves, `[context, B, H, W, C]`."""
        return frames

    @torch.no_grad()
    def step(self, state: Tensor, action: Tensor, noise: Tensor) -> Foreseen:
        """The likeliest level of each pixel, the likeliest reward and end, under a latent that the prior draws."""
        latent = self.latent
        draw = no_latent if latent is None else (lambda bottom: latent.sampled(bottom, noise))
        guess = self._guess(state, action, draw, learning=False)
        frame = from_levels(guess.pixels.argmax(-1), self.levels)
        reward = (guess.reward.argmax(-1) - 1).float()
        return Foreseen(pushed(state, frame), frame, reward, guess.end > 0.0)


def no_latent(bottom: Tensor) -> Tensor:
    """The latent of a model without chance, `[B, 0]`."""
    return bottom.new_zeros(len(bottom), 0)


def as_channels(frames: Tensor) -> Tensor:
    """Frames `[N, B, H, W, C]` in bytes as one image `[B, N C, H, W]` in [-0.5, 0.5], the oldest first."""
    return scale_image(frames.permute(1, 0, 4, 2, 3).flatten(1, 2))
