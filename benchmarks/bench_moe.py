"""Speed and memory of the sparse mixture of experts against one dense network of equal arithmetic.

    python benchmarks/bench_moe.py [--threads 2] [--rounds 9]
    python benchmarks/bench_moe.py --device cuda

The dense network is `d -> k * hidden -> d`. Every call is a forward and a backward from fresh gradients; the gate and
its losses belong to the mixture's time. The dense network is timed beside every sample; the median is one of ratios.
Packages that the project does not depend on are timed by the same code if there is an environment for them:

    python -m venv .venv-peers
    .venv-peers/bin/python -m pip install torch==2.14.1 numpy st-moe-pytorch==0.1.8 mixture-of-experts==0.2.3

Prints one JSON line per version. `memory` says how a process got its memory: as torch does by itself; in huge pages, as
every command of reverie; or without ever giving any back to the system.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from measured_by import tell

K = 2
# Variables of the environment, to be set before a process starts.
MEMORY = {
    "torch's default": {},
    "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"},
    "kept pages": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)},
}
PEERS = Path(__file__).parents[1] / ".venv-peers/bin/python"


class Setting(NamedTuple):
    """Sizes of a problem."""

    tokens: int
    width: int
    hidden: int
    experts: int


CPU_SETTINGS = [
    Setting(4096, 256, 512, 8),
    Setting(4096, 256, 512, 64),
    Setting(4096, 256, 512, 256),
    Setting(16384, 64, 128, 32),
]
CUDA_SETTINGS = [Setting(16384, 1024, 4096, 64)]


class Version(NamedTuple):
    """A network to time, and how to call it: `x -> y, losses to add`."""

    name: str
    network: Any
    call: Callable[[Any], tuple[Any, list[Any]]]
    autocast: bool = False


def dense(s: Setting, autocast: bool = False) -> Version:
    from torch import nn

    network = nn.Sequential(nn.Linear(s.width, K * s.hidden), nn.ReLU(), nn.Linear(K * s.hidden, s.width))
    return Version("dense", network, lambda x: (network(x), []), autocast)


def mixture(s: Setting, routing: str, backend: str, autocast: bool = False, compiled: bool = False) -> Version:
    import torch

    from modules.experts.layer import SparseMoE
    from modules.networks.auxiliary_losses import collecting

    layer = SparseMoE(s.width, s.width, s.experts, K, s.hidden, routing=routing, backend=backend)  # type: ignore[arg-type]
    forward = torch.compile(layer, fullgraph=True) if compiled else layer

    def call(x: Any) -> tuple[Any, list[Any]]:
        with collecting(layer) as auxiliary:
            y = forward(x)
        return y, [auxiliary.weights[name] * loss for name, loss in auxiliary.losses.items()]

    name = f"{routing}, {backend}{', bfloat16 autocast' if autocast else ''}{', compiled' if compiled else ''}"
    return Version(name, layer, call, autocast)


def backends(device: str) -> list[str]:
    """Forms of the computation that run here."""
    from modules.experts import native

    if device == "cuda":
        return ["grouped", "padded"]
    try:
        native.load()
    except ValueError as error:
        print(error, file=sys.stderr)
        return ["loop", "grouped", "padded"]
    return ["loop", "native", "grouped", "padded"]


def ours(s: Setting, device: str) -> Iterator[Version]:
    """The paper's gate and a plain one, over all forms of computation."""
    for routing in ("top_k", "noisy_top_k"):
        for backend in backends(device):
            yield mixture(s, routing, backend)
    if device == "cpu":
        yield mixture(s, "top_k", "loop", compiled=True)
        yield mixture(s, "top_k", "loop", autocast=True)
        yield mixture(s, "top_k", "padded", autocast=True)


def least(s: Setting, device: str) -> Iterator[Version]:
    """The two forms for CPUs, to compare ways of getting memory."""
    yield from (mixture(s, "top_k", backend) for backend in backends(device)[:2])


