"""Updates per second of the offline algorithms, against those of d3rlpy at the same sizes.

    python benchmarks/bench_offline.py [--threads 1] [--rounds 9]
    python benchmarks/bench_offline.py --device cuda

d3rlpy is no dependency of the project; it is timed if there is an environment for it:

    python -m venv .venv-peers
    .venv-peers/bin/python -m pip install torch==2.14.1 d3rlpy==2.8.1

Before anything is timed d3rlpy records two updates of each algorithm at the sizes that are timed, and an algorithm is
timed only if ours, from the same weights, batches and draws, has the same losses and ends at the same weights, by the
tests that compare the two; and if its compiled form says the same of a first update as the eager one. ATAC, which
d3rlpy does not have, stands beside them without a ratio. Cloning is of numbered actions, where both minimise the same
loss. Every version has a process of its own; they take turns, round by round, and each is compared with d3rlpy's round
next to it. Data are random, of HalfCheetah's size, and made beforehand. Prints one JSON line per version. `cpu_ms` is
processor time, which other programs on the machine disturb less than wall time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agreement import check_agreement
from bench_dreamer import working
from measured_by import tell

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers/bin/python"
NO_TESTS = 5
"""Exit status of pytest that has selected nothing."""


@dataclass(frozen=True)
class Setting:
    """Sizes of an update."""

    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)
    width: int = 17
    actions: int = 6


@dataclass(frozen=True)
class Algorithm:
    """A class of ours by its place, and another library's name for its like, if it has one.

    `arguments` of ours make the update that the library does by default; `discrete` is for numbered actions; `updates`
    are timed together.
    """

    module: str
    name: str
    peer: str | None
    arguments: dict[str, Any] = field(default_factory=dict)
    discrete: bool = False
    updates: int = 50
    library: str = "d3rlpy"


ALGORITHMS = {
    "cloning": Algorithm("behavior_cloning", "BehaviorCloning", "discrete_bc", discrete=True),
    "td3_bc": Algorithm("td3_bc", "TD3BC", "td3_plus_bc"),
    "iql": Algorithm("iql", "IQL", "iql"),
    "cql": Algorithm("cql", "CQL", "cql", {"multiplier": {"threshold": 10.0}}, updates=10),
    "atac": Algorithm("atac", "ATAC", None),
}


def make_update(s: dict[str, Any]) -> tuple[Callable[[], dict[str, Any]], int, int]:
    """A function that does one whole update of ours, and the numbers of parameters that it trains, and of members."""
    import gymnasium as gym
    import numpy as np
    import torch

    from modules.agent.multiplier import Constraint
    from modules.agent.warm_start import WarmStart
    from modules.batch import Spaces, Transition

    torch.manual_seed(0)
    n = s["actions"]
    space = gym.spaces.Discrete(n) if s["discrete"] else gym.spaces.Box(-1.0, 1.0, (n,))
    spaces = Spaces(gym.spaces.Box(-np.inf, np.inf, (s["width"],)), space)
    algorithm = getattr(importlib.import_module(f"modules.algorithms.{s['module']}"), s["name"])
    # Without a warm start: the update that ATAC does for most of a run.
    arguments = s["arguments"] | ({"warm_start": WarmStart(0)} if s["name"] == "ATAC" else {})
    if "multiplier" in arguments:
        arguments["multiplier"] = Constraint(**arguments["multiplier"])
    agent = algorithm(spaces, hidden=list(s["hidden"]), **arguments).to(s["device"])
    agent.compile_mode = "update" if s["version"] == "compiled" else "off"
    optimizers = agent.configure_optimizers()

    g = torch.Generator().manual_seed(0)
    rows = s["batch"] * agent.population.minibatches
    actions = torch.tanh(torch.randn(rows, n, generator=g))
    if s["discrete"]:
        actions = torch.randint(n, (rows,), generator=g)
    batch = [torch.randn(rows, s["width"], generator=g), actions]
    batch += [torch.randn(rows, generator=g), torch.randn(rows, s["width"], generator=g)]
    batch += [torch.rand(rows, generator=g) < 0.02, torch.zeros(rows, dtype=torch.bool)]
    transition = Transition(*(x.to(s["device"]) for x in batch))

    def update() -> dict[str, Any]:
        found = agent.update(transition).metrics
        agent.advance()
        return found

    trained = {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return update, sum(p.numel() for p in trained), len(agent.population)


def serve(s: dict[str, Any]) -> None:
    """The work of one process of ours: describe itself, then answer each line read by the time of a round."""
    import torch

    torch.set_num_threads(s["threads"])
    update, parameters, members = make_update(s)
    told = {name: float(x.float().mean()) for name, x in update().items()}
    for _ in range(10):
        update()  # compiles, once for every kind of update
    facts = {"parameters": parameters, "members": members, "versions": {"torch": torch.__version__}, "told": told}
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(s["updates"]):
            update()
        if s["device"] == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps([1e3 * seconds / s["updates"] for seconds in spent]), flush=True)


def record(library: str, python: Path, folder: Path) -> None:
    """Let a library record updates at the sizes that are timed into a folder, for the tests that compare ours.

    Raises:
        subprocess.CalledProcessError: it could not.
    """
    s, place = Setting(), folder / library
    place.mkdir()
    sizes = {"observation": s.width, "action": s.actions, "choices": s.actions, "batch": s.batch, "hidden": s.hidden}
    subprocess.run(
        [str(python), str(HERE / f"peers/{library}_updates.py"), str(place)],
        check=True, stdout=sys.stderr, env={**os.environ, "RECORDED_SIZES": json.dumps(sizes)},
    )  # fmt: skip


def obstacle(algorithm: Algorithm, recorded: Path | None) -> str | None:
    """Why an algorithm is not to be timed: it is not there, or no test shows that its update is the library's.

    Args:
        algorithm: it is compared with the library's update in `recorded`, at the sizes that are timed.
        recorded: folder of `record`; None where the library is not there, for the updates that are committed.
    """
    if not (HERE.parent / f"modules/algorithms/{algorithm.module}.py").exists():
        return f"there is no modules/algorithms/{algorithm.module}.py"
    if algorithm.peer is None:
        return None
    files = [str(path) for path in sorted((HERE.parent / "tests/modules/algorithms").glob(f"test_{algorithm.module}*"))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", algorithm.library, *files]
    where = {} if recorded is None else {"REVERIE_RECORDED": str(recorded)}
    tested = subprocess.run(command, cwd=HERE.parent, stdout=sys.stderr, env={**os.environ, **where})
    if not files or (status := tested.returncode) == NO_TESTS:
        return f"no test compares its update with {algorithm.library}'s"
    return None if status == 0 else f"its update is not {algorithm.library}'s, see the tests above"


def compare(title: str, algorithm: Algorithm, options: argparse.Namespace) -> None:
    """Time one algorithm and print a line per version."""
    library = algorithm.library
    shared = {**asdict(Setting()), **asdict(algorithm), "algorithm": algorithm.peer}
    shared |= {"device": options.device, "threads": options.threads}
    mine = [sys.executable, __file__, "--serve"]
    commands = {"reverie, eager": (mine, "eager"), "reverie, compiled": (mine, "compiled")}
    if algorithm.peer is not None and options.peer_python.exists():
        peer = [str(options.peer_python), str(HERE / f"peers/{library}_speed.py")]
        commands[library] = (peer, "eager")
        if options.device == "cuda" and library == "d3rlpy":  # which compiles into CUDA graphs alone
            commands[f"{library}, compiled"] = (peer, "compiled")
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(working(command, {**shared, "version": version}))
            for name, (command, version) in commands.items()
        }
        told = {name: worker.facts["told"] for name, worker in workers.items() if "told" in worker.facts}
        check_agreement(told, "reverie, eager", {})
        times: dict[str, list[Any]] = {name: [] for name in workers}
        for _ in range(options.rounds):
            for name, worker in workers.items():
                times[name].append(worker.round())
        report(title, library, options, {name: worker.facts for name, worker in workers.items()}, times)


def report(
    title: str, library: str, options: argparse.Namespace, facts: dict[str, dict[str, Any]], times: dict[str, list[Any]]
) -> None:
    """The lines; ratios are of neighbouring rounds, and an update of several members counts as theirs all."""
    s = Setting()
    benchmark = (
        f"one update of {options.kind}, batch {s.batch}, networks {'x'.join(map(str, s.hidden))}, {s.width} "
        f"numbers seen, {s.actions} actions, float32, {options.device_name}, {options.threads} thread"
        f"{'s' * (options.threads > 1)}"
    )
    for name, values in times.items():
        members = facts[name].get("members", 1)
        line = {
            "benchmark": benchmark,
            "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
            "algorithm": title,
            "version": name.replace(library, f"{library} {facts[name]['versions'].get(library)}"),
            "torch": facts[name]["versions"]["torch"],
            "parameters": facts[name]["parameters"],
            "updates_per_second": round(1e3 * members / statistics.median(v[0] for v in values), 1),
            "ms_median": round(statistics.median(v[0] for v in values), 3),
            "cpu_ms_median": round(statistics.median(v[1] for v in values), 3),
        }
        if library in times:
            ratios, cpu_ratios = (
                [members * b[i] / v[i] for b, v in zip(times[library], values, strict=True)] for i in (0, 1)
            )
            line[f"speedup_over_{library}_median"] = round(statistics.median(ratios), 3)
            line["speedup_min_max"] = [round(min(ratios), 3), round(max(ratios), 3)]
            line["cpu_time_speedup_median"] = round(statistics.median(cpu_ratios), 3)
        tell(line)


def main() -> None:
    """Time every algorithm that is shown to be d3rlpy's."""
    run(__doc__, "offline algorithms", ALGORITHMS, PEERS)


def run(about: str | None, kind: str, algorithms: dict[str, Algorithm], peers: Path) -> None:
    """Time the algorithms that the command line names and that are shown to be their library's.

    Args:
        about: text of the command's help.
        kind: kind of algorithms, for the title of the table.
        algorithms: by title.
        peers: python that has the library, if it is there.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--algorithms", nargs="+", choices=list(algorithms), default=list(algorithms))
    parser.add_argument("--peer-python", type=Path, default=peers, help="python that has the other library")
    parser.add_argument("--serve", type=json.loads, metavar="SETTING", help="be one version, in this process")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    options.kind, options.device_name = kind, "cpu"
    if options.device == "cuda":
        import torch

        options.device_name = torch.cuda.get_device_name()
    if not options.peer_python.exists():
        print(f"there is no {options.peer_python}: the other library is left out", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        recorded = Path(name) if options.peer_python.exists() else None
        if recorded is not None:
            for library in sorted({algorithms[title].library for title in options.algorithms}):
                record(library, options.peer_python, recorded)
        for title in options.algorithms:
            reason = obstacle(algorithms[title], recorded)
            if reason is None:
                compare(title, algorithms[title], options)
            else:
                print(f"{title} is left out: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
