"""The contract of models that predict the next frame of a game from the last ones and an action.

Two kinds of model keep to it: one that paints the frame at once, and one that says it token by token. What learns in
such a model, or looks at its predictions, knows this file alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

from modules.batch import brief, is_image


class Clip(NamedTuple):
    """Windows of recorded play that a video model learns from.

    Row `t` holds a frame, and what came with it: the action that led to it, the reward of that action, and whether the
    episode ended there. A row with `is_first` begins an episode: no action led to it, and it is nobody's target.

    Attributes:
        frame: `[T, B, H, W, C]` uint8.
        action: `[T, B, A]` float32 as a policy sees actions; one-hot where they are numbers.
        reward: `[T, B]` float32, each -1, 0 or 1.
        terminated: `[T, B]` bool, the episode ended with this frame; a time-out is no such end.
        is_first: `[T, B]` bool, the frame is the first of its episode.
    """

    frame: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    is_first: Tensor


class Foreseen(NamedTuple):
    """One step as a model foresees it.

    Attributes:
        state: state of the model behind this step, for the next one.
        frame: `[B, H, W, C]` uint8 next frame.
        reward: `[B]` float32 reward of the action, each -1, 0 or 1.
        terminated: `[B]` bool, whether the episode ends with this frame. Steps after an end mean nothing.
    """

    state: Any
    frame: Tensor
    reward: Tensor
    terminated: Tensor


class VideoModel(nn.Module, ABC):
    """Base of models of the next frame, called with the space of a frame and the width of an action.

    A model in a config is a class path; its own sizes are keywords behind these two.

    Args:
        frame: space of a frame, uint8 `[H, W, C]`.
        d_action: width `A` of an action, as a policy sees it.
        context: number of last frames that a prediction starts from, at least 1.

    Attributes:
        d_noise: number of uniform draws that `step` takes for each of its rows; 0 for a model that draws nothing.

    Raises:
        ValueError: observations are no images.
    """

    d_noise: int

    def __init__(self, frame: gym.Space, d_action: int, context: int) -> None:
        super().__init__()
        if not is_image(frame):
            raise ValueError(
                f"a video model needs uint8 images [H, W, C] as observations, got {brief(frame)}; of several parts of "
                "an observation, name the image alone in data.observation_keys"
            )
        assert frame.shape is not None
        self.shape = tuple(frame.shape)
        self.d_action = d_action
        self.context = context

    @abstractmethod
    def losses(self, clip: Clip, own: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss of the model on recorded windows, by name.

        Rows before `context` are only looked at, unless an episode begins in between; all later ones but first rows are
        targets. All randomness is drawn from torch's own generator.

        Args:
            clip: windows `[T, B]`, with `T > context`.
            own: scalar in [0, 1], the chance with which a frame that the model looks back at is its own prediction in
                place of the recorded one (scheduled sampling). A model whose tokens are all predicted at once from
                recorded ones may leave it out, and says so.

        Returns:
            Scalar terms of the loss, each of which has the weight 1, and detached scalar metrics.
        """

    @abstractmethod
    def begin(self, frames: Tensor) -> Any:
        """State from the last frames of `B` games, as `step` takes it.

        Args:
            frames: `[context, B, H, W, C]` uint8, the oldest first. Near the start of an episode its first frame stands
                in the places of those before it.
        """

    @abstractmethod
    def step(self, state: Any, action: Tensor, noise: Tensor) -> Foreseen:
        """Foresee the step that an action makes; no gradients are needed.

        Args:
            state: of `begin`, or of the step before.
            action: `[B, A]` float32 as in a `Clip`.
            noise: `[B, d_noise]` uniform draws on [0, 1); the same draws give the same step.
        """


MakeVideoModel = Callable[[gym.Space, int], VideoModel]
"""A `VideoModel`, or a partial of one, called with the space of a frame and the width of an action."""


def pushed(frames: Tensor, frame: Tensor) -> Tensor:
    """The last frames `[context, B, ...]` with a new one `[B, ...]` behind them, and without the oldest."""
    return torch.cat([frames[1:], frame.unsqueeze(0)])


def last_frames(frame: Tensor, is_first: Tensor, context: int) -> Tensor:
    """Of each row of windows its last frames, itself included: `[context, T, B, ...]`, the oldest first.

    Where an episode, or the window, begins later than that, its first frame stands in the places before it.

    Args:
        frame: `[T, B, ...]`.
        is_first: `[T, B]` bool, the frame is the first of its episode.
        context: number of frames.
    """
    time = torch.arange(len(frame), device=frame.device).unsqueeze(1)  # [T, 1]
    start = torch.where(is_first, time, 0).cummax(0).values  # [T, B] row that each row's episode begins at
    back = torch.arange(context - 1, -1, -1, device=frame.device).view(-1, 1, 1)
    index = torch.maximum(time - back, start)  # [context, T, B]
    return frame[index, torch.arange(frame.shape[1], device=frame.device)]


def whole_context(is_first: Tensor, context: int) -> Tensor:
    """`[T, B]` bool, whether windows hold all the last frames of a row, back to its episode's first at most."""
    time = torch.arange(len(is_first), device=is_first.device).unsqueeze(1)
    return (time >= context - 1) | (is_first.cumsum(0) > 0)