def peers(s: Setting, device: str) -> Iterator[Version]:
    """Both drop rows beyond an expert's capacity in groups of 256 tokens; their experts get our two layers."""
    from torch import nn

    grouped = (-1, min(256, s.tokens), s.width)
    st_moe = importlib.import_module("st_moe_pytorch")
    lucid = importlib.import_module("mixture_of_experts")
    for capacity in (1.25, 2.0):
        experts = [
            nn.Sequential(nn.Linear(s.width, s.hidden), nn.ReLU(), nn.Linear(s.hidden, s.width))
            for _ in range(s.experts)
        ]
        layer = st_moe.MoE(
            s.width,
            num_experts=s.experts,
            gating_top_n=K,
            threshold_train=0.0,  # takes every second choice, as ours does
            capacity_factor_train=capacity,
            experts=nn.ModuleList(experts),
        )
        other = lucid.MoE(
            s.width,
            num_experts=s.experts,
            hidden_dim=s.hidden,
            activation=nn.ReLU,
            second_policy_train="all",
            capacity_factor_train=capacity,
        )

        def call_st_moe(x: Any, layer: Any = layer) -> tuple[Any, list[Any]]:
            outputs, loss, *_ = layer(x.view(grouped))
            return outputs.view(x.shape), [loss]

        def call_other(x: Any, layer: Any = other) -> tuple[Any, list[Any]]:
            outputs, loss = layer(x.view(grouped))
            return outputs.view(x.shape), [loss]

        yield Version(f"st-moe-pytorch 0.1.8, capacity {capacity}", layer, call_st_moe)
        yield Version(f"mixture-of-experts 0.2.3, capacity {capacity}", other, call_other)


def step(version: Version, x: Any, out_grad: Any) -> Callable[[], None]:
    """One forward and backward, to the input too, as within a larger network."""
    import torch

    def run() -> None:
        for parameter in version.network.parameters():
            parameter.grad = None
        leaf = x.detach().requires_grad_()
        context: AbstractContextManager[Any] = nullcontext()
        if version.autocast:
            context = torch.autocast(x.device.type, torch.bfloat16)
        with context:
            y, losses = version.call(leaf)
        torch.autograd.backward([y, *losses], [out_grad.to(y.dtype), *[None] * len(losses)])

    return run


def seconds(run: Callable[[], None], device: str, calls: int) -> tuple[float, float]:
    """Wall time, on a GPU the device's own, and processor time of one call."""
    import torch

    begun, cpu = time.perf_counter(), time.process_time()
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
    for _ in range(calls):
        run()
    if device == "cuda":
        end.record()
        torch.cuda.synchronize()
        return 1e-3 * start.elapsed_time(end) / calls, (time.process_time() - cpu) / calls
    return (time.perf_counter() - begun) / calls, (time.process_time() - cpu) / calls


def check_agreement(version: Version, x: Any) -> None:
    """See that one of our versions computes what the plain loop over experts does, with its weights and its noise.

    The dense network and the peers are other networks, which a ratio compares by their cost alone.

    Raises:
        SystemExit: it computes something else, of which no speed is told.
    """
    if type(version.network).__name__ != "SparseMoE":  # the peers' environment cannot import ours
        return
    import torch

    from modules.networks.auxiliary_losses import collecting

    plain = copy.deepcopy(version.network)
    plain.experts.backend = "loop"  # type: ignore[assignment]
    exact = x.dtype == torch.float32 and not version.autocast
    context = torch.autocast(x.device.type, torch.bfloat16) if version.autocast else nullcontext()
    with context:
        torch.manual_seed(1)
        mine, _ = version.call(x)
        torch.manual_seed(1)
        with collecting(plain):
            expected = plain(x)
    difference = float((mine - expected).detach().abs().max() / expected.detach().abs().max())
    if not difference <= (1e-4 if exact else 2e-2):
        raise SystemExit(
            f"{version.name} disagrees with the plain loop over experts by {difference:.1e} of the largest"
        )


def saved_bytes(version: Version, x: Any) -> int:
    """Bytes that the forward keeps for the backward, without parameters and input."""
    import torch

    known = {t.untyped_storage().data_ptr() for t in (x, *version.network.parameters())}
    kept: dict[int, int] = {}

    def pack(t: Any) -> Any:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        context = torch.autocast(x.device.type, torch.bfloat16) if version.autocast else nullcontext()
        with context:
            held = version.call(x.detach().requires_grad_())
    del held
    return sum(kept.values())


