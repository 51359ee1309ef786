"""Films of a policy."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import concatenate, create_empty_array

from callbacks.randomness import isolated_randomness
from callbacks.rollout import Player, to_tensors
from datamodules.envs.make import EnvironmentSpec
from modules.algorithms.agent import Agent

SMALLEST = 256
"""Pixels of the shorter side of a film, at least: worlds of a few pixels are enlarged."""


def record_episode(agent: Agent, member: int, environment: EnvironmentSpec, seed: int, file: Path) -> None:
    """Play one deterministic episode off-screen and store it as mp4.

    Args:
        agent: what plays, from `Agent.act`.
        member: index of the member that is shown.
        environment: what makes the environment.
        seed: of the episode.
        file: the mp4 file; its folder is made.

    Raises:
        ValueError: the environment cannot be rendered here.
    """
    from moviepy import ImageSequenceClip  # slow to import, and only films need it

    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo otherwise looks for a screen; read at its first rendering
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # SDL otherwise complains about the missing one
    frames, rate = _play(agent, member, environment, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    clip = ImageSequenceClip([enlarge(frame) for frame in frames], fps=rate)
    clip.write_videofile(str(file), logger=None, audio=False)
    clip.close()


def _play(agent: Player, member: int, environment: EnvironmentSpec, seed: int) -> tuple[list[np.ndarray], float]:
    """Frames `[H, W, 3]` of one episode, and how many make a second."""
    env = environment.make(render_mode="rgb_array")
    members, frames = len(agent.member_names), []
    rows: Any = create_empty_array(env.observation_space, n=members)  # every member sees the same, one is listened to
    try:
        with isolated_randomness(seed, agent.device), torch.inference_mode():
            observation, _ = env.reset(seed=seed)
            state, done = agent.initial_state(members), False
            while not done:
                frames.append(_frame(env.render(), environment.id))
                rows = concatenate(env.observation_space, [observation] * members, rows)
                action, state = agent.act(to_tensors(rows, agent.device), state, explore=False)
                observation, reward, terminated, truncated, _ = env.step(
                    action[member].cpu().numpy()[()]
                )  # of a Discrete space, a number
                state = agent.rewarded(state, torch.full((members,), float(reward), device=agent.device))
                done = terminated or truncated
        return frames, env.metadata.get("render_fps", 30)
    except (RuntimeError, AttributeError, ImportError) as error:  # what MuJoCo and its OpenGL bindings raise
        raise ValueError(
            f"{environment.id} cannot be rendered here: {error}. For MuJoCo try MUJOCO_GL=egl or MUJOCO_GL=osmesa"
        ) from error
    finally:
        env.close()


def _frame(rendered: object, environment: str) -> np.ndarray:
    if not isinstance(rendered, np.ndarray):
        raise ValueError(f"{environment} has no pictures: it does not know render_mode='rgb_array'")
    return rendered


def enlarge(frame: np.ndarray) -> np.ndarray:
    """A frame `[H, W, 3]` whose shorter side has `SMALLEST` pixels at least and whose sides are even, as players want.

    Pixels are repeated, never blurred.
    """
    times = math.ceil(SMALLEST / min(frame.shape[:2]))
    large = frame.repeat(times, axis=0).repeat(times, axis=1)
    return large[: large.shape[0] // 2 * 2, : large.shape[1] // 2 * 2]
