"""Learning of mixtures of experts: against dense networks, by routing, by place in a stack, and after pruning.

    python benchmarks/bench_moe_learning.py [--experiments mixture stacking] [--seeds 5]

Every run is a `reverie fit` of a config of `configs/moe` with further arguments, all in one process and on one thread.
The figures are written to `benchmarks/results/moe-<experiment>.json` after each run, and runs that are there already
are kept; `benchmarks/report.py` makes the tables from them, this script the figures beside them.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import shlex
import tempfile
import time
from typing import Any

import torch
from measured_by import RESULTS, origin, processor
from moe_results import draw
from torch import nn

import commands.quiet  # noqa: F401 - one thread and no third-party noise, set before torch is imported
from commands.lightning_cli import ReverieCLI
from datamodules.synthetic import SyntheticTask
from modules.algorithms.moe_regression import MoERegression
from modules.experts.layer import sparse_layers
from modules.experts.router_base import Router
from modules.networks.ensemble import EnsembleLinear

NETWORK = "--model.network.init_args."
EXPERTS = f"{NETWORK}experts.init_args."
SHARES = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)  # with 64 experts an even share is 0.0156
WINDOW = 1 << 16  # rows that decide what is pruned


def weights(**values: float) -> list[str]:
    """Arguments that set the weights of the balancing losses."""
    return [f"{EXPERTS}loss_weights", json.dumps(values)]


def dense(hidden: int) -> list[str]:
    """Arguments of a dense network."""
    return ["--config", "moe/dense", f"{NETWORK}dense.init_args.hidden", str(hidden)]


def routing(name: str, **arguments: object) -> list[str]:
    """Arguments that choose a router and its settings."""
    chosen = {"routing": name, **arguments}
    return [part for key, value in chosen.items() for part in (f"{EXPERTS}{key}", str(value))]


# variant: arguments on top of `--config moe/mixture`; arithmetic is that of noisy top-2 with its router
MIXTURE = {
    "dense, equal arithmetic": dense(192),
    "dense, 8 times the arithmetic": dense(1024),
    "dense, equal parameters": dense(4128),
    "noisy top-2": [],
    "noisy top-2, a tenth of the loss weights": weights(importance=0.01, load=0.01),
    "noisy top-2, no balancing": ["--config", "moe/unbalanced"],
    "top-2, Switch loss": routing("top_k"),
    "top-2, no balancing": [*routing("top_k"), *weights(load_balance=0.0, router_z=0.0)],
    "bias balanced top-2": routing("bias_balanced"),
    "expert choice": routing("expert_choice"),
    "top-1, Switch loss": routing("top_k", k=1),
    "hierarchical, 2 of 8 groups, 2 of 16 within": routing(
        "hierarchical", k=4, groups=8, k_groups=2, num_experts=128, hidden=32
    ),
}
PRUNED = ("noisy top-2", "noisy top-2, no balancing", "top-2, no balancing")


def stacking() -> dict[str, list[str]]:
    """Variants of the compositional problem: arguments on top of `--config moe/compositional`.

    `depth` blocks of which `placement` says the mixtures. The mixtures of one stack share `12 * depth` experts of
    hidden width 64, so that placements are equal in arithmetic and in the experts' parameters. The stacks of 1, 2 and 4
    mixtures share both, but for the routers, with depth 4, placement all. Dense blocks are wider by 12: what the
    routers of noisy top-k cost.
    """
    variants = {}
    for depth in (2, 4):
        variants[f"depth {depth}, none"] = [f"{NETWORK}depth", str(depth), *dense(140)]
        mixtures = {"first": 1, "last": 1, "every_other": depth // 2, "all": depth}
        for placement, number in mixtures.items():
            if (depth, placement) == (2, "every_other"):
                continue  # is `last`
            for name in ("noisy_top_k", "expert_choice"):
                variants[f"depth {depth}, {placement}, {name}"] = [
                    *(f"{NETWORK}depth", str(depth), f"{NETWORK}placement", placement),
                    *composed(name, 12 * depth // number, 64),
                ]
    for name in ("noisy_top_k", "expert_choice"):  # as many experts as there are maps to choose from
        variants[f"depth 4, last, {name}, 8 experts"] = [f"{NETWORK}depth", "4", *composed(name, 8, 64)]
    for depth in (1, 2):
        variants[f"wide stack of {depth}, none"] = [f"{NETWORK}depth", str(depth), *dense(512 // depth + 12)]
        for name in ("noisy_top_k", "expert_choice"):
            variants[f"wide stack of {depth}, all, {name}"] = [
                *(f"{NETWORK}depth", str(depth), f"{NETWORK}placement", "all"),
                *composed(name, 12, 256 // depth),
            ]
    return variants


def composed(name: str, num_experts: int, hidden: int) -> list[str]:
    """Arguments of a router on the compositional problem, whose config has loss weights for noisy top-k."""
    own = [] if name == "noisy_top_k" else weights()
    return [*routing(name, num_experts=num_experts, hidden=hidden), *own]


EXPERIMENTS: dict[str, tuple[str, dict[str, list[str]], int]] = {
    "mixture": ("moe/mixture", MIXTURE, 1000),
    "stacking": ("moe/compositional", stacking(), 1500),
}


def multiply_adds(network: nn.Module) -> int:
    """Products per row in the forward pass, routers included; of the experts those `k` that a token visits."""
    total = 0
    active = {e: layer.k / layer.num_experts for layer in sparse_layers(network).values() for e in layer.modules()}
    for module in network.modules():
        if isinstance(module, nn.Linear):
            total += module.weight.numel()
        elif isinstance(module, EnsembleLinear):
            total += round(module.weight.numel() * active[module])
        elif isinstance(module, Router):
            total += sum(p.numel() for p in module.parameters(recurse=False))
    return total


def run(config: str, arguments: list[str], updates: int, seed: int, pruned: bool) -> dict[str, Any]:
    """Train one network and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        cli = ReverieCLI(
            "fit",
            [
                *("--config", config, *arguments, "--seed_everything", str(seed), "--run_dir", folder),
                *("--data.updates_per_epoch", str(updates), "--trainer.max_epochs", "1"),
                *("--trainer.logger", "false"),
            ],
        )
        seconds = time.process_time() - started
    agent, data = cli.model, cli.datamodule
    assert isinstance(agent, MoERegression)
    assert isinstance(data, SyntheticTask)
    row: dict[str, Any] = {
        "seed": seed,
        "parameters": count(agent.network),
        "multiply_adds": multiply_adds(agent.network),
        "cpu_seconds": round(seconds, 1),
    }
    row |= {k.removeprefix("validation/"): round(float(v), 6) for k, v in cli.trainer.callback_metrics.items()}
    if pruned:
        row["pruning"] = pruning(agent, data)
    return row


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


