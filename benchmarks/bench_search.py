"""Speed of the batched tree search, plain and compiled, against mctx with the same model, roots and draws.

    python benchmarks/bench_search.py
    python benchmarks/bench_search.py --rows 256 --simulations 16 --threads 2
    python benchmarks/bench_search.py --device cuda --versions eager compiled captured

mctx is no dependency of the project; it is timed if there is an environment for it:

    python -m venv .venv-mctx
    .venv-mctx/bin/python -m pip install mctx==0.0.71 "jax[cpu]==0.10.2"

The model is a small MLP, whose weights both sides read from one file and keep as layers of their library do. Before
anything is timed, both search the same roots with the draws that mctx makes, and a row is printed only if the visits of
every root are the same. Then every version, in a process of its own, takes its turn round by round. Prints one JSON
line per version. `cpu_ms` is processor time, which other programs on the machine disturb less than wall time. Compiling
takes a minute or more. On a GPU, jax multiplies in full float32, as torch does, and `captured` replays a search as one
CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from bench_dreamer import Worker, working
from measured_by import tell

HERE = Path(__file__).parent
PEER = HERE.parent / ".venv-mctx/bin/python"
LATENT, HIDDEN, ACTIONS, GAMMA = 64, 128, 6, 0.997
DEEPEST = {16: 8, 50: 16}
"""Edges of a path at most, by the number of simulations, on both sides."""
VERSIONS = ("eager", "compiled", "captured")


def write_problem(path: Path, rows: int) -> None:
    """A file with the model's weights and the roots."""
    rng = np.random.default_rng(0)

    def weight(inputs: int, outputs: int, gain: float = 1.0) -> np.ndarray:
        return (gain * rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)

    np.savez(
        path,
        dynamics=weight(LATENT + ACTIONS, HIDDEN),
        state=weight(HIDDEN, LATENT),
        reward=weight(HIDDEN, 1),
        trunk=weight(LATENT, HIDDEN),
        head=weight(HIDDEN, ACTIONS + 1),
        logits=rng.normal(size=(rows, ACTIONS)).astype(np.float32),
        value=rng.normal(size=rows).astype(np.float32),
        embedding=rng.uniform(-1, 1, size=(rows, LATENT)).astype(np.float32),
    )


def serve(s: dict[str, Any]) -> None:
    """The work of one process of ours: tell the visits of mctx's draws, then time one round per line."""
    import torch
    from torch import Tensor
    from torch.nn.functional import linear

    from modules.agent.captured import CapturedUpdate
    from modules.search.interface import Noise, Root, SearchResult, Step
    from modules.search.rules import PUCT, Gumbel
    from modules.search.search import compile_simulation, draw_noise, search
    from modules.search.settings import SearchSettings
    from modules.search.simulation import simulate

    torch.set_num_threads(s["threads"])
    problem = {name: torch.from_numpy(x).to(s["device"]) for name, x in np.load(s["problem"]).items()}
    layers = ("dynamics", "state", "reward", "trunk", "head")
    dynamics, state_of, reward_of, trunk, head_of = (problem[name].t().contiguous() for name in layers)

    def recurrent(embedding: Tensor, action: Tensor, noise: Any) -> Step:
        taken = torch.nn.functional.one_hot(action, ACTIONS).to(embedding.dtype)
        hidden = torch.relu(linear(torch.cat([embedding, taken], 1), dynamics))
        state = torch.tanh(linear(hidden, state_of))
        head = linear(torch.relu(linear(state, trunk)), head_of)
        reward = linear(hidden, reward_of).squeeze(1)
        return Step(reward, torch.full_like(reward, GAMMA), head[:, :ACTIONS], head[:, ACTIONS], state)

    rule = Gumbel() if s["rule"] == "gumbel" else PUCT()
    settings = SearchSettings(s["simulations"], s["deepest"], rule=rule)
    root = Root(problem["logits"], problem["value"], problem["embedding"])
    step = compile_simulation() if s["version"] == "compiled" else simulate
    generator = torch.Generator(s["device"]).manual_seed(0)

    def searched(noise: Noise) -> SearchResult:
        return search(root, recurrent, settings, noise=noise, simulate=step)

    once = CapturedUpdate(searched, lambda: None) if s["version"] == "captured" else searched
    given = Noise(root=torch.from_numpy(np.load(s["noise"])).to(s["device"]))
    for _ in range(4):
        found = once(given)
        once(draw_noise(root, settings, generator))
    facts = {"visits": found.visits.int().tolist(), "depth": float(found.depth.float().mean())}
    print(json.dumps(facts | {"versions": {"torch": torch.__version__}}), flush=True)
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(s["repeats"]):
            once(draw_noise(root, settings, generator))
        if s["device"] == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps([1e3 * seconds / s["repeats"] for seconds in spent]), flush=True)


