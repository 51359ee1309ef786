"""Films of a policy: one deterministic episode, as an mp4 that browsers play."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from callbacks.evaluation.rollout import Player, to_tensors
from callbacks.files.written_aside import written_aside
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.parallel import protected
from datamodules.envs.restarting import Protection
from datamodules.envs.stepping import SeededEpisodes
from modules.agent.agent import Agent
from modules.agent.random_state import isolated_randomness
from modules.functional.recurrent_state import map_leaves

SMALLEST = 256
"""Fewest pixels of the shorter side of a film: worlds of a few pixels are enlarged."""

LONGEST = 10_000
"""Most frames of a film: later steps of a longer episode are not shown."""


def record_episode(agent: Agent, member: int, environment: EnvironmentSpec, seed: int, file: Path) -> None:
    """Play one deterministic episode off-screen and store it as mp4 (H.264), frame by frame, up to `LONGEST` steps.

    The global random generators and the agent's mode are left as they are.

    Args:
        agent: agent that plays, with `Agent.act`.
        member: index of the member that is shown.
        environment: specification of the environment.
        seed: seed of the episode.
        file: the mp4 file; its folder is made. It is there when it is complete.

    Raises:
        ValueError: the environment cannot be rendered here, or fails; there is no ffmpeg, or it fails.
    """
    was_training = agent.training
    agent.eval()
    env = _renderable(environment, seed)
    try:
        with isolated_randomness(seed, agent.device), torch.no_grad():
            write_mp4(file, _frames(agent, member, env, environment.id, seed), env.metadata.get("render_fps") or 30)
    finally:
        env.close()
        agent.train(was_training)


def check_renderable(environment: EnvironmentSpec) -> None:
    """Render one picture.

    Raises:
        ValueError: the environment cannot be rendered here.
    """
    with isolated_randomness(0, torch.device("cpu")):
        env = _renderable(environment, 0)
        try:
            _render(env, environment.id)
        finally:
            env.close()


def _renderable(environment: EnvironmentSpec, seed: int) -> VectorEnv:
    """One environment that renders off-screen, just reset."""
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo otherwise looks for a screen; read at its first rendering
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # SDL otherwise complains about the missing one
    return protected(
        environment,
        1,
        seed=seed,
        autoreset=AutoresetMode.DISABLED,
        protection=Protection(max_restarts=0),
        render_mode="rgb_array",
    )


def _frames(agent: Player, member: int, env: VectorEnv, name: str, seed: int) -> Iterator[np.ndarray]:
    """Frames `[H, W, 3]` of one episode."""
    members = len(agent.member_names)
    played = SeededEpisodes(env, name)
    observation = played.begin([seed])
    state = agent.initial_state(members)
    for _ in range(LONGEST):
        yield _render(env, name)
        # Every member gets the observation, since a population acts as one; one member's action is taken.
        rows = map_leaves(lambda part: np.repeat(part, members, axis=0), observation)
        action, state = agent.act(to_tensors(rows, agent.device), state, explore=False)
        step = played.step(action[member : member + 1].cpu().numpy())
        observation = step.observation
        state = agent.rewarded(state, torch.full((members,), float(step.reward[0]), device=agent.device))
        if step.ended[0]:
            return


def _render(env: VectorEnv, name: str) -> np.ndarray:
    try:
        (rendered,) = env.render() or (None,)
    except Exception as error:  # what MuJoCo, its OpenGL bindings, pygame and others raise
        raise ValueError(
            f"{name} cannot be rendered here: {error}. For MuJoCo try MUJOCO_GL=egl or MUJOCO_GL=osmesa"
        ) from error
    if not isinstance(rendered, np.ndarray):
        raise ValueError(
            f"{name} has no pictures: made with render_mode='rgb_array', its render() returned "
            f"{'None' if rendered is None else f'a {type(rendered).__name__}'} and no array"
        )
    return rendered


def write_mp4(file: Path, frames: Iterator[np.ndarray], per_second: float) -> None:
    """Store frames as mp4 (H.264).

    Args:
        file: the mp4 file; its folder is made. It is there when it is complete.
        frames: `[H, W, 3]` bytes, at least one; small ones are enlarged.
        per_second: frames that are shown in a second.

    Raises:
        ValueError: there is no ffmpeg, it fails, or what it wrote has fewer frames.
    """
    with written_aside(file) as aside:
        _encode(aside, frames, per_second)


def _encode(file: Path, frames: Iterator[np.ndarray], per_second: float) -> None:
    from imageio_ffmpeg import count_frames_and_secs, write_frames  # only films need it

    first = next(frames)
    height, width = enlarge(first).shape[:2]
    writer = write_frames(
        str(file),
        (width, height),
        fps=per_second,
        codec="libx264",
        pix_fmt_out="yuv420p",  # the one that all browsers play
        macro_block_size=2,
        output_params=["-movflags", "+faststart", "-f", "mp4"],  # the name does not tell that while it is written
    )
    written = 0
    try:
        _ask_ffmpeg(lambda: writer.send(None))
        for frame in itertools.chain([first], frames):
            _ask_ffmpeg(functools.partial(writer.send, np.ascontiguousarray(enlarge(frame))))
            written += 1
    finally:
        writer.close()  # which does not tell how ffmpeg ended
    found, _ = _ask_ffmpeg(lambda: count_frames_and_secs(str(file)))
    if found != written:
        raise ValueError(f"ffmpeg wrote {found} of {written} frames; is the disk full?")


def _ask_ffmpeg(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (RuntimeError, OSError) as error:  # no ffmpeg, no room, or a file that is cut short
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"ffmpeg, which writes films, fails: {reason}") from error


def enlarge(frame: np.ndarray) -> np.ndarray:
    """A frame `[H, W, 3]` whose shorter side has `SMALLEST` pixels at least and whose sides are even, as players want.

    Pixels are repeated, never blurred.
    """
    times = math.ceil(SMALLEST / min(frame.shape[:2]))
    large = frame.repeat(times, axis=0).repeat(times, axis=1)
    return large[: large.shape[0] // 2 * 2, : large.shape[1] // 2 * 2]
