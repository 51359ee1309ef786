"""Who plays the environments of an online datamodule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import gymnasium as gym
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.played.background import Ahead, BackgroundCollection
from datamodules.played.collector import Setting
from datamodules.played.inline import InlineCollection
from datamodules.replay.sequences import SequenceReplay
from datamodules.replay.streams import StreamReplay
from modules.contracts import Acting, Copyable

CollectionKind = Literal["inline", "background", "ray"]


def check_collection(kind: CollectionKind, environments: int, ray_workers: int) -> None:
    """Say what a kind costs.

    Raises:
        ValueError: there is no Ray, or it cannot have so many workers.
    """
    if kind == "ray":
        from datamodules.played.ray_cluster import check_ray  # imports half of TorchRL

        check_ray(environments, ray_workers)
    if kind != "inline":
        rank_zero_warn(f"collection: {kind}: rows arrive in an unrepeatable order; a resume is not exact")


def make_collection(
    kind: CollectionKind,
    setting: Setting,
    agent: Acting,
    replay: StreamReplay,
    make_replay: Callable[[], StreamReplay],
    action: gym.Space,
    ray_workers: int,
) -> InlineCollection | Ahead:
    """What plays the environments of this rank, see `datamodules.online.OnlineDataModule`.

    Args:
        kind: in this process, in another one, or on a Ray cluster.
        setting: what is collected.
        agent: that acts.
        replay: that the rows are written into.
        make_replay: makes it again, in another process.
        action: space of the actions.
        ray_workers: actors that the environments are dealt to.

    Raises:
        ValueError: this replay or this agent cannot be used elsewhere.
    """
    if kind == "inline":
        return InlineCollection(setting, replay, agent)
    if not isinstance(replay, SequenceReplay):
        raise ValueError(f"collection: {kind} cannot fill a {type(replay).__name__}; use inline")
    if not isinstance(agent, Copyable):
        raise ValueError(f"collection: {kind}: {type(agent).__name__} has no copy_for_acting; use inline")
    if kind == "background":
        return BackgroundCollection(setting, cast(Callable[[], SequenceReplay], make_replay), replay, agent)
    if agent.stored_width:
        raise ValueError(f"collection: ray stores no states, which {type(agent).__name__} needs; use inline")
    from datamodules.played.ray_cluster import RayCollection

    return RayCollection(setting, replay, agent, action, ray_workers)
