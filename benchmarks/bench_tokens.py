"""Time of rollouts of a video model of tokens: with its cache of keys and values, and with all positions anew.

    python benchmarks/bench_tokens.py [--repeats 5] [--device cpu]

Two sizes: the board of Catch in columns, 16 games at once for 9 steps; images of 64 x 64 x 3 in patches of 8 x 8, 4
games for 3 steps. Both forms make the same rollouts of a model that has learned nothing, from the same draws, in turns
after one of each that warms up; frames, rewards and ends are compared before anything is timed. Seconds are medians on
one thread, CPU seconds where it runs on a CPU. Writes `benchmarks/results/bench_tokens.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from measured_by import RESULTS, origin, processor
from torch import Tensor

from callbacks.files.written_aside import written_aside
from modules.networks.causal_transformer import CausalTransformer
from modules.networks.token_video import TokenVideo
from modules.networks.tokens import ImageTokenizer
from modules.networks.video_model import Foreseen

ACTIONS = 3


class Size(NamedTuple):
    """One size of the benchmark: shapes, the parts of a model, how many games and how many steps."""

    shape: tuple[int, int, int]
    patch: tuple[int, int]
    width: int
    layers: int
    games: int
    steps: int


SIZES = {
    "Catch": Size((10, 5, 1), (10, 1), 64, 2, 16, 9),
    "64 x 64 x 3": Size((64, 64, 3), (8, 8), 128, 4, 4, 3),
}


def make_model(size: Size) -> TokenVideo:
    """A model of this size whose window holds the whole rollout, so that both forms see the same positions."""
    tokenizer = partial(ImageTokenizer, patch=size.patch, layers=0, levels=2)
    transformer = partial(CausalTransformer, width=size.width, layers=size.layers)
    space = gym.spaces.Box(0, 255, size.shape, np.uint8)
    return TokenVideo(space, ACTIONS, 1, tokenizer, transformer, window=size.steps + 1)


def cached(model: TokenVideo, frames: Tensor, action: Tensor, noise: Tensor) -> list[Foreseen]:
    """A rollout as it is used."""
    state, found = model.begin(frames), []
    for acted, draws in zip(action, noise, strict=True):
        found.append(model.step(state, acted, draws))
        state = found[-1].state
    return found


def seconds(rollout: Callable[[], object], device: str) -> float:
    """Of one rollout."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    started = clock()
    rollout()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started


def measure(name: str, size: Size, repeats: int, device: str) -> dict[str, Any]:
    """Compare both forms, then time them in turns."""
    torch.manual_seed(0)
    model = make_model(size).to(device)
    frames = torch.randint(2, (1, size.games, *size.shape), device=device).mul(255).to(torch.uint8)
    action = torch.eye(ACTIONS, device=device)[torch.randint(ACTIONS, (size.steps, size.games), device=device)]
    noise = torch.rand(size.steps, size.games, model.d_noise, device=device)
    forms = {"cached": partial(cached, model), "anew": model.plain_rollout}
    shown = [[step[1:] for step in form(frames, action, noise)] for form in forms.values()]
    for mine, theirs in zip(*shown, strict=True):
        if not all(map(torch.equal, mine, theirs)):
            raise SystemExit(f"{name}: the rollouts differ")
    found: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(repeats):
        for form, rollout in forms.items():
            found[form].append(seconds(partial(rollout, frames, action, noise), device))
    medians = {form: statistics.median(times) for form, times in found.items()}
    return {
        "images": name,
        "tokens of a frame": model.patches,
        "games": size.games,
        "steps": size.steps,
        "cached, ms a step": round(1e3 * medians["cached"] / size.steps, 1),
        "anew, ms a step": round(1e3 * medians["anew"] / size.steps, 1),
        "times as fast": round(medians["anew"] / medians["cached"], 1),
    }


def main() -> None:
    """Measure all sizes, and write the table's numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    title = {"benchmark": "Rollouts of a video model of tokens", "processor": processor(), "origin": origin()}
    lines = []
    for name, size in SIZES.items():
        lines.append({**title, **measure(name, size, options.repeats, options.device)})
        print(json.dumps(lines[-1]), flush=True)
    with written_aside(RESULTS / "bench_tokens.jsonl") as aside:
        aside.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