def compare(rows: int, simulations: int, options: argparse.Namespace) -> None:
    """Print a line per version, if all found the same visits."""
    deepest = options.deepest or DEEPEST.get(simulations, simulations)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_problem(folder / "problem.npz", rows)
        shared = {
            "rule": options.rule, "simulations": simulations, "deepest": deepest, "threads": options.threads,
            "device": options.device, "repeats": max(8, 512 // rows), "gamma": GAMMA,
            "problem": str(folder / "problem.npz"), "noise": str(folder / "noise.npy"),
        }  # fmt: skip
        peer = [str(options.peer_python), str(HERE / "peers/mctx_speed.py")]
        workers = {"mctx": stack.enter_context(working(peer, shared))}
        for version in options.versions:
            settings = {**shared, "version": version}
            workers[f"reverie, {version}"] = stack.enter_context(
                working([sys.executable, __file__, "--serve"], settings)
            )
        visits = {name: worker.facts["visits"] for name, worker in workers.items()}
        differing = [name for name, found in visits.items() if found != visits["mctx"]]
        if differing:
            raise SystemExit(f"B = {rows}, S = {simulations}: {', '.join(differing)} found other visits than mctx")
        times: dict[str, list[Any]] = {name: [] for name in workers}
        for _ in range(options.rounds):
            for name, worker in workers.items():
                times[name].append(worker.round())
        report(rows, simulations, deepest, options, workers, times)


def report(
    rows: int,
    simulations: int,
    deepest: int,
    options: argparse.Namespace,
    workers: dict[str, Worker],
    times: dict[str, list[Any]],
) -> None:
    """The lines; ratios are of neighbouring rounds."""
    title = (
        f"tree search, {options.rule}, {ACTIONS} actions, latent {LATENT}, hidden {HIDDEN}, float32, "
        f"{options.device_name}, {options.threads} thread{'s' * (options.threads > 1)}; visits of all roots equal"
    )
    ours = next(worker for name, worker in workers.items() if name != "mctx")
    for name, values in times.items():
        ratios, cpu_ratios = ([b[i] / v[i] for b, v in zip(times["mctx"], values, strict=True)] for i in (0, 1))
        wall = statistics.median(v[0] for v in values)
        version = workers[name].facts["versions"]
        line = {
            "benchmark": title,
            "command": f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip(),
            "simulations": simulations,
            "rows": rows,
            "version": name.replace("mctx", f"mctx {version.get('mctx')}"),
            "library": ", ".join(f"{key} {value}" for key, value in version.items() if key != "mctx"),
            "deepest path": deepest,
            "mean depth": round(ours.facts["depth"], 1),
            "ms_median": round(wall, 3),
            "cpu_ms_median": round(statistics.median(v[1] for v in values), 3),
            "decisions_per_s": round(1e3 * rows / wall),
            "speedup_over_mctx_median": round(statistics.median(ratios), 3),
            "speedup_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
            "cpu_time_speedup_median": round(statistics.median(cpu_ratios), 3),
        }
        tell(line)


def main() -> None:
    """Time every version at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 64, 256], help="roots that are searched together")
    parser.add_argument("--simulations", nargs="+", type=int, default=[16, 50])
    parser.add_argument("--deepest", type=int, help="edges of a path at most; else 8 for 16 simulations, 16 for 50")
    parser.add_argument("--rule", choices=["gumbel", "puct"], default="gumbel")
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=["eager", "compiled"], help="of ours")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-python", type=Path, default=PEER, help="python that has mctx")
    parser.add_argument("--serve", type=json.loads, metavar="SETTING", help="be one version, in this process")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if not options.peer_python.exists():
        parser.error(f"there is no {options.peer_python}; make it as the head of this file says, or name --peer-python")
    options.device_name = "cpu"
    if options.device == "cuda":
        import torch

        options.device_name = torch.cuda.get_device_name()
    for simulations in options.simulations:
        for rows in options.rows:
            compare(rows, simulations, options)


if __name__ == "__main__":
    main()
