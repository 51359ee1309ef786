"""The store by which processes of a launcher find each other, without what an earlier start of them has left there."""

from __future__ import annotations

import os

import torch.distributed as dist

COUNT = "TORCHELASTIC_RESTART_COUNT"
"""Variable of `torchrun`: how often it has started the processes again."""


def launcher_store() -> tuple[dist.Store, int, int]:
    """The launcher's key-value store, the number of this process, and the number of all.

    `torchrun --master-port` keeps one store for all restarts of a job. Of a process that is not there yet others would
    read the address that the one before it had, and where a population stands from before it was ended. So each restart
    has keys of its own. Several hosts may count their restarts differently, and need no such keys under
    `--rdzv-backend c10d`, which makes a new store for each.
    """
    store, rank, world = next(iter(dist.rendezvous("env://")))
    if restarted():
        store = dist.PrefixStore(f"restart-{os.environ[COUNT]}", store)
    return store, rank, world


def restarted() -> bool:
    """Whether `torchrun` has started the processes of this host, which has all of them, again."""
    return os.environ.get(COUNT, "0") != "0" and os.environ.get("GROUP_WORLD_SIZE") == "1"
