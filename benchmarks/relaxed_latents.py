"""Does a latent of Catch tell where the ball is? The model of `dreamer/catch` on random play, estimator by estimator.

    python benchmarks/relaxed_latents.py [--updates 400] [--seeds 0 1] [--estimators straight-through ...]

Nothing is collected while it learns: every update is on 25 episodes of a random policy, and what counts afterwards is
on 60 others. Prints one JSON line per estimator and seed: `seen` is the share of rows in which the reconstructed ball
stands in its column, by the ball's column; `kl` the divergence and `entropy` that of the posterior, in nats.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from measured_by import tell

from datamodules.envs.toys import Catch
from modules.algorithms.dreamer import DreamerV2
from modules.batch import SequenceBatch, Spaces
from modules.networks.blocks import DenseStack
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.latents import CategoricalLatent
from modules.world_model.world_model import WorldModel

EPISODES, BATCH, CONTEXT = 250, 25, 9
ESTIMATORS: dict[str, dict[str, Any]] = {
    "straight-through": {},
    "straight-through Gumbel, 1": {"estimator": "straight_through_gumbel"},
    "Gumbel-softmax, 1": {"estimator": "gumbel_softmax"},
    "Gumbel-softmax, 0.25": {"estimator": "gumbel_softmax", "temperature": 0.25},
}


def episodes(count: int, seed: int) -> SequenceBatch:
    """Whole episodes of a random policy, `[10, count]` rows."""
    env, rng = Catch(), np.random.default_rng(seed)
    rows: list[list[Any]] = []
    for episode in range(count):
        seen, _ = env.reset(seed=seed * 100_000 + episode)
        rows.append([(seen, 0, 0.0, True, False)])
        while not rows[-1][-1][4]:
            action = int(rng.integers(3))
            seen, reward, ended, _, _ = env.step(action)
            rows[-1].append((seen, action, float(reward), False, ended))
    fields = [np.stack([[row[i] for row in episode] for episode in rows], 1) for i in range(5)]
    pixels, action, reward, first, ended = map(torch.from_numpy, fields)
    return SequenceBatch({"observation": pixels}, action, reward.float(), first, ended, torch.zeros_like(ended))


def make_agent(arguments: dict[str, Any], seed: int) -> DreamerV2:
    """The agent of `dreamer/catch` with another estimator."""
    torch.manual_seed(seed)
    trunk = partial(DenseStack, layers=2)
    latent = partial(CategoricalLatent, groups=8, classes=8, unimix=0.01, **arguments)
    sizes: dict[str, Any] = {"deter": 64, "hidden": 64, "units": 64, "image_network": "mlp"}
    world = partial(WorldModel, latent=latent, trunk=trunk, **sizes)
    behaviour = partial(ActorCritic, units=64, trunk=trunk, horizon=2)  # it collects nothing
    env = Catch()
    return DreamerV2(
        Spaces(env.observation_space, env.action_space), world, behaviour, model_lr=2e-3, model_clip_norm=0.5,
        kl_alpha=0.9, kl_scale=0.1, discount_loss_scale=5.0,
    )  # fmt: skip


def part(batch: SequenceBatch, columns: torch.Tensor) -> SequenceBatch:
    """Some of the episodes."""
    return SequenceBatch(
        {key: x[:, columns] for key, x in batch.observation.items()}, *(x[:, columns] for x in batch[1:])
    )


def seen_by_column(agent: DreamerV2, batch: SequenceBatch) -> list[float]:
    """Share of rows before the last in which the reconstructed ball stands in its column, by that column."""
    made = agent.open_loop(batch, CONTEXT).observation["observation"][: CONTEXT - 1].squeeze(-1)
    truth = batch.observation["observation"][: CONTEXT - 1].squeeze(-1)
    row = torch.arange(CONTEXT - 1)
    # In row `t` of an episode the ball is in row `t` of the picture.
    found, column = made[row, :, row].argmax(-1), truth[row, :, row].argmax(-1)
    return [round((found == column)[column == c].float().mean().item(), 2) for c in range(truth.shape[-1])]


def main() -> None:
    """Train and look, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--estimators", nargs="+", choices=list(ESTIMATORS), default=list(ESTIMATORS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, others = episodes(EPISODES, 0), episodes(60, 1)
    for seed in options.seeds:
        for name in options.estimators:
            agent = make_agent(ESTIMATORS[name], seed)
            for _ in range(options.updates):
                metrics = agent.update(part(data, torch.randint(EPISODES, (BATCH,)))).metrics
                agent.advance()
            line = {
                "estimator": name, "seed": seed, "updates": options.updates, "seen": seen_by_column(agent, others),
                "kl": round(float(metrics["kl"]), 2), "entropy": round(float(metrics["posterior_entropy"]), 2),
            }  # fmt: skip
            tell(line)


if __name__ == "__main__":
    main()
