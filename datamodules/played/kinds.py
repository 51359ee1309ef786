"""The kinds of collection of an online datamodule."""

from __future__ import annotations

from typing import Literal

import gymnasium as gym
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.played.ahead import Ahead
from datamodules.played.background import BackgroundCollection
from datamodules.played.inline import InlineCollection
from datamodules.played.setting import Setting
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
    action: gym.Space,
    ray_workers: int,
) -> InlineCollection | Ahead:
    """The collection of this rank, see `datamodules.online.OnlineDataModule`.

    Args:
        kind: `inline` in this process, `background` in another one, or `ray` on a Ray cluster.
        setting: environments and how they are collected from.
        agent: agent that acts.
        replay: replay that the rows are written into.
        action: space of one action.
        ray_workers: number of actors that the environments are dealt to.

    Raises:
        ValueError: this agent cannot act elsewhere.
    """
    if kind == "inline":
        return InlineCollection(setting, replay, agent)
    if not isinstance(agent, Copyable):
        raise ValueError(f"collection: {kind}: {type(agent).__name__} has no copy_for_acting; use inline")
    if kind == "background":
        return BackgroundCollection(setting, replay, agent)
    from datamodules.played.ray_cluster import RayCollection

    return RayCollection(setting, replay, agent, action, ray_workers)
