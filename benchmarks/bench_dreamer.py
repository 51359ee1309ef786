"""Speed of one whole update of DreamerV2 (world model, actor, critic), against that of sheeprl at the same sizes.

    python benchmarks/bench_dreamer.py [--threads 1] [--rounds 7]
    python benchmarks/bench_dreamer.py --device cuda
    python benchmarks/bench_dreamer.py --device cuda --atari

sheeprl is no dependency of the project; it is timed if there is an environment for it:

    python -m venv .venv-peers
    .venv-peers/bin/python -m pip install torch==2.14.1 sheeprl==0.8.4

Nothing is timed unless all versions, from the same weights, batch and draws, say the same of a first update: the losses
of the world model, of actor and critic, and the norms of their gradients (`dreamer_start.py`).

Every version has a process of its own; they take turns, round by round, and each is compared with sheeprl's round next
to it. The batch is random and made beforehand. Ours also computes its metrics; sheeprl is spared them, as its
`metric.log_level=0` does. Prints one JSON line per version. `cpu_ms` is processor time, which other programs on the
machine disturb less than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agreement import check_agreement
from measured_by import tell

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers/bin/python"
MODES = ["eager", "cell", "update", "captured"]
PRECISIONS = {"": "", "tf32": ", TF32 products", "bf16": ", bfloat16 and TF32 products"}
"""By what stands behind the slash of a version: how it is told."""
DEFAULTS = {
    "cpu": ["eager", "cell"],
    "cuda": ["eager", "cell", "captured", "eager/tf32", "captured/tf32", "captured/bf16"],
}
PEER = "sheeprl"


@dataclass(frozen=True)
class Setting:
    """Sizes of an update; `updates` are timed together."""

    title: str
    batch: int
    window: int
    deter: int
    hidden: int
    units: int
    layers: int
    groups: int
    classes: int
    updates: int
    horizon: int = 15
    depth: int = 48
    image: bool = False
    width: int = 4
    actions: int = 2


SETTINGS = {
    "small": Setting("small", 16, 32, 128, 128, 128, 2, 8, 8, updates=4),
    "medium": Setting("medium", 16, 50, 200, 200, 400, 4, 32, 32, updates=1),
    "atari": Setting("Atari", 16, 50, 600, 600, 400, 4, 32, 32, updates=1, image=True, actions=18),
}


def make_agent(s: Setting, mode: str) -> Any:
    """An agent of ours with the rates and the scale of the entropy that sheeprl has, and random weights."""
    import gymnasium as gym
    import numpy as np
    import torch

    from modules.algorithms.dreamer import DreamerV2
    from modules.batch import Spaces
    from modules.networks.blocks import DenseStack
    from modules.world_model.actor_critic import ActorCritic
    from modules.world_model.latents import CategoricalLatent
    from modules.world_model.world_model import WorldModel

    torch.manual_seed(0)
    observation = gym.spaces.Box(0, 255, (64, 64, 1), np.uint8) if s.image else gym.spaces.Box(-9, 9, (s.width,))
    trunk = partial(DenseStack, layers=s.layers)
    latent = partial(CategoricalLatent, groups=s.groups, classes=s.classes)
    sizes: dict[str, Any] = {"deter": s.deter, "hidden": s.hidden, "units": s.units, "depth": s.depth}
    model = partial(WorldModel, latent=latent, trunk=trunk, **sizes)
    rates = {"actor_lr": 8e-5, "critic_lr": 8e-5, "entropy": 1e-4}
    behaviour = partial(ActorCritic, trunk=trunk, units=s.units, horizon=s.horizon, **rates)  # type: ignore[arg-type]
    spaces = Spaces(observation, gym.spaces.Discrete(s.actions))
    return DreamerV2(spaces, model, behaviour, model_lr=3e-4, compile="off" if mode == "eager" else mode)  # type: ignore[arg-type]


def make_batch(s: Setting) -> Any:
    """Random windows in which some episodes end, and which begin with a first row, as sheeprl takes them to do."""
    import torch

    from modules.batch import SequenceBatch

    shape = s.window, s.batch
    pixels = (torch.rand(*shape, 64, 64, 1) * 256).byte()
    choices = torch.randint(s.actions, shape)
    first, terminated = torch.rand(2, *shape) < 0.02
    first[0] = True
    rows = pixels if s.image else torch.randn(*shape, s.width)
    truncated = torch.zeros(shape, dtype=torch.bool)
    return SequenceBatch({"observation": rows}, choices, torch.randn(shape), first, terminated, truncated)


def serve(settings: dict[str, Any]) -> None:
    """The work of one process of ours: describe itself, then answer each line read by the time of a round."""
    import torch
    from dreamer_start import first_update

    from modules.batch import SequenceBatch

    device, threads, mode = (settings.pop(name) for name in ("device", "threads", "version"))
    settings.pop("start")
    torch.set_num_threads(threads)
    mode, _, precision = mode.partition("/")
    torch.set_float32_matmul_precision("high" if precision else "highest")
    s = Setting(**settings)
    torch.manual_seed(0)
    agent, batch = make_agent(s, mode).to(device), make_batch(s)
    agent.configure_optimizers()
    batch = SequenceBatch(
        {"observation": batch.observation["observation"].to(device)}, *(x.to(device) for x in batch[1:])
    )
    trained = agent.world_model, agent.behaviour.actor, agent.behaviour.critic
    parameters = sum(p.numel() for network in trained for p in network.parameters())

    def cast() -> Any:
        return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")

    def update() -> None:
        with cast():
            agent.update(batch)

    with cast():
        told = first_update(agent, batch)
    for _ in range(5):
        update()  # compiles, and captures a graph after a few
    print(json.dumps({"parameters": parameters, "versions": {"torch": torch.__version__}, "told": told}), flush=True)
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(s.updates):
            update()
        if device == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps([1e3 * seconds / s.updates for seconds in spent]), flush=True)


class Worker:
    """A process that has one version ready and times it when asked."""

    def __init__(self, command: list[str], settings: dict[str, Any]) -> None:
        # Large blocks in huge pages, as every command of reverie sets it; one thread also where torch is not asked.
        variables = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_NUM_THREADS": str(settings["threads"])}
        self.command = [*command, json.dumps(settings)]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
        )
        self.facts: dict[str, Any] = self.answer()

    def answer(self) -> Any:
        """The next line that is JSON; libraries print too."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise SystemExit(f"a version ended by itself, with status {self.process.wait()}: {self.command}")

    def round(self) -> tuple[float, float]:
        """Milliseconds of an update: wall time and processor time."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        wall, cpu = self.answer()
        return wall, cpu


@contextmanager
def working(command: list[str], settings: dict[str, Any]) -> Iterator[Worker]:
    """A worker that ends with the block."""
    worker = Worker(command, settings)
    try:
        yield worker
    finally:
        worker.process.communicate()


def compare(s: Setting, options: argparse.Namespace) -> None:
    """Print a line per version, if their first updates from the same weights, batch and draws agree."""
    import torch
    from dreamer_start import write_start

    shared = {**asdict(s), "device": options.device, "threads": options.threads}
    if options.device == "cuda":
        shared["updates"] = 20
    mine = [sys.executable, __file__, "--serve"]
    commands = {told(version): (mine, version) for version in options.versions}
    if options.peer_python.exists():
        peer = [str(options.peer_python), str(HERE / "peers/dreamer_sheeprl.py")]
        commands |= {PEER: (peer, "eager")}
        if options.peer_compiled:
            commands |= {f"{PEER}, compiled": (peer, "compiled")}
    else:
        print(f"there is no {options.peer_python}: sheeprl is left out", file=sys.stderr)
    with ExitStack() as stack:
        shared["start"] = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "start.npz")
        torch.manual_seed(0)
        write_start(make_agent(s, "eager"), make_batch(s), Path(shared["start"]))
        workers = {
            name: stack.enter_context(working(command, {**shared, "version": version}))
            for name, (command, version) in commands.items()
        }
        told_by = {name: worker.facts["told"] for name, worker in workers.items()}
        precisions = {told(version): version.partition("/")[2] for version in options.versions}
        check_agreement(told_by, PEER if PEER in told_by else next(iter(told_by)), precisions)
        times: dict[str, list[Any]] = {name: [] for name in workers}
        for _ in range(options.rounds):
            for name, worker in workers.items():
                times[name].append(worker.round())
        report(s, options, {name: worker.facts for name, worker in workers.items()}, times)


def told(version: str) -> str:
    """Name of a version of ours in the table."""
    mode, _, precision = version.partition("/")
    return f"reverie, {'' if mode == 'eager' else 'compile: '}{mode}{PRECISIONS[precision]}"


def version(text: str) -> str:
    """A mode of `compile`, with a precision behind a slash or none."""
    mode, _, precision = text.partition("/")
    if mode not in MODES or precision not in PRECISIONS:
        raise argparse.ArgumentTypeError(f"{text!r}: one of {', '.join(MODES)}, alone or with /tf32 or /bf16")
    return text


def report(
    s: Setting, options: argparse.Namespace, facts: dict[str, dict[str, Any]], times: dict[str, list[Any]]
) -> None:
    """The lines; ratios are of neighbouring rounds."""
    base = PEER if PEER in times else next(iter(times))
    observed = "64x64x1 images" if s.image else f"vectors of {s.width}"
    title = (
        f"one DreamerV2 update, {s.title}: {s.batch} windows of {s.window}, {observed}, {s.actions} actions, recurrent "
        f"state {s.deter}, hidden {s.hidden}, {s.layers} layers of {s.units}, {s.groups}x{s.classes} latents, horizon "
        f"{s.horizon}, float32, {options.device_name}, {options.threads} thread{'s' * (options.threads > 1)}"
    )
    for name, values in times.items():
        ratios, cpu_ratios = ([b[i] / v[i] for b, v in zip(times[base], values, strict=True)] for i in (0, 1))
        versions = facts[name]["versions"]
        line = {
            "benchmark": title,
            "command": f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip(),
            "version": name.replace(PEER, f"{PEER} {versions.get(PEER)}"),
            "torch": versions["torch"],
            "parameters": facts[name]["parameters"],
            "ms_median": round(statistics.median(v[0] for v in values), 2),
            "cpu_ms_median": round(statistics.median(v[1] for v in values), 2),
            f"speedup_over_{base}_median": round(statistics.median(ratios), 3),
            "speedup_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
            "cpu_time_speedup_median": round(statistics.median(cpu_ratios), 3),
        }
        tell(line)


def main() -> None:
    """Time every version at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=["small", "medium"])
    parser.add_argument("--atari", action="store_const", const=["atari"], dest="settings", help="meant for GPUs")
    parser.add_argument(
        "--versions", nargs="+", type=version, help="of ours; update, which compiles for minutes, only if named"
    )
    parser.add_argument("--peer-python", type=Path, default=PEERS, help="python that has sheeprl")
    parser.add_argument(
        "--peer-compiled", action="store_true", help="also sheeprl with algo.compile.enabled, which takes minutes"
    )
    parser.add_argument("--serve", type=json.loads, metavar="SETTING", help="be one version, in this process")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if options.versions is None:
        options.versions = DEFAULTS[options.device]
    options.device_name = "cpu"
    if options.device == "cuda":
        import torch

        options.device_name = torch.cuda.get_device_name()
    for name in options.settings:
        compare(SETTINGS[name], options)


if __name__ == "__main__":
    main()
