"""Speed of one ATAC update at the paper's size, against the same update as a plain PyTorch loop.

    python benchmarks/bench_atac.py [--threads 1] [--rounds 9] [--updates 20] [--device cpu]

Both versions run in one process in turn, round by round; the medians and the ratio of each round are printed as JSON.
The plain loop is eager, with two separate critics, torch distributions and default Adam, as such loops are written.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces, Transition

D, A, B, HIDDEN = 11, 3, 256, [256, 256, 256]


def make_batch(device: str) -> Transition:
    """One minibatch of Hopper's size."""
    g = torch.Generator().manual_seed(0)
    rows = [torch.randn(B, D, generator=g), torch.tanh(torch.randn(B, A, generator=g)), torch.randn(B, generator=g)]
    rows += [torch.randn(B, D, generator=g), torch.rand(B, generator=g) < 0.05, torch.zeros(B, dtype=torch.bool)]
    return Transition(*(x.to(device) for x in rows))


def mlp(d_in: int, d_out: int) -> nn.Sequential:
    """Three hidden layers of 256 with ReLU."""
    widths = [d_in, *HIDDEN]
    hidden = [m for i, o in zip(widths, HIDDEN, strict=False) for m in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN[-1], d_out))


class PlainATAC:
    """The same update without stacking, batching or fused optimisers."""

    def __init__(self, device: str, beta: float = 4.0, discount: float = 0.99, tau: float = 0.005) -> None:
        self.beta = beta
        self.discount = discount
        self.tau = tau
        self.policy = mlp(D, 2 * A).to(device)
        self.critics = [mlp(D + A, 1).to(device) for _ in range(2)]
        self.targets = [copy.deepcopy(c).requires_grad_(False) for c in self.critics]
        self.log_alpha = torch.zeros((), device=device, requires_grad=True)
        self.critic_optimizers = [torch.optim.Adam(c.parameters(), lr=5e-4) for c in self.critics]
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=5e-7)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=5e-4)

    def distribution(self, observation: torch.Tensor) -> Independent:
        """Tanh-squashed normal at `[B, D]` observations."""
        mean, log_std = self.policy(observation).chunk(2, -1)
        base = Normal(mean, log_std.clamp(-11.5, 2.0).exp(), validate_args=False)
        return Independent(TransformedDistribution(base, [TanhTransform(cache_size=1)], validate_args=False), 1)

    def update(self, t: Transition) -> dict[str, torch.Tensor]:
        """One step of the official code."""
        s, a, s2, not_done = t.observation, t.action, t.next_observation, 1.0 - t.terminated.float()
        with torch.no_grad():
            a2 = self.distribution(s2).sample()
            x2 = torch.cat([s2, a2], -1)
            value = torch.min(*(f(x2).squeeze(-1) for f in self.targets))
            target = t.reward + self.discount * not_done * value
        new = self.distribution(s)
        a_new = new.rsample()
        log_prob = new.log_prob(a_new)
        bellman_errors = []
        for critic, optimizer in zip(self.critics, self.critic_optimizers, strict=True):
            q = critic(torch.cat([s, a], -1)).squeeze(-1)
            q2 = critic(torch.cat([s2, a2], -1)).squeeze(-1)
            q_new = critic(torch.cat([s, a_new.detach()], -1)).squeeze(-1)
            own = t.reward + self.discount * not_done * q2
            bellman = 0.5 * nn.functional.mse_loss(q, target) + 0.5 * nn.functional.mse_loss(q, own)
            loss = (q_new - q).mean() / self.beta + bellman
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for module in critic:
                    if isinstance(module, nn.Linear):
                        norm = module.weight.norm()
                        module.weight.mul_(torch.clamp(100.0 / norm, max=1.0))
            bellman_errors.append(bellman.detach())
        entropy = -log_prob.mean()
        alpha_loss = self.log_alpha * (entropy.detach() + A)
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        alpha = self.log_alpha.exp().detach()
        value = self.critics[0](torch.cat([s, a_new], -1)).mean()
        loss = torch.where(alpha > 1, -value / alpha - entropy, -value - alpha * entropy)
        self.policy_optimizer.zero_grad()
        loss.backward()
        self.policy_optimizer.step()
        with torch.no_grad():
            for critic, slow in zip(self.critics, self.targets, strict=True):
                for p, p_slow in zip(critic.parameters(), slow.parameters(), strict=True):
                    p_slow.mul_(1 - self.tau).add_(self.tau * p)
        return {"bellman": sum(bellman_errors) / 2, "value": value.detach(), "entropy": entropy.detach()}


def make_runner(update: Callable[[], object], device: str, updates: int) -> Callable[[], float]:
    """A function that times `updates` calls and returns milliseconds per call."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(updates):
            update()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start) / updates

    return run


def main() -> None:
    """Time all versions in turn and print one JSON line per version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch = make_batch(options.device)
    spaces = Spaces(gym.spaces.Box(-np.inf, np.inf, (D,)), gym.spaces.Box(-1.0, 1.0, (A,)))

    def agent(**arguments: bool) -> ATAC:
        made = ATAC(spaces, warm_start=WarmStart(0), **arguments).to(options.device)  # type: ignore[arg-type]
        made.configure_optimizers()
        return made

    def in_bfloat16(update: Callable[[Transition], object]) -> Callable[[], object]:
        def run() -> object:
            with torch.autocast(options.device, torch.bfloat16):
                return update(batch)

        return run

    plain, eager, eager_bf16 = PlainATAC(options.device), agent(), agent()
    compiled, compiled_bf16 = agent(compile=True), agent(compile=True)
    versions: dict[str, Callable[[], object]] = {
        "plain loop, float32": lambda: plain.update(batch),
        "reverie, float32": lambda: eager.update(batch),
        "reverie, bfloat16 products": in_bfloat16(eager_bf16.update),
        "reverie, float32, compiled": lambda: compiled.update(batch),
        "reverie, bfloat16 products, compiled": in_bfloat16(compiled_bf16.update),
    }
    runners = {k: make_runner(v, options.device, options.updates) for k, v in versions.items()}
    for run in runners.values():
        run()  # warm-up
    times: dict[str, list[float]] = {k: [] for k in runners}
    for _ in range(options.rounds):
        for name, run in runners.items():
            times[name].append(run())
    base = times["plain loop, float32"]
    for name, values in times.items():
        ratios = [b / v for b, v in zip(base, values, strict=True)]
        print(
            json.dumps(
                {
                    "benchmark": "one ATAC update, batch 256, 3x256 networks, Hopper size",
                    "version": name,
                    "threads": options.threads,
                    "device": options.device,
                    "ms_median": round(statistics.median(values), 2),
                    "speedup_median": round(statistics.median(ratios), 3),
                    "speedup_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
                }
            )
        )


if __name__ == "__main__":
    main()
