"""Speed of one ATAC update at the paper's size, against the same update as a plain PyTorch loop.

    python benchmarks/bench_atac.py [--threads 1] [--rounds 9] [--updates 20]
    python benchmarks/bench_atac.py --device cuda --updates 200 [--precision high]

All versions run in one process in turn, round by round; the medians and the ratio of each round are printed as JSON.
The plain loop is eager, with two separate critics, torch distributions and default Adam, as such loops are written.
Before anything is timed, every version makes three updates from the same weights with the same draws, and what it says
of them must be what the plain loop says. `--precision high` lets products of float32 be TensorFloat-32 on both sides.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from measured_by import tell
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from modules.agent.compiled import WholeUpdate
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


def start_as(network: nn.Sequential, stacked: Any, member: int) -> None:
    """Give a plain network the weights of one of those that are stacked."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for mine, theirs in zip(linear, stacked.layers, strict=True):
            mine.weight.copy_(theirs.weight[member].t())
            mine.bias.copy_(theirs.bias[member, 0])


def drawn(policy: Independent, noise: torch.Tensor) -> torch.Tensor:
    """The action of a squashed normal policy for a standard normal draw."""
    squashed = policy.base_dist
    return squashed.transforms[0](squashed.base_dist.loc + squashed.base_dist.scale * noise)


class PlainATAC:
    """The same update without stacking, batching or fused optimisers."""

    def __init__(
        self, device: str, weights: ATAC, beta: float = 4.0, discount: float = 0.99, tau: float = 0.005
    ) -> None:
        self.beta = beta
        self.discount = discount
        self.tau = tau
        self.policy = mlp(D, 2 * A).to(device)
        self.critics = [mlp(D + A, 1).to(device) for _ in range(2)]
        stacked = [weights.actor.network, weights.critic, weights.critic]
        for network, layers, member in zip([self.policy, *self.critics], stacked, (0, 0, 1), strict=True):
            start_as(network, layers, member)
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

    def update(self, t: Transition, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step of the official code, with draws `[2, B, A]` for the actions at s and s'."""
        s, a, s2, not_done = t.observation, t.action, t.next_observation, 1.0 - t.terminated.float()
        with torch.no_grad():
            a2 = drawn(self.distribution(s2), noise[1])
            x2 = torch.cat([s2, a2], -1)
            value = torch.min(*(f(x2).squeeze(-1) for f in self.targets))
            target = t.reward + self.discount * not_done * value
        new = self.distribution(s)
        a_new = drawn(new, noise[0])
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


def make_versions(options: argparse.Namespace) -> dict[str, Callable[[], dict[str, torch.Tensor]]]:
    """Functions that make one update and tell its metrics in the plain loop's names, by what the tables call them."""
    device = options.device
    spaces = Spaces(gym.spaces.Box(-np.inf, np.inf, (D,)), gym.spaces.Box(-1.0, 1.0, (A,)))

    def make(beta: float | list[float] = 4.0, seeds: int = 1, compile: WholeUpdate = False) -> ATAC:
        agent = ATAC(spaces, beta, seeds, warm_start=WarmStart(0), compile=compile).to(device)
        agent.configure_optimizers()
        return agent

    def update_of(agent: ATAC, cast: bool = False) -> Callable[[], dict[str, torch.Tensor]]:
        batch = Transition(*(x.repeat(agent.population.seeds, *[1] * (x.ndim - 1)) for x in make_batch(device)[:6]))

        def update() -> dict[str, torch.Tensor]:
            with torch.autocast(device, torch.bfloat16, enabled=cast):
                made = agent.update(batch).metrics
            first = {name: x if x.ndim == 0 else x[0] for name, x in made.items()}
            return {"bellman": first["bellman_error"], "value": -first["negative_value"], "entropy": first["entropy"]}

        return update

    source = make()  # of weights and draws
    plain, batch = PlainATAC(device, source), make_batch(device)
    name, form = ("captured", "captured") if device == "cuda" else ("compiled", True)
    versions = {
        "plain loop, float32": lambda: plain.update(batch, source.noise_for(batch)[:2, 0]),
        "reverie, float32": update_of(make()),
        "reverie, bfloat16 products": update_of(make(), cast=True),
        f"reverie, float32, {name}": update_of(make(compile=form)),
        f"reverie, bfloat16 products, {name}": update_of(make(compile=form), cast=True),
    }
    if device == "cuda":
        many = make([4.0, 0.25, 1.0, 16.0, 64.0], 9, form)
        versions[f"reverie, float32, {name}, 45 members"] = update_of(many)
    return versions


def check_agreement(versions: dict[str, Callable[[], dict[str, torch.Tensor]]]) -> None:
    """Make the first updates of all versions, and refuse to time what does not say the same of them.

    Raises:
        SystemExit: it names the version.
    """
    told = {
        name: [{key: float(x) for key, x in update().items()} for _ in range(3)] for name, update in versions.items()
    }
    base = told["plain loop, float32"]
    for name, mine in told.items():
        limit = 0.05 if "bfloat16" in name else 1e-3
        for expected, found in zip(base, mine, strict=True):
            if any(abs(found[key] - x) > limit * max(1.0, abs(x)) for key, x in expected.items()):
                raise SystemExit(f"{name} disagrees with the plain loop: {mine} instead of {base}")


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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["highest", "high"], default="highest", help="of float32 products")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.precision)
    versions = make_versions(options)
    check_agreement(versions)
    runners = {k: make_runner(v, options.device, options.updates) for k, v in versions.items()}
    for run in runners.values():
        run()  # warm-up
    times: dict[str, list[float]] = {k: [] for k in runners}
    for _ in range(options.rounds):
        for name, run in runners.items():
            times[name].append(run())
    base = times["plain loop, float32"]
    device = "cpu" if options.device == "cpu" else torch.cuda.get_device_name()
    products = ", TF32 products" if options.precision == "high" else ""
    for name, values in times.items():
        ratios = [b / v for b, v in zip(base, values, strict=True)]
        line = {
            "benchmark": f"one ATAC update, batch 256, 3x256 networks, Hopper size{products}",
            "command": f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip(),
            "version": name,
            "threads": options.threads,
            "device": device,
            "torch": torch.__version__,
            "ms_median": round(statistics.median(values), 3),
            "speedup_median": round(statistics.median(ratios), 3),
            "speedup_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
        }
        tell(line)


if __name__ == "__main__":
    main()
