"""How the processes of a run train one agent together."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from pytorch_lightning.strategies import Strategy
from torch.optim import Optimizer

from commands.launcher_store import launcher_store, restarted
from commands.peers import Peers
from modules.agent.agent import Agent
from modules.agent.lightning_private import LaunchedDDP
from modules.experts.layer import sparse_layers
from modules.experts.parallel import check_parallel_sizes, join_experts, shard_experts, whole_experts

LONGEST_START = timedelta(minutes=30)
"""Time that processes wait for all to come."""
LONGEST_WAIT = timedelta(days=7)
"""Time that processes wait for another one: for its evaluation, or slow environments. A dead one is noticed without."""


class AgentDDP(LaunchedDDP):
    """Data parallel processes without the DDP wrapper: agents average their own gradients before each step.

    Under manual optimisation the wrapper fails with losses that use some parameters only, and a plain `backward` under
    it lets ranks diverge without a word.

    Experts with a `parallel_size` are spread over the processes while they train, and whole in every checkpoint.

    Args:
        peers: watch over the other processes.
        settings: arguments of Lightning's `DDPStrategy`.
    """

    def __init__(self, peers: Peers | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.peers = Peers() if peers is None else peers
        self._wait: timedelta = settings.get("timeout", LONGEST_WAIT)

    def processes_started(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Watch them."""
        self.peers.watch_children(processes, self.num_processes * self.node_rank + 1)

    def setup_environment(self) -> None:
        """Connect the processes; torch waits half an hour for all to come, and then `LONGEST_WAIT` in each call."""
        self.peers.watch_launcher(self.num_processes * self.node_rank)
        super().setup_environment()
        if self.world_size > 1:
            dist.set_timeout(self._wait)
            self.peers.watch_connected()

    def setup_distributed(self) -> None:
        """Connect as Lightning does; in a job that `torchrun` has started again, by keys of this start."""
        if restarted():
            self.set_world_ranks()
            store, rank, world = launcher_store()
            device = self.root_device
            dist.init_process_group(
                self.process_group_backend or dist.get_default_backend_for_device(device),
                store=store,
                rank=rank,
                world_size=world,
                timeout=min(self._wait, LONGEST_START),
                device_id=None if device.type == "cpu" else device,
            )
        super().setup_distributed()  # leaves alone what is connected

    def configure_ddp(self) -> None:
        """Start every rank from the state of rank 0."""
        assert self.model is not None
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            dist.broadcast(tensor.data, src=0)

    def on_train_start(self) -> None:
        """Spread experts; by now weights and optimisers are what a checkpoint says."""
        assert self.lightning_module is not None
        shard_experts(self.lightning_module, self.optimizers)

    def on_train_end(self) -> None:
        """Leave a whole agent behind."""
        assert self.lightning_module is not None
        join_experts(self.lightning_module, self.optimizers)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The agent's part of a checkpoint; Lightning calls this on all ranks."""
        assert self.lightning_module is not None
        with whole_experts(self.lightning_module):
            return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimiser's part of a checkpoint; Lightning calls this on all ranks."""
        assert self.lightning_module is not None
        with whole_experts(self.lightning_module, [optimizer]):
            content: dict[str, Any] = super().optimizer_state(optimizer)
            # The inner ones are the optimiser's own, which are taken apart again.
            return content | {"state": {key: dict(state) for key, state in content["state"].items()}}


def choose_strategy(config: dict[str, Any], peers: Peers | None = None) -> Any:
    """The strategy for agents: processes that average gradients themselves and watch each other, or a single process.

    Raises:
        ValueError: a named strategy that agents cannot run under.
    """
    strategy = config["strategy"]
    if not isinstance(strategy, str):
        return strategy
    if strategy not in ("auto", "ddp"):
        raise ValueError(
            f"trainer.strategy '{strategy}' is not for agents, which average gradients themselves; use ddp"
        )
    alone = config["devices"] in (1, "1") and config["num_nodes"] == 1
    return strategy if alone and strategy == "auto" else AgentDDP(peers)


def check_processes(agent: Agent, processes: int, strategy: Strategy) -> None:
    """Refuse mixtures that cannot train in so many processes; those that are spread over them are not compiled.

    Raises:
        ValueError: a `parallel_size` that does not divide them or the experts, or goes with a compiled update, or with
            a strategy that takes the experts of all processes for the same.
    """
    check_parallel_sizes(agent, processes)
    if all(layer.parallel_size == 1 for layer in sparse_layers(agent).values()):
        return
    if not isinstance(strategy, AgentDDP):
        raise ValueError(
            f"parallel_size spreads experts under trainer.strategy: ddp, not under {type(strategy).__name__}: name "
            "ddp, or set parallel_size to 1"
        )
    if agent.compile_mode not in ("off", "auto"):
        raise ValueError("rows that travel between processes cannot be compiled: leave model.compile out")
    agent.compile_mode = "off"
