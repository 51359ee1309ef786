"""Turns of a population's members in processes that a launcher has started, on one machine or on several."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from commands.devices import visible_devices
from commands.launcher_store import launcher_store
from commands.turns import Turn, take
from modules.agent.evolution import Returns

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
            "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip
"""Variables of a launcher; those of `torchrun` that begin with TORCHELASTIC come on top."""

POLL = 0.1
"""Seconds between two looks for a message, so that a signal is answered in between."""
LEAVING = 60.0
"""Seconds that the first process waits for the others to have heard that all is over."""

END = "reverie/end"


def launched() -> bool:
    """Whether a launcher has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def launched_ranks() -> Iterator[Ranks]:
    """The processes of the launcher, each of which is one of its own to the runs of `fit` within.

    Raises:
        ValueError: the launcher has not said where they meet.
    """
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ValueError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {name} is not set: start the processes of a population "
                "by torchrun, which sets both"
            )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    store, rank, world = launcher_store()
    hidden = {name: value for name, value in os.environ.items() if name in LAUNCHED or name.startswith("TORCHELASTIC")}
    for name in hidden:
        del os.environ[name]
    devices = visible_devices()
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local % len(devices)]
    ranks = Ranks(store, rank, world)
    try:
        yield ranks
    finally:
        ranks.end()
        os.environ.update(hidden)


class Ranks:
    """Processes that take turns together: the first one says which, and each takes every so-many-th of them.

    They talk by the launcher's key-value store and form no group, for an agent would average its gradients with those
    of the other members of a group. All need the folder of the population.

    Args:
        store: the store.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(self, store: dist.Store, rank: int, world: int) -> None:
        self.store = store
        self.rank = rank
        self.world = world
        self._rounds = 0

    def take_all(self, turns: Sequence[Turn]) -> list[Returns]:
        """Returns of all turns, in their order; for the first process.

        Raises:
            ValueError: a turn was refused, by whichever process.
        """
        self.store.set(self._key("turns"), json.dumps([[str(turn.folder), turn.arguments] for turn in turns]))
        found = {number: take(turns[number]) for number in range(0, len(turns), self.world)}
        for rank in range(1, self.world):
            told = json.loads(self._await(self._key(f"returns/{rank}")))
            if "error" in told:
                raise ValueError(told["error"])
            mine = range(rank, len(turns), self.world)
            found |= {number: Returns(*returns) for number, returns in zip(mine, told["returns"], strict=True)}
        self._rounds += 1
        return [found[number] for number in range(len(turns))]

    def serve(self) -> None:
        """Take this process's share of the turns, round by round, until the first one says that all is over."""
        while asked := self._await(self._key("turns"), END):
            turns = [Turn(Path(folder), arguments) for folder, arguments in json.loads(asked)]
            try:
                told: dict[str, Any] = {"returns": [list(take(turn)) for turn in turns[self.rank :: self.world]]}
            except ValueError as error:  # the first process says it, for all
                told = {"error": str(error)}
            self.store.set(self._key(f"returns/{self.rank}"), json.dumps(told))
            self._rounds += 1

    def end(self) -> None:
        """Let the others go, from the first process; from another one, tell that it goes."""
        if self.rank:
            self.store.set(f"{END}/{self.rank}", "")
            return
        self.store.set(END, "")
        deadline = time.monotonic() + LEAVING
        while time.monotonic() < deadline:  # the store is in this process, unless the launcher has one
            if all(self.store.check([f"{END}/{rank}"]) for rank in range(1, self.world)):
                return
            time.sleep(POLL)

    def _key(self, name: str) -> str:
        return f"reverie/{self._rounds}/{name}"

    def _await(self, *keys: str) -> str:
        """The text that is told under the first of these keys to be there."""
        while True:
            for key in keys:
                if self.store.check([key]):
                    return self.store.get(key).decode()
            time.sleep(POLL)