@torch.no_grad()
def pruning(agent: MoERegression, data: SyntheticTask) -> list[dict[str, float]]:
    """Parameters and error of copies of the mixture without its least used experts."""
    (batch,) = (batch for batch, _ in zip(data.val_dataloader(), range(1), strict=False))
    window = data.draw(WINDOW, "seen", torch.Generator().manual_seed(data.seed)).input
    whole, results = agent.network, []
    for share in SHARES:
        agent.network = copy.deepcopy(whole)
        (layer,) = sparse_layers(agent.network).values()
        layer.reset_counts()
        agent.network(window)
        kept = layer.prune(share)
        error = agent.evaluate_losses(batch)["relative_error/seen"]
        results.append(
            {
                "min_share": share,
                "experts": len(kept),
                "parameters": count(agent.network),
                "relative_error": round(error.item(), 6),
            }
        )
    agent.network = whole
    return results


def perform(experiment: str, seeds: int) -> None:
    """Do all runs of an experiment that are not in its file yet, seed by seed."""
    config, variants, updates = EXPERIMENTS[experiment]
    path = RESULTS / f"moe-{experiment}.json"
    content = {
        "experiment": experiment,
        "config": config,
        "updates": updates,
        "command": f"python benchmarks/bench_moe_learning.py --experiments {experiment} --seeds {seeds}",
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "origin": origin(seeds=range(seeds)),
        "variants": {
            name: shlex.join(["reverie", "fit", "--config", config, *args]) for name, args in variants.items()
        },
        "rows": json.loads(path.read_text())["rows"] if path.exists() else [],
    }
    done = {(row["variant"], row["seed"]) for row in content["rows"]}
    for seed in range(seeds):
        for name, arguments in variants.items():
            if (name, seed) not in done:
                row = {"variant": name, **run(config, arguments, updates, seed, name in PRUNED)}
                content["rows"].append(row)
                path.write_text(json.dumps(content, indent=1) + "\n")
                print(json.dumps({k: v for k, v in row.items() if k != "pruning"}), flush=True)
    draw(experiment, content, RESULTS)


def main() -> None:
    """Do the chosen experiments one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for experiment in options.experiments:
        perform(experiment, options.seeds)


if __name__ == "__main__":
    main()
