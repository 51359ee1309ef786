"""Time and peak memory of a window through an external memory: the factors of each step against a matrix for each.

    python benchmarks/bench_memory.py [--rows 1350] [--moment 200] [--steps 20] [--batch 8] [--heads 3]

Each form runs in a process of its own, one thread, forward and backward, five times after one that warms up; peak
memory is what the process had at most, less what it had before the first window. Nothing is written unless the norms of
their gradients agree. The size is that of Wayne et al. 2018
(https://arxiv.org/abs/1803.10760): 1350 rows of 400 numbers, windows of 20 steps. Writes
`benchmarks/results/bench_memory.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from agreement import check_agreement
from measured_by import RESULTS, origin, processor

from callbacks.files.written_aside import written_aside
from modules.networks.memory import MemoryLSTM

FORMS = ("factors", "matrices")
WIDTH = 256


def measure(form: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of a window in this process, and the norm of its gradient."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    memory = MemoryLSTM(WIDTH, WIDTH, options.rows, options.moment, options.heads)
    x = torch.randn(options.steps, options.batch, WIDTH)
    first = torch.zeros(options.steps, options.batch, dtype=torch.bool)
    state = torch.zeros(options.batch, memory.state_width)
    before, seconds, norm = peak(), [], 0.0
    for _ in range(6):
        started = time.perf_counter()
        output, _ = memory(x, first, state, plain=form == "matrices")
        gradients = torch.autograd.grad(output.square().mean(), list(memory.parameters()))
        seconds.append(time.perf_counter() - started)
        norm = float(torch.stack([g.norm() for g in gradients]).norm())
    return {"seconds": statistics.median(seconds[1:]), "bytes": peak() - before, "norm": norm}


def peak() -> int:
    """Bytes that the process has had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure both forms, and write the table's numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 1350, "moment": 200, "steps": 20, "batch": 8, "heads": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--form", choices=FORMS, help="measure this one here, and print its numbers")
    options = parser.parse_args()
    if options.form is not None:
        print(json.dumps(measure(options.form, options)))
        return
    title = {
        "benchmark": "A window of an external memory, forward and backward",
        "processor": processor(),
        "origin": origin(),
    }
    shared = title | {name: value for name, value in vars(options).items() if name != "form"}
    lines: list[dict[str, Any]] = []
    norms: dict[str, float] = {}
    for form in FORMS:
        sizes = {name: value for name, value in vars(options).items() if name != "form"}
        told = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
        command = [sys.executable, __file__, "--form", form, *told]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        norms[form] = found["norm"]
        check_agreement({name: {"the gradient's norm": norm} for name, norm in norms.items()}, FORMS[0], {})
        megabytes = round(found["bytes"] / 1e6)
        lines.append({**shared, "form": form, "seconds": round(found["seconds"], 2), "MB": megabytes})
        print(json.dumps(lines[-1]), flush=True)
    with written_aside(RESULTS / "bench_memory.jsonl") as aside:
        aside.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
