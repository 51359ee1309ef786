"""A cue of 4 that is asked for after 100 steps of noise: the core of two timescales beside LSTMs of as many parameters.

    python benchmarks/bench_two_timescale.py [--kinds two-timescales lstm lstm-span] [--seeds 0 1 2] [--updates 3000]
    python benchmarks/bench_two_timescale.py --reach    # draws how far back fresh ones learn, trains nothing

Supervised, so that nothing but the memory is measured: each update is of 64 new sequences, with a cross-entropy at
their end alone. All have the same learning rate and clip. A run ends where three evaluations in a row, on new
sequences, have at least 95%, or after the updates. Adds to `benchmarks/results/two_timescale-<kind>.json`, from which
`benchmarks/report.py` makes the table. It may be cut anywhere: a run that was cut goes on from its last evaluation,
below `runs/benchmarks`; remove that, and the run in the file, to run it again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import two_timescale_results
from measured_by import RESULTS, origin, processor
from torch import Tensor, nn

from callbacks.files.written_aside import written_aside
from modules.networks.auxiliary_losses import collecting
from modules.networks.recurrent import LSTM, Memory
from modules.networks.two_timescale import TwoTimescale

CUES, BITS, DELAY = 4, 4, 100
BATCH, LR, CLIP = 64, 5e-3, 1.0
EVERY, SEQUENCES, GOAL, IN_A_ROW = 50, 256, 0.95, 3
SPAN = 20
WIDTH = CUES + BITS + 1
FOLDER = Path("runs/benchmarks/two_timescale")


def core() -> TwoTimescale:
    """Units of 32 and latents of 32, of which the slow one ticks every 10 steps."""
    return TwoTimescale(WIDTH, 32, 32, tau=10, span=SPAN)


def matched(span: int | None) -> LSTM:
    """The LSTM whose number of parameters is nearest to the core's."""
    wanted = size(core())
    return LSTM(WIDTH, min(range(8, 256), key=lambda width: abs(size(LSTM(WIDTH, width)) - wanted)), span)


def size(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


KINDS: dict[str, Callable[[], Memory]] = {
    "two-timescales": core,
    "lstm": lambda: matched(None),
    "lstm-span": lambda: matched(SPAN),
}


class Classifier(nn.Module):
    """A memory, and a linear layer on what it gives at the end."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self.head = nn.Linear(memory.width, CUES)

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """`[T, B, D]` sequences to logits `[B, CUES]`; without noise, by means of the latents."""
        is_first = torch.zeros(x.shape[:2], dtype=torch.bool)
        is_first[0] = True
        start = x.new_zeros(x.shape[1], self.memory.state_width)
        output, _ = self.memory(x, is_first, start, *(() if noise is None else (noise,)))
        return self.head(output[-1])


def sequences(count: int) -> tuple[Tensor, Tensor]:
    """`[T, count, D]` sequences with noise of -1 and 1 at all times, and the cue of each."""
    cue = torch.randint(CUES, (count,))
    x = torch.zeros(DELAY + 2, count, WIDTH)
    x[0, torch.arange(count), cue] = 1.0
    x[:, :, CUES:-1] = 2.0 * torch.randint(2, (DELAY + 2, count, BITS)) - 1.0
    x[-1, :, -1] = 1.0
    return x, cue


def update(model: Classifier, optimizer: torch.optim.Optimizer) -> None:
    """Learn from new sequences."""
    x, cue = sequences(BATCH)
    width = model.memory.noise_width
    noise = torch.randn(len(x), BATCH, width) if width else None
    with collecting(model) as auxiliary:
        loss = F.cross_entropy(model(x, noise), cue)
    for name, weight in auxiliary.weights.items():
        loss = loss + weight * auxiliary.losses[name]
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()


@torch.no_grad()
def accuracy(model: Classifier, count: int) -> float:
    """Share of new sequences whose cue is told."""
    x, cue = sequences(count)
    return (model(x, None).argmax(-1) == cue).float().mean().item()


def run(kind: str, seed: int, updates: int) -> dict[str, Any]:
    """Train one seed, from where it was cut."""
    torch.manual_seed(seed)
    model = Classifier(KINDS[kind]())
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    kept = FOLDER / f"{kind}-{seed}.pt"
    rows: list[dict[str, float]] = []
    seconds = 0.0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        rows, seconds = state["rows"], state["seconds"]
    while len(rows) * EVERY < updates and not solved(rows):
        began = time.process_time()
        for _ in range(EVERY):
            update(model, optimizer)
        rows.append({"updates": (len(rows) + 1) * EVERY, "accuracy": round(accuracy(model, SEQUENCES), 4)})
        seconds += time.process_time() - began
        print(kind, seed, rows[-1], f"{seconds:.0f} s of the processor", flush=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(kept) as aside:
            torch.save({**state, "rows": rows, "seconds": seconds}, aside)
    last = round(accuracy(model, 4 * SEQUENCES), 4)
    when = datetime.date.today().isoformat()
    return {"seed": seed, "rows": rows, "last": last, "seconds": round(seconds), "date": when}


def reach(memory: Memory) -> list[float]:
    """`[T]` norms of the gradient of the last output, in the input of each row, over `BATCH` sequences."""
    x, _ = sequences(BATCH)
    x.requires_grad_()
    is_first = torch.zeros(x.shape[:2], dtype=torch.bool)
    output, _ = memory(x, is_first, x.new_zeros(BATCH, memory.state_width))
    (gradient,) = torch.autograd.grad(output[-1].sum(), x)
    return gradient.flatten(1).norm(dim=1).tolist()


def draw_reach() -> None:
    """Write the figure of the documentation."""
    torch.manual_seed(0)
    label = {"two-timescales": "two timescales, tau 10", "lstm": "LSTM", "lstm-span": f"LSTM, span {SPAN}"}
    found = {label[kind]: reach(make()) for kind, make in KINDS.items()}
    two_timescale_results.draw_reach(found, RESULTS.parents[1] / "docs/figures/two_timescale_reach.png")


def solved(rows: list[dict[str, float]]) -> bool:
    """Whether the newest evaluations are all at the goal."""
    newest = rows[-IN_A_ROW:]
    return len(newest) == IN_A_ROW and all(row["accuracy"] >= GOAL for row in newest)


def main() -> None:
    """Train what is asked for and not there yet, and write each kind's file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--reach", action="store_true", help="draw the gradients of fresh memories instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.reach:
        draw_reach()
        return
    for seed in options.seeds:
        for kind in options.kinds:
            path = RESULTS / f"two_timescale-{kind}.json"
            content = json.loads(path.read_text()) if path.exists() else {"runs": []}
            if any(found["seed"] == seed for found in content["runs"]):
                continue
            content["runs"].append(run(kind, seed, options.updates))
            content["runs"].sort(key=lambda found: found["seed"])
            content |= {
                "parameters": size(KINDS[kind]()),
                "updates": options.updates,
                "processor": processor(),
                "origin": origin(),
            }
            with written_aside(path) as aside:
                aside.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
