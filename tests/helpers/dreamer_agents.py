"""Small world models and windows of random experience for tests."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from modules.agent.laprop import LaProp
from modules.algorithms.dreamer import DreamerV2
from modules.batch import SequenceBatch, Spaces
from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack
from modules.networks.bounded_normal import BoundedNormalActor
from modules.networks.value_codecs import TwoHot
from modules.networks.value_heads import Head
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.block_rssm import BlockRSSM
from modules.world_model.latents import CategoricalLatent
from modules.world_model.world_model import WorldModel

VECTOR = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (5, 4, 1), np.uint8)
TURN = gym.spaces.Discrete(3)
PUSH = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)

trunk = partial(DenseStack, layers=1)
latent = partial(CategoricalLatent, groups=3, classes=4)


def make_agent(
    observation: gym.Space = VECTOR,
    action: gym.Space = TURN,
    model: dict[str, Any] | None = None,
    behaviour: dict[str, Any] | None = None,
    statistics: tuple[Any, Any] = (None, None),
    **arguments: Any,
) -> DreamerV2:
    """A world model of about 4000 parameters."""
    torch.manual_seed(0)
    sizes = {"latent": latent, "deter": 8, "hidden": 8, "units": 8, "trunk": trunk, "image_network": "mlp"}
    world = partial(WorldModel, **{**sizes, **(model or {})})
    imagination = partial(ActorCritic, **{"units": 8, "trunk": trunk, "horizon": 4, **(behaviour or {})})
    return DreamerV2(Spaces(observation, action, *statistics), world, imagination, **arguments)


def third_version(**arguments: Any) -> dict[str, Any]:
    """Arguments of `make_agent` for the third version at the same size; others for the agent may be given."""
    stack = partial(DenseStack, layers=1, activation="silu", norm="rms", start="truncated_normal")
    head = partial(Head, codec=partial(TwoHot, unbiased=True))
    model = {
        "latent": partial(CategoricalLatent, groups=3, classes=4, unimix=0.01), "rssm": partial(BlockRSSM, blocks=2),
        "trunk": stack, "activation": "silu", "norm": "rms", "symlog": True, "reward": head,
    }  # fmt: skip
    behaviour = {
        "trunk": stack, "discrete": partial(DiscreteActor, unimix=0.01), "continuous": BoundedNormalActor,
        "critic": head, "actor_gradient": "reinforce", "value_of": "future", "critic_target": "online",
        "slow_interval": 1, "slow_rate": 0.02, "return_scale": "percentiles", "entropy": 3e-4, "actor_lr": None,
        "critic_lr": None,
    }  # fmt: skip
    own = {
        "discount": 1.0 - 1.0 / 333.0, "model_lr": None, "kl_alpha": 1.0 / 1.1, "kl_scale": 1.1, "free_nats": 1.0,
        "free_per_step": True, "reconstruction_loss_scale": 2.0, "replay_value_loss_scale": 0.3,
        "optimizer": partial(LaProp, lr=3e-3, warmup=0),
    }  # fmt: skip
    return {"model": model, "behaviour": behaviour, **own, **arguments}


def make_sequence(agent: DreamerV2, steps: int = 6, rows: int = 4, seed: int = 1) -> SequenceBatch:
    """Random windows in which one episode ends and another starts."""
    rng = np.random.default_rng(seed)
    parts = agent.spaces.observations_by_key()
    spaces = copy.deepcopy([*parts.values(), agent.spaces.action])
    for space in spaces:
        space.seed(seed)

    def draws(space: gym.Space) -> torch.Tensor:
        return torch.from_numpy(np.stack([[space.sample() for _ in range(rows)] for _ in range(steps)]))

    flags = torch.zeros(3, steps, rows, dtype=torch.bool)
    flags[0, 2, 1] = True  # terminated, and the next episode starts
    flags[1, 3, 2] = True
    flags[2, 3, 1] = flags[2, 4, 2] = flags[2, 0, 0] = True
    reward = torch.from_numpy(rng.normal(size=(steps, rows))).float()
    observation = {key: draws(space) for key, space in zip(parts, spaces[:-1], strict=True)}
    return SequenceBatch(observation, draws(spaces[-1]), reward, flags[2], flags[0], flags[1])


def parameters(module: torch.nn.Module) -> list[torch.Tensor]:
    """Copies of the parameters."""
    return [p.detach().clone() for p in module.parameters()]


def learned(module: torch.nn.Module, before: list[torch.Tensor]) -> bool:
    """Any parameter has moved by more than its decay, which takes a millionth of it in an update, in at most 100."""
    pairs = zip(module.parameters(), before, strict=True)
    return any(bool(((p - b).abs() > 1e-4 * b.abs()).any()) for p, b in pairs)


def changed(module: torch.nn.Module, before: list[torch.Tensor]) -> bool:
    """Any parameter has changed."""
    return any(not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
