"""Figure of ensembles of reward heads, fitted to samples of known laws: what data remove and what they leave.

    python benchmarks/reward_ensemble_figure.py [--seeds 5] [--figure docs/figures/reward_ensemble.png]

Left: an arm that pays 1 or -1. Between the members is what is not known of its mean, one part in as many as there were
pulls; within each of them is chance, which stays. Right: a reward of 1 that comes with a chance of 0.3, at step 2 or 4;
the law of the sum of rewards at each step, as it is and as the mixture of all members tells it, with the distance
between both (Wasserstein-1). Half a minute on a CPU; the numbers are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn

from modules.networks.blocks import DenseStack
from modules.networks.reward_models import ValuePrefix
from modules.networks.value_codecs import TwoHot
from modules.networks.value_ensemble import EnsembleHead, losses_of

mpl.use("Agg")
import matplotlib.pyplot as plt

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "reward_ensemble.png"
PULLS = (4, 8, 16, 32, 64, 128, 256, 512)
CHANCES = (0.0, 0.15, 0.15, 0.3)
"""That the reward has come, by step."""
ROWS = 512
"""Samples of the law in each step of the fit."""
NEAR = partial(TwoHot, 31, -1.5, 1.5, "signed_hyperbolic", unbiased=True)
TRUNK = partial(DenseStack, layers=1, activation="relu", norm="layer")


def descend(module: nn.Module, losses: Callable[[], Tensor], steps: int) -> None:
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        losses().mean().backward()
        optimizer.step()


def noisy_arm(pulls: int, seed: int) -> tuple[float, float]:
    """Epistemic and aleatoric variance after so many pulls."""
    torch.manual_seed(seed)
    reward = torch.where(torch.rand(pulls) < 0.5, 1.0, -1.0)
    head, arm, index = (
        EnsembleHead(2, 16, TRUNK, NEAR, members=8),
        torch.tensor([[1.0, 0.0]]),
        torch.arange(pulls),
    )
    descend(head, lambda: head.bootstrapped_loss(head(arm).expand(pulls, -1), reward, index), 150)
    spread = head.codec.spread(head(arm).detach())
    return float(spread.epistemic), float(spread.aleatoric)


def delayed_reward(seed: int) -> tuple[Tensor, Tensor]:
    """Atoms `[4, J]` of the sum of rewards by step, and their probabilities."""
    torch.manual_seed(seed)
    model = ValuePrefix(4, 16, TRUNK, memory=16, head=partial(EnsembleHead, codec=NEAR, members=5))
    steps = torch.arange(1, 5).unsqueeze(1)

    def predictions() -> Tensor:
        memory, found = torch.zeros(1, model.memory_width), []
        for latent in torch.eye(4).unsqueeze(1):
            prediction, memory = model(latent, memory)
            found.append(prediction)
        return torch.stack(found)

    def losses() -> Tensor:
        comes, early = torch.rand(2, ROWS)
        target = (comes < 0.3) & (torch.where(early < 0.5, 2, 4) <= steps)
        predicted = predictions().expand(-1, ROWS, -1)
        return losses_of(model.head, predicted, target.float(), torch.randint(1 << 20, (ROWS,)))

    descend(model, losses, 300)
    return model.head.atoms(predictions().detach()[:, 0])


def wasserstein(number: Tensor, probability: Tensor, chance: float) -> float:
    """The area between the distribution function of atoms `[J]` and that of a coin."""
    edges = torch.cat([number, torch.tensor([0.0, 1.0])]).sort().values
    below = (probability * (number <= edges.unsqueeze(-1))).sum(-1)
    true = (1.0 - chance) * (edges >= 0.0) + chance * (edges >= 1.0)
    return float(((below - true).abs()[:-1] * edges.diff()).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    parts = np.array([[noisy_arm(pulls, seed) for seed in range(arguments.seeds)] for pulls in PULLS])
    print("pulls, epistemic, aleatoric (means over seeds)")
    for pulls, (epistemic, aleatoric) in zip(PULLS, parts.mean(1), strict=True):
        print(f"{pulls:5d} {epistemic:9.4f} {aleatoric:9.4f}")
    for place, (name, colour) in enumerate((("epistemic", "tab:blue"), ("aleatoric", "tab:red"))):
        left.loglog(PULLS, parts[:, :, place].mean(1), "o-", color=colour, label=name)
        left.fill_between(PULLS, parts[:, :, place].min(1), parts[:, :, place].max(1), color=colour, alpha=0.2, lw=0)
    left.loglog(PULLS, 1.0 / np.array(PULLS), ":", color="gray", label="1 / pulls")
    left.set(xlabel="pulls of an arm that pays 1 or -1", ylabel="variance", title="what is not known, and chance")
    left.legend(frameon=False, fontsize=8)
    # Right: one line per step, above the line of the law itself.
    number, probability = delayed_reward(0)
    for step, chance in enumerate(CHANCES):
        distance = wasserstein(number[step], probability[step], chance)
        print(f"step {step + 1}: distance {distance:.4f}")
        atoms, order = number[step].sort()
        right.step(atoms, probability[step][order].cumsum(0) + step, where="post", color=f"C{step}",
                   label=f"step {step + 1}, distance {distance:.3f}")  # fmt: skip
        right.step(
            [-1.0, 0.0, 1.0, 2.0], np.array([0.0, 1.0 - chance, 1.0, 1.0]) + step, where="post", color="gray", ls=":"
        )
    right.set(xlim=(-1.0, 1.6), xlabel="sum of rewards", ylabel="distribution function, one step above the other",
              title="a reward that comes by chance, and late")  # fmt: skip
    right.legend(frameon=False, fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(arguments.figure, dpi=90)
    print(arguments.figure)


if __name__ == "__main__":
    main()
