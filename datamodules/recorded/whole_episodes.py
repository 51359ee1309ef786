"""Whole recorded episodes in memory, for who needs their order: some to learn from, some held out."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from datamodules.recorded.converted import Converted
from datamodules.replay.torchrl_parts import gather
from datamodules.replay.transitions import Unpack
from modules.arguments.memory import check_memory
from modules.batch import Episodes, Transition, by_name


def split(dataset: Converted, fraction: float, seed: int) -> tuple[Episodes, Episodes]:
    """Episodes to learn from and episodes held out, with rewards as they were recorded.

    Held out are the first of the random order in which `OfflineDataModule` with this seed holds out its own: a larger
    fraction holds out all that a run with a smaller one has not trained on.

    Args:
        dataset: the converted dataset, with flat observations.
        fraction: share of the episodes that is held out, at least one and not all.
        seed: seed of the split.

    Raises:
        ValueError: there are fewer than two episodes, or they do not fit into memory.
    """
    order = episode_order(seed, len(dataset.episodes))
    if len(order) < 2:
        raise ValueError(f"{dataset.metadata['name']} has {len(order)} episodes; two are the least to hold out one")
    held_out = min(max(round(fraction * len(order)), 1), len(order) - 1)
    check_memory("all transitions of the dataset", 2 * dataset.steps["row"].nbytes)
    return read_episodes(dataset, order[held_out:]), read_episodes(dataset, order[:held_out])


def episode_order(seed: int, episodes: int) -> np.ndarray:
    """Numbers of so many episodes in the random order whose first ones are held out, whatever their share."""
    return np.random.default_rng(seed).permutation(episodes)


def read_episodes(dataset: Converted, episodes: np.ndarray) -> Episodes:
    """These episodes of a dataset, in this order, but for those of which no row was kept."""
    episodes = episodes[dataset.episodes["length"].numpy()[episodes] > 0]
    start, length = (dataset.episodes[name].numpy()[episodes] for name in ("start", "length"))
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    rows = torch.from_numpy(np.repeat(start, length) + offset)
    stored = {name: gather(value.as_subclass(Tensor), rows) for name, value in by_name(dataset.steps).items()}
    batch = Unpack(dataset.columns)(TensorDict(stored, [len(rows)]))
    return Episodes(Transition.from_tensordict(batch), torch.from_numpy(length.copy()))
