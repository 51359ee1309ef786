"""The kinds of collection of an online datamodule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import gymnasium as gym
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.played.ahead import Ahead
from datamodules.played.background import BackgroundCollection
from datamodules.played.inline import InlineCollection
from datamodules.played.setting import Setting
from datamodules.replay.sequences import SequenceReplay
from datamodules.replay.streams import StreamReplay
from modules.contracts import Acting, Copyable

CollectionKind = Literal["inline", "background", "ray"]


def check_collection(kind: CollectionKind, environments: int, ray_workers: int) -> None:
    """Warn of the costs of a kind of collection.

    Args:
        kind: see `make_collection`.
        environments: number of environments.
        ray_workers: number of actors that the environments are dealt to.

    Raises:
        ValueError: Ray is not installed, or the environments cannot be dealt evenly to its workers.
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
    """The collection of this rank, see `datamodules.online.OnlineDataModule`.

    Args:
        kind: `inline` in this process, `background` in another one, or `ray` on a Ray cluster.
        setting: environments and how they are collected from.
        agent: agent that acts.
        replay: replay that the rows are written into.
        make_replay: function that makes the replay again, in another process.
        action: space of one action.
        ray_workers: number of actors that the environments are dealt to.

    Raises:
        ValueError: this replay or this agent cannot be used elsewhere.
    """
    if kind == "inline":
        return InlineCollection(setting, replay, agent)
    if not isinstance(replay, SequenceReplay):
        raise ValueError(f"collection: {kind} cannot fill a {type(replay).__name__}; use inline")
    if kind == "background" and not replay.is_own:
        raise ValueError(
            "collection: background writes into files while the replay's own sampler draws from others of their rows: "
            "leave storage and sampler out of the replay's init_args, or use inline"
        )
    if not isinstance(agent, Copyable):
        raise ValueError(f"collection: {kind}: {type(agent).__name__} has no copy_for_acting; use inline")
    if kind == "background":
        return BackgroundCollection(setting, cast(Callable[[], SequenceReplay], make_replay), replay, agent)
    if agent.stored_width:
        raise ValueError(f"collection: ray stores no states, which {type(agent).__name__} needs; use inline")
    from datamodules.played.ray_cluster import RayCollection

    return RayCollection(setting, replay, agent, action, ray_workers)
