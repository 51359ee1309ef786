"""Environments of other packages for Gymnasium; a package is imported when its environment is made."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled

CAMERAS = {"quadruped": 2}
"""Cameras of the Control Suite that follow the body, where that is not the first one; as in the code of DreamerV2."""

IMAGE = "image"


class Crafter(gym.Env):
    """Crafter (Hafner 2021, https://arxiv.org/abs/2109.06780): survival in a world; images `[64, 64, 3]` from above.

    An episode ends with the death of the player, and is cut after `length` steps. The info of a step is the package's,
    with the `achievements` that its score is made of.

    Args:
        size: side of the image.
        length: steps after which an episode is cut; 0 for never.
        reward: whether achievements and health are rewarded; if not, the reward is always 0.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        DependencyNotInstalled: the package is missing.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, size: int = 64, length: int = 10_000, reward: bool = True, render_mode: str | None = None
    ) -> None:
        self._package = _crafter()
        self._arguments = {"size": (size, size), "length": length, "reward": reward}
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._played = self._package.Env(**self._arguments)
        self.action_space = gym.spaces.Discrete(int(self._played.action_space.n))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new world; with a seed, the first of its series."""
        super().reset(seed=seed)
        if seed is not None:  # its constructor alone takes one
            self._played = self._package.Env(**self._arguments, seed=seed)
        return self._played.reset(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; a discount of 0 means that the player died."""
        observation, reward, done, info = self._played.step(int(action))
        died = info["discount"] == 0
        return observation, float(reward), died, bool(done and not died), info

    def render(self) -> np.ndarray:
        """`[512, 512, 3]` uint8 picture of what the player sees."""
        return self._played.render((512, 512))


class ControlSuite(gym.Env):
    """A task of the DeepMind Control Suite (Tassa et al. 2018, https://arxiv.org/abs/1801.00690).

    The observation is a picture under `image`, or the task's own vectors by key. An episode is cut at the task's time
    limit; where a task gives a discount of 0, it ends.

    Args:
        domain: name of the body, such as `walker`.
        task: name of the task, such as `walk`.
        pixels: observe a picture, not vectors.
        size: side of the picture.
        camera: number of the camera; None for the one that DreamerV2 takes.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        DependencyNotInstalled: the package is missing, or is not for the MuJoCo that is installed.
        ValueError: there is no such task.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        domain: str,
        task: str,
        pixels: bool = True,
        size: int = 64,
        camera: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._suite = _suite()
        if (domain, task) not in self._suite.ALL_TASKS:
            known = sorted(t for d, t in self._suite.ALL_TASKS if d == domain)
            domains = sorted({d for d, _ in self._suite.ALL_TASKS})
            said = f"tasks of {domain}: {', '.join(known)}" if known else f"domains: {', '.join(domains)}"
            raise ValueError(f"the Control Suite has no task {domain!r} {task!r}; {said}")
        # The task, with a camera that sees it.
        self._domain = domain
        self._task = task
        self._pixels = pixels
        self._size = size
        self._camera = CAMERAS.get(domain, 0) if camera is None else camera
        self.render_mode = render_mode
        try:
            self._played = self._suite.load(domain, task)
        except AttributeError as error:
            raise DependencyNotInstalled(
                f"dm_control for this MuJoCo ({error}); pip install -e '.[control]'"
            ) from error
        # Spaces as Gymnasium has them, by the suite's own bounds.
        spec = self._played.action_spec()
        low, high = (np.broadcast_to(x, spec.shape).astype(np.float32) for x in (spec.minimum, spec.maximum))
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)
        parts: dict[str, gym.Space] = {IMAGE: gym.spaces.Box(0, 255, (size, size, 3), np.uint8)}
        if not pixels:
            sizes = {key: int(np.prod(part.shape)) for key, part in self._played.observation_spec().items()}
            parts = {key: gym.spaces.Box(-np.inf, np.inf, (count,), np.float32) for key, count in sizes.items()}
        self.observation_space = gym.spaces.Dict(parts)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A new episode; with a seed, the first of its series."""
        super().reset(seed=seed)
        if seed is not None:
            self._played = self._suite.load(self._domain, self._task, task_kwargs={"random": seed})
        return self._observation(self._played.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One step of the task's control."""
        time = self._played.step(np.asarray(action, np.float64))
        ended = bool(time.last() and time.discount == 0)
        return (
            self._observation(time.observation),
            float(time.reward or 0.0),
            ended,
            bool(time.last() and not ended),
            {},
        )

    def render(self) -> np.ndarray:
        """`[256, 256, 3]` uint8 picture."""
        return self._picture(256)

    def close(self) -> None:
        """Give back what renders."""
        self._played.close()

    def _observation(self, observation: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if self._pixels:
            return {IMAGE: self._picture(self._size)}
        return {key: np.asarray(value, np.float32).reshape(-1) for key, value in observation.items()}

    def _picture(self, size: int) -> np.ndarray:
        return np.ascontiguousarray(self._played.physics.render(size, size, camera_id=self._camera))


def _crafter() -> ModuleType:
    try:
        import crafter
    except ImportError as error:
        raise DependencyNotInstalled(f"{error}; pip install -e '.[crafter]'") from error
    return crafter


def _suite() -> ModuleType:
    try:
        from dm_control import suite
    except ImportError as error:
        raise DependencyNotInstalled(f"{error}; pip install -e '.[control]'") from error
    return suite
