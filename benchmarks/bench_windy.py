"""Small objects that vanish: Catch with a ball that the wind blows aside, foreseen with and without a discrete latent.

    python benchmarks/bench_windy.py [--latents bits none] [--seeds 0 1 2]

A video model learns from 3,000 random steps of Catch with a wind that leaves the ball or blows it to one side or the
other, each with a chance of a third. It then plays whole games by itself, from first frames under random actions.
`one_ball` is the share of the frames of steps 1 to 9 that hold one ball, as each real one does; `eighth_step` the share
at the step at which the ball is still above the paddle for the last time. Frames of the last step have the ball in the
paddle's row, and one bright pixel or two. `given_the_bits` is the share of next frames that are right in all pixels
where the latent has seen them, and `drawn` the share of next frames with one ball where the prior draws it, both one
step from real frames. Adds to `benchmarks/results/bench_windy.jsonl`, a line for each latent and seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measured_by import RESULTS, origin
from torch import Tensor

from callbacks.files.written_aside import written_aside
from datamodules.envs.toys import Catch
from modules.functional.bits import clean_bits
from modules.functional.schedules import bounded_schedule
from modules.networks.video_model import Clip
from modules.networks.video_unet import VideoUNet, as_channels

FILE = RESULTS / "bench_windy.jsonl"
WIND = 2 / 3
STEPS = 3000
UPDATES = 1000
OWN = bounded_schedule("own", "warmup(400, 1)", 0.0, 1.0)
LEARNING_RATE = 4e-3
GAMES = 400
LATENTS = {"bits": 4, "none": 0}
"""Bits by the name of a latent: all of them one group, none turned over, none drawn while the model learns."""


def recorded(steps: int, seed: int, wind: float) -> Clip:
    """Rows `[n, 1]` of Catch under random actions, one episode after another."""
    env, rng = Catch(wind=wind), np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = [(env.reset(seed=seed)[0], np.zeros(3), 0.0, False, True)]
    for _ in range(steps):
        action = int(rng.integers(3))
        frame, reward, ended, *_ = env.step(action)
        rows.append((frame, np.eye(3)[action], reward, ended, False))
        if ended:
            rows.append((env.reset()[0], np.zeros(3), 0.0, False, True))
    frame, action, reward, ended, first = (torch.from_numpy(np.array(x)).unsqueeze(1) for x in zip(*rows, strict=True))
    return Clip(frame, action.float(), reward.float(), ended, first)


def learned(bits: int, seed: int) -> VideoUNet:
    """A model that has learned from random play."""
    torch.manual_seed(seed)
    rows = recorded(STEPS, seed, WIND)
    model = VideoUNet(
        Catch().observation_space, 3, context=1, levels=2, hidden=16, downs=2, doublings=1, dropout=0.0,
        bits=bits, group=max(bits, 1), flips=0.0, mixed=0.0,
    )  # fmt: skip
    descend(model, rows, UPDATES, OWN)
    return model


def descend(model: VideoUNet, rows: Clip, updates: int, own: Callable[[int], float]) -> None:
    """Learn from rows `[n, 1]`, of which a share by the number of updates is of the model's own frames."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / updates)
        index = torch.randint(len(rows.frame) - 5, (32,)) + torch.arange(5).unsqueeze(1)
        terms, _ = model.losses(Clip(*(x[index, 0] for x in rows)), torch.tensor(own(update)))
        optimizer.zero_grad()
        sum(terms.values(), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def one_ball(frames: Tensor, last: bool) -> Tensor:
    """`[B]` bool, frames `[B, H, W, 1]` that hold one ball: above the paddle's row, or in it at the last step."""
    bright = frames[..., 0] > 127
    above = bright[:, :-1].flatten(1).sum(1)
    return (above == 0) & (bright[:, -1].sum(1) <= 2) & bright[:, -1].any(1) if last else above == 1


def played(model: VideoUNet, seed: int) -> list[float]:
    """Shares of frames with one ball at each step of games that the model plays by itself."""
    rng, draws = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    env = Catch(wind=WIND)
    state: Tensor = model.begin(torch.from_numpy(np.stack([env.reset(seed=game)[0] for game in range(GAMES)]))[None])
    shares = []
    for step in range(1, 10):
        action = torch.eye(3)[torch.from_numpy(rng.integers(3, size=GAMES))]
        found = model.step(state, action, torch.rand(GAMES, model.d_noise, generator=draws))
        state = found.state
        shares.append(one_ball(found.frame, last=step == 9).float().mean().item())
    return shares


@torch.no_grad()
def one_step(model: VideoUNet, seed: int) -> dict[str, float]:
    """Next frames of new real ones by a latent that has seen them, and by one that is drawn."""
    rows = recorded(1500, 1000 + seed, WIND)
    follows = ~rows.is_first[1:, 0] & ~rows.terminated[1:, 0]
    before, after, action = rows.frame[:-1, 0][follows], rows.frame[1:, 0][follows], rows.action[1:, 0][follows]
    draws = torch.Generator().manual_seed(seed)
    drawn = model.step(before[None], action, torch.rand(len(before), model.d_noise, generator=draws)).frame
    found = {"drawn": one_ball(drawn, last=False).float().mean().item()}
    if model.latent is not None:
        bits = clean_bits(model.latent.written(as_channels(torch.stack([before, after]))))
        with patch.object(model.latent, "sampled", lambda bottom, noise: bits):
            told = model.step(before[None], action, torch.rand(len(before), model.d_noise)).frame
        found["given_the_bits"] = (told == after).flatten(1).all(1).float().mean().item()
    return found


def measure(latent: str, seed: int) -> dict[str, Any]:
    """One line of results."""
    began = time.process_time()
    model = learned(LATENTS[latent], seed)
    seconds = time.process_time() - began
    shares = played(model, seed)
    numbers = {"one_ball": float(np.mean(shares)), "eighth_step": shares[7]} | one_step(model, seed)
    return {
        "benchmark": "Windy Catch: frames with one ball in games that a video model plays by itself",
        "command": "python benchmarks/bench_windy.py",
        "latent": latent,
        "seed": seed,
        **{name: round(value, 3) for name, value in numbers.items()},
        "updates": UPDATES,
        "CPU seconds": round(seconds),
        "origin": origin(seeds=[seed]),
    }


def main() -> None:
    """Measure what the command line names, and keep all other lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", nargs="+", choices=list(LATENTS), default=list(LATENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for latent in options.latents:
            row = measure(latent, seed)
            lines = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
            kept = [one for one in lines if (one["latent"], one["seed"]) != (latent, seed)]
            with written_aside(FILE) as aside:
                order = sorted([*kept, row], key=lambda one: (one["latent"], one["seed"]))
                aside.write_text("".join(json.dumps(one) + "\n" for one in order))
            print(json.dumps({name: value for name, value in row.items() if name != "origin"}), flush=True)


if __name__ == "__main__":
    main()
