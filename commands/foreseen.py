"""Films of `reverie evaluate`: how policies play (`--video`), and what a world model foresees (`--foreseen.video`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from gymnasium.vector import AutoresetMode
from rich.console import Console
from torch import Tensor

from callbacks.evaluation.films import record_episode, write_mp4
from callbacks.world_model.figures import draw_strips, film, panels
from callbacks.world_model.report import known_steps
from commands.asked_episodes import Asked
from commands.outputs import check_folder
from datamodules.envs.parallel import protected
from datamodules.played.collector import Collector
from datamodules.played.policies import AgentPolicy
from modules.agent.agent import Agent
from modules.agent.random_state import isolated_randomness
from modules.arguments.checks import check_group, check_ranges
from modules.batch import SequenceBatch, brief, is_image
from modules.model_contracts import Imagines

MOMENTS = 4
"""Lengths of a window that are played of each stream; windows begin anywhere in them."""
PER_SECOND = 5
"""Frames of a film that are shown in a second: slow enough to see where a ball is lost."""


@dataclass(frozen=True)
class Foreseen:
    """Films of a world model of images, which plays on by itself from random moments of the policy's episodes.

    Args:
        video: folder that receives an mp4, and a PNG of some of its moments, for each image of the observation: the
            real frames, the model's, and their difference; null for none.
        context: real frames that the model sees first.
        steps: frames that it then imagines, under the actions that were really taken.
        windows: moments that it starts from, side by side.

    Raises:
        ValueError: a field is of another type or outside its range, or is given without a folder.
    """

    video: str | None = None
    context: int = 5
    steps: int = 25
    windows: int = 6

    def __post_init__(self) -> None:
        """Refuse what cannot be filmed."""
        check_group("foreseen", self)
        check_ranges(
            ("foreseen.context", self.context, 1, 1000),
            ("foreseen.steps", self.steps, 1, 1000),
            ("foreseen.windows", self.windows, 1, 100),
        )
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if self.video is None and changed:
            raise ValueError(f"--foreseen.{changed[0]} is for films: say where by --foreseen.video FOLDER")


def check_foreseen(agent: Agent, path: str, settings: Foreseen) -> None:
    """Refuse films that the agent of the checkpoint at a path cannot make, before anything is played.

    Raises:
        ValueError: the agent has no world model, the observation has no image, or nothing can be written there.
    """
    if settings.video is None:
        return
    check_folder("--foreseen.video", Path(settings.video))
    if not isinstance(agent, Imagines):
        raise ValueError(
            f"--foreseen.video: {path} holds a {type(agent).__name__}, which has no world model; --video films how it "
            "plays"
        )
    if not images_of(agent):
        raise ValueError(
            f"--foreseen.video: the model of {path} foresees no images, but {brief(agent.spaces.observation)}; --video "
            "films how its agent plays"
        )


def images_of(agent: Agent) -> list[str]:
    """Keys of the images among what the agent observes."""
    return [key for key, space in agent.spaces.observations_by_key().items() if is_image(space)]


def film_all(
    console: Console, agent: Agent, members: Iterable[int], asked: Asked, folder: Path, foreseen: Foreseen
) -> None:
    """One mp4 of the first episode per member, and those of what is foreseen."""
    for i in members:
        file = folder / f"{agent.member_names[i].replace('/', '_') or 'policy'}.mp4"
        record_episode(agent, i, asked.spec, asked.seed, file)
        console.print(f"video: {file}", soft_wrap=True)
    film_foreseen(console, agent, asked, foreseen)


def film_foreseen(console: Console, agent: Agent, asked: Asked, settings: Foreseen) -> None:
    """Play, let the model foresee, and write the films that are asked for.

    Raises:
        ValueError: no episode is as long as the context, the model foresees no image, the environment fails, or a film
            cannot be written.
    """
    if settings.video is None:
        return
    agent.eval()
    assert isinstance(agent, Imagines), "others are refused"
    with isolated_randomness(asked.seed, agent.device), torch.no_grad():
        batch = played_windows(agent, asked, settings)
        foreseen = agent.open_loop(batch, settings.context).observation
    known = known_steps(batch.is_first.numpy(), settings.context)
    # One film of each image that the model foresees.
    for key in images_of(agent):
        if key not in foreseen:
            raise ValueError(f"--foreseen.video: the model sees the image {key!r}, and does not foresee it")
        pictures = panels(batch.observation[key].numpy(), foreseen[key].float().numpy(), known)
        file = Path(settings.video) / f"foreseen_{key.replace('/', '_')}.mp4"
        write_mp4(file, iter(film(pictures, settings.context)), PER_SECOND)
        title = f"{key}, foreseen after {agent.updates:,} updates"
        draw_strips(pictures, settings.context, title, file.with_suffix(".png"))
        console.print(f"video: {file}", soft_wrap=True)


def played_windows(agent: Agent, asked: Asked, settings: Foreseen) -> SequenceBatch:
    """`[context + steps, windows]` rows of the deterministic policy, each window from a random moment of its own.

    Raises:
        ValueError: no episode is as long as the context, or the environment fails.
    """
    spec, seed, count = asked.spec, asked.seed, settings.windows
    length = settings.context + settings.steps
    env = protected(spec, count, seed=seed, autoreset=AutoresetMode.NEXT_STEP, protection=asked.protection)
    try:
        rows = Collector(env, spec.id, seed).collect(MOMENTS * length, AgentPolicy(agent, count, explore=False))
    finally:
        env.close()
    usable = starts(rows["is_first"], settings.context, length)
    if not usable.any(0).all():
        raise ValueError(
            f"--foreseen.context: episodes of {spec.id} have no more than {settings.context} frames; give fewer"
        )
    first = torch.multinomial(usable.T.float(), 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)
    index = first + torch.arange(length).unsqueeze(1)
    return SequenceBatch.from_tensordict(rows[index, torch.arange(count)].transpose(0, 1))


def starts(is_first: Tensor, context: int, length: int) -> Tensor:
    """`[T - length + 1, N]` bool, rows behind which a window's context and the first frame to foresee are one episode.

    Args:
        is_first: `[T, N]` bool, the row begins an episode.
        context: frames that are seen.
        length: frames of a window.
    """
    begins = is_first[1:].unfold(0, context, 1).any(-1)  # [T - context, N] within the frames behind the first one
    return ~begins[: len(is_first) - length + 1]