def time_training(s: Setting, versions: Iterator[Version], options: argparse.Namespace) -> None:
    """Print a line per version."""
    import torch

    device, dtype = options.device, torch.float32 if options.device == "cpu" else torch.bfloat16
    calls = 1 if device == "cpu" else 10
    torch.manual_seed(0)
    x, out_grad = (torch.randn(s.tokens, s.width, device=device, dtype=dtype) for _ in range(2))
    references = {flag: dense(s, flag) for flag in (False, True)}
    for version in versions:
        reference = references[version.autocast]
        for v in (reference, version):
            v.network.to(device=device, dtype=dtype)
        check_agreement(version, x)
        base, mine = step(reference, x, out_grad), step(version, x, out_grad)
        for _ in range(3):
            base(), mine()
        samples = [(*seconds(base, device, calls), *seconds(mine, device, calls)) for _ in range(options.rounds)]
        ratios = [b / a for a, _, b, _ in samples]
        line = {
            "benchmark": f"mixture of {s.experts} experts, {K} per token: {s.tokens} tokens of width {s.width}, "
            f"hidden {s.hidden}, {str(dtype).removeprefix('torch.')}, {device}, {options.threads} threads",
            "version": version.name,
            "memory": options.memory,
            "ms_median": round(1e3 * statistics.median(b for _, _, b, _ in samples), 2),
            "dense_ms_median": round(1e3 * statistics.median(a for a, *_ in samples), 2),
            "ratio_median": round(statistics.median(ratios), 3),
            "ratio_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
            "cpu_time_ratio_median": round(statistics.median(b / a for _, a, _, b in samples), 3),
            "saved_bytes_per_token": round(saved_bytes(version, x) / s.tokens),
        }
        if "compiled" in version.name:
            line["saved_bytes_per_token"] = "-"  # kept by the compiled graph
        tell(line)


def time_acting(options: argparse.Namespace) -> None:
    """Microseconds of a small batch without gradients, one thread, as in rollouts."""
    import torch

    torch.set_num_threads(1)
    for s in (Setting(64, 256, 512, 8), Setting(64, 256, 512, 64)):
        versions = [dense(s), *(mixture(s, "noisy_top_k", backend) for backend in backends("cpu"))]
        for version in versions:
            version.network.eval()
        line: dict[str, dict[str, Any]] = {v.name: {} for v in versions}
        for batch in (1, 8, 64):
            x = torch.randn(batch, s.width)
            times: dict[str, list[float]] = {v.name: [] for v in versions}
            with torch.no_grad():
                for _ in range(options.rounds + 1):
                    for v in versions:
                        times[v.name].append(seconds(lambda v=v, x=x: v.call(x), "cpu", 50)[0])  # type: ignore[misc]
            for name, values in times.items():
                line[name][f"batch {batch}"] = round(1e6 * statistics.median(values[1:]), 1)
        for name, values_by_batch in line.items():
            title = f"{s.experts} experts, small batches without gradients, microseconds, one thread"
            tell({"benchmark": title, "version": name, **values_by_batch})


PARTS = {"ours": ours, "memory": least, "peers": peers}


def run_part(options: argparse.Namespace) -> None:
    """The measurements of one process."""
    import torch

    torch.set_num_threads(options.threads)
    if options.part == "acting":
        time_acting(options)
        return
    settings = CPU_SETTINGS if options.device == "cpu" else CUDA_SETTINGS
    if options.tokens:
        settings = [Setting(options.tokens, options.width, options.hidden, options.experts)]
    for s in settings:
        time_training(s, PARTS[options.part](s, options.device), options)


def main() -> None:
    """Measure everything, each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, help="measure this size only; the next three belong to it")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--peers-python", type=Path, default=PEERS, help="python that has the other packages")
    parser.add_argument("--part", choices=[*PARTS, "acting"], help="only this, in this process")
    parser.add_argument("--memory", choices=list(MEMORY), default="torch's default", help="what a part writes down")
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return
    runs = [("ours", "huge pages")]
    if options.device == "cpu":
        runs += [("memory", "torch's default"), ("memory", "kept pages"), ("acting", "huge pages")]
    if options.peers_python.exists():
        runs.append(("peers", "huge pages"))
    plain = {k: v for k, v in os.environ.items() if not any(k in variables for variables in MEMORY.values())}
    for part, memory in runs:
        python = options.peers_python if part == "peers" else sys.executable
        command = [python, __file__, *sys.argv[1:], "--part", part, "--memory", memory]
        subprocess.run(command, env={**plain, **MEMORY[memory]}, check=True)


if __name__ == "__main__":
    main()
