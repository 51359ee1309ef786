"""The same weights, batch and draws for DreamerV2 of this project and of sheeprl, and what both say of one update.

Layers are told apart by the part of the agent that they belong to, and by their order in it, which is the same on both
sides. Every sample, of states and actions, is the class at which the sum of probabilities passes `SHARE`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from modules.algorithms.dreamer import DreamerV2
from modules.batch import SequenceBatch

SHARE = 0.37
"""No sum of equal probabilities of two, four, eight or 32 classes is near: rounding does not choose."""

PARTS = (
    "world_model.encoder", "world_model.rssm.input", "world_model.rssm.cell", "world_model.rssm.prior",
    "world_model.rssm.posterior", "world_model.decoder", "world_model.reward", "world_model.discount",
    "behaviour.actor", "behaviour.critic",
)  # fmt: skip
"""First words of the names of parameters; `benchmarks/peers/dreamer_sheeprl.py` has those of sheeprl for each."""


def write_start(agent: DreamerV2, batch: SequenceBatch, path: Path) -> None:
    """Write weights, in the layout of sheeprl, and a batch for `benchmarks/peers/dreamer_sheeprl.py`."""
    arrays = {f"batch/{name}": value.numpy() for name, value in batch._asdict().items() if name != "observation"}
    arrays["batch/observation"] = batch.observation["observation"].numpy()
    cell = agent.world_model.rssm.cell.linear.weight
    for part in PARTS:
        mine = [value for name, value in agent.named_parameters() if name.startswith(part)]
        for number, value in enumerate(mine):
            array = value.detach().numpy()
            if value is cell:  # sheeprl's cell sees the state first, ours the input
                array = np.roll(array, agent.world_model.rssm.deter, axis=1)
            arrays[f"{part}/{number}"] = array
    np.savez(path, **arrays, share=SHARE)


def first_update(agent: DreamerV2, batch: SequenceBatch) -> dict[str, float]:
    """Make the update that is compared; what it says, by the names of the peer's script."""
    noise = agent.draw_noise(*batch.reward.shape)
    fixed = noise._replace(
        posterior=torch.full_like(noise.posterior, SHARE),
        task=type(noise.task)(*(torch.full_like(draws, SHARE) for draws in noise.task)),
    )
    found = agent.update(batch, fixed).metrics
    names = {
        "observation": "observation_loss", "reward": "reward_loss", "discount": "discount_loss", "kl": "kl_loss",
        "actor": "actor_loss", "critic": "critic_loss", "model_norm": "model_norm", "actor_norm": "actor_norm",
        "critic_norm": "critic_norm",
    }  # fmt: skip
    return {name: float(found[ours]) for name, ours in names.items()}
