"""Films of a policy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datamodules.envs.make import make_env


def record_episode(policy: nn.Module, environment: str, seed: int, file: Path) -> None:
    """Play one episode off-screen and store it as mp4.

    Args:
        policy: raw observations `[B, D]` to actions `[B, A]`.
        environment: Gymnasium id.
        seed: of the episode.
        file: the mp4 file; its folder is made.

    Raises:
        ValueError: the environment cannot be rendered here.
    """
    from moviepy import ImageSequenceClip  # slow to import, and only films need it

    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo otherwise looks for a screen; read at its first rendering
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # SDL otherwise complains about the missing one
    env = make_env(environment, render_mode="rgb_array")
    frames = []
    try:
        observation, _ = env.reset(seed=seed)
        done = False
        while not done:
            frames.append(env.render())
            with torch.inference_mode():
                action = policy(torch.as_tensor(np.asarray(observation), dtype=torch.float32)[None])[0]
            observation, _, terminated, truncated, _ = env.step(action.numpy())
            done = terminated or truncated
    except (RuntimeError, AttributeError, ImportError) as error:  # what MuJoCo and its OpenGL bindings raise
        raise ValueError(
            f"{environment} cannot be rendered here: {error}. For MuJoCo try MUJOCO_GL=egl or MUJOCO_GL=osmesa"
        ) from error
    finally:
        env.close()
    file.parent.mkdir(parents=True, exist_ok=True)
    clip = ImageSequenceClip(frames, fps=env.metadata.get("render_fps", 30))
    clip.write_videofile(str(file), logger=None, audio=False)
    clip.close()
