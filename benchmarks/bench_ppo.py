"""Updates and steps of collection per second of PPO, against those of stable-baselines3 at the same sizes.

    python benchmarks/bench_ppo.py [--threads 1] [--rounds 9]

stable-baselines3 is no dependency of the project; it is timed if there is an environment for it:

    python -m venv .venv-peers
    .venv-peers/bin/python -m pip install torch==2.14.1 stable-baselines3==2.9.2

Nothing is timed unless the test that compares a whole update with stable-baselines3's passes in the same run, and the
compiled form says the same of a first update as the eager one. An update is 10 passes of 16 minibatches over 1,024
steps of 8 environments, of vectors and 2 numbered actions; a policy and a value have two layers of 64 each. Collection
is of the same steps on CartPole, with what the agent acts by, and what is stored. Ours computes values and advantages
in the update, stable-baselines3 while it collects.

Every version has a process of its own; they take turns, round by round, and each is compared with stable-baselines3's
round next to it. Prints one JSON line per version. `cpu_ms` is processor time, which other programs on the machine
disturb less than wall time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agreement import check_agreement
from bench_dreamer import working
from measured_by import tell

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers/bin/python"
PEER = "stable-baselines3"
TEST = "tests/modules/algorithms/test_ppo_update.py"


@dataclass(frozen=True)
class Setting:
    """Sizes of an update, and how many are timed together."""

    width: int = 4
    actions: int = 2
    hidden: int = 64
    environments: int = 8
    steps: int = 128
    passes: int = 10
    minibatches: int = 16
    rounds_of: int = 2


WHAT = {"update": ("eager", "compiled"), "collection": ("eager",)}
"""The two things that are timed, each with the versions of ours."""


def make_agent(s: dict[str, Any]) -> Any:
    """Our agent of these sizes."""
    from functools import partial

    import gymnasium as gym
    import numpy as np

    from modules.algorithms.ppo import PPO
    from modules.batch import Spaces
    from modules.networks.blocks import DenseStack

    spaces = Spaces(gym.spaces.Box(-np.inf, np.inf, (s["width"],)), gym.spaces.Discrete(s["actions"]))
    return PPO(
        spaces, trunk=partial(DenseStack, layers=1, activation="tanh"), units=s["hidden"], separate=True,
        passes=s["passes"], minibatches=s["minibatches"], compile="step" if s["version"] == "compiled" else "off",
    )  # fmt: skip


def make_update(agent: Any, s: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """A function that does one whole update of ours."""
    import torch

    from modules.batch import SequenceBatch, StoredWindows

    g = torch.Generator().manual_seed(0)
    shape = s["steps"] + 1, s["environments"]
    first = torch.zeros(shape, dtype=torch.bool)
    first[0] = True
    terminated = torch.zeros_like(first)
    rows = SequenceBatch(
        {"observation": torch.randn(*shape, s["width"], generator=g)},
        torch.randint(s["actions"], shape, generator=g), torch.randn(shape, generator=g), first, terminated, terminated,
    )  # fmt: skip
    batch = StoredWindows(rows, torch.full((*shape, 1), 1.0 / s["actions"]).log())

    def update() -> dict[str, Any]:
        found: dict[str, Any] = agent.update(batch).metrics
        agent.advance()
        return found

    return update


def make_collection(agent: Any, s: dict[str, Any], folder: Path) -> Callable[[], None]:
    """A function that collects the steps of one batch, and stores them."""
    from datamodules.envs.make import EnvironmentSpec
    from datamodules.envs.restarting import Protection
    from datamodules.played.collector import Collector
    from datamodules.played.fields import field_of, observation_fields
    from datamodules.played.inline import CHUNK
    from datamodules.played.policies import AgentPolicy
    from datamodules.played.setting import make_environments
    from datamodules.replay.sequences import LatestWindows
    from datamodules.replay.streams import ReplaySettings

    spec, count = EnvironmentSpec("CartPole-v1"), s["environments"]
    made = make_environments(spec, count, vectorization="sync", seed=0, protection=Protection())
    collector, policy = Collector(made, spec.id, 0), AgentPolicy(agent, count)
    settings = ReplaySettings(
        folder, observation_fields(agent.spaces.observation), field_of(agent.spaces.action, "action"), streams=count,
        capacity=4 * s["steps"], margin=2 * s["steps"], batch_size=count, length=s["steps"] + 1, stored_width=1,
    )  # fmt: skip
    replay = LatestWindows(settings)

    def collect() -> None:
        wanted = collector.steps + s["steps"] * count
        while collector.steps < wanted:
            rows = -(-(wanted - collector.steps) // count)
            replay.extend(collector.collect(min(CHUNK, rows), policy))
        replay.sample()

    return collect


def serve(s: dict[str, Any]) -> None:
    """The work of one process of ours: describe itself, then answer each line read by the time of a round."""
    import torch

    torch.set_num_threads(s["threads"])
    torch.manual_seed(0)
    agent = make_agent(s)
    with tempfile.TemporaryDirectory() as folder:
        facts: dict[str, Any] = {"versions": {"torch": torch.__version__}}
        work: Callable[[], Any]
        if s["what"] == "update":
            work = make_update(agent, s)
            facts["told"] = {name: float(x.float().mean()) for name, x in work().items()}
        else:
            work = make_collection(agent, s, Path(folder))
        for _ in range(3):
            work()
        print(json.dumps(facts | {"parameters": sum(p.numel() for p in agent.parameters())}), flush=True)
        for _ in sys.stdin:
            begun, cpu = time.perf_counter(), time.process_time()
            for _ in range(s["rounds_of"]):
                work()
            spent = time.perf_counter() - begun, time.process_time() - cpu
            print(json.dumps([1e3 * seconds / s["rounds_of"] for seconds in spent]), flush=True)


def compare(what: str, options: argparse.Namespace) -> None:
    """Time updates or collection, and print a line per version."""
    shared = {**asdict(Setting()), "what": what, "threads": options.threads}
    mine = [sys.executable, __file__, "--serve"]
    commands = {f"reverie, {version}": (mine, version) for version in WHAT[what]}
    if options.peer_python.exists():
        commands[PEER] = ([str(options.peer_python), str(HERE / "peers/stable_baselines3_ppo_speed.py")], "eager")
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
        report(what, options, {name: worker.facts for name, worker in workers.items()}, times)


def report(
    what: str, options: argparse.Namespace, facts: dict[str, dict[str, Any]], times: dict[str, list[Any]]
) -> None:
    """The lines; ratios are of neighbouring rounds."""
    s = Setting()
    steps = s.environments * s.steps
    work = f"{s.passes} passes of {s.minibatches} minibatches" if what == "update" else "CartPole"
    benchmark = (
        f"PPO, one {what} of {steps} steps of {s.environments} environments, {work}, two layers of {s.hidden} for "
        f"policy and value each, float32, cpu, {options.threads} thread{'s' * (options.threads > 1)}"
    )
    for name, values in times.items():
        per_second = 1e3 / statistics.median(v[0] for v in values)
        rate = {"updates_per_second": round(per_second, 2)} if what == "update" else {
            "steps_per_second": round(steps * per_second)
        }  # fmt: skip
        line = {
            "benchmark": benchmark,
            "command": f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip(),
            "version": name.replace(PEER, f"{PEER} {facts[name]['versions'].get(PEER)}"),
            "torch": facts[name]["versions"]["torch"],
            "parameters": facts[name]["parameters"],
            **rate,
            "ms_median": round(statistics.median(v[0] for v in values), 3),
            "cpu_ms_median": round(statistics.median(v[1] for v in values), 3),
        }
        if PEER in times:
            ratios, cpu_ratios = ([b[i] / v[i] for b, v in zip(times[PEER], values, strict=True)] for i in (0, 1))
            line[f"speedup_over_{PEER}_median"] = round(statistics.median(ratios), 3)
            line["speedup_min_max"] = [round(min(ratios), 3), round(max(ratios), 3)]
            line["cpu_time_speedup_median"] = round(statistics.median(cpu_ratios), 3)
        tell(line)


def main() -> None:
    """Time both, if the updates agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peer-python", type=Path, default=PEERS, help="python that has stable-baselines3")
    parser.add_argument("--serve", type=json.loads, metavar="SETTING", help="be one version, in this process")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST]
    if subprocess.run(command, cwd=HERE.parent, stdout=sys.stderr).returncode:
        sys.exit("nothing is timed: an update is not that of stable-baselines3, see the tests above")
    if not options.peer_python.exists():
        print(f"there is no {options.peer_python}: {PEER} is left out", file=sys.stderr)
    for what in WHAT:
        compare(what, options)


if __name__ == "__main__":
    main()
