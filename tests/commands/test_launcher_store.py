"""Processes that `torchrun` has started again read nothing that the first ones have left in its store."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from ports import free_port

from commands.launcher_store import launcher_store


@pytest.mark.parametrize(("restarts", "hosts", "left"), [("0", "1", True), ("1", "1", False), ("1", "2", True)])
def test_a_restart_on_one_host_begins_with_an_empty_store(
    restarts: str, hosts: str, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    agent = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    agent.set("address", "of the first start")
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    told |= {"TORCHELASTIC_RESTART_COUNT": restarts, "GROUP_WORLD_SIZE": hosts, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    store, rank, world = launcher_store()
    assert (rank, world) == (0, 1)
    assert store.check(["address"]) == left
    store.set("mine", "yes")
    assert store.get("mine") == b"yes"
