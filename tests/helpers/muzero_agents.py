"""Small planning agents, hand-made sequences with records of searches, and the losses written as loops."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from modules.agent.planning import record_width
from modules.algorithms.muzero import LossWeights, MuZero
from modules.batch import PrioritizedSequences, SequenceBatch, Spaces
from modules.experts.layer import SparseMoE
from modules.functional.planning_targets import NStep, VTrace
from modules.functional.transforms import signed_hyperbolic
from modules.networks.action_slots import DistinctSlots, SampledSlots
from modules.networks.blocks import DenseStack
from modules.networks.consistency import Consistency
from modules.networks.reward_models import StepReward, ValuePrefix
from modules.networks.value_codecs import TwoHot
from modules.networks.value_ensemble import EnsembleHead
from modules.search.rules import PUCT
from modules.search.settings import SearchSettings
from modules.world_model.latent_model import LatentModel

VECTOR = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
TURN = gym.spaces.Discrete(3, start=1)
FORCE = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)
UNROLL, STEPS = 2, 2
LENGTH = UNROLL + STEPS + 1
ENDS = [(None, 5), ("terminated", 3), ("truncated", 2), ("terminated", 5), ("terminated", 2), ("truncated", 5)]
"""How the sequences of a batch end, and the rows that they have."""

codec = partial(TwoHot, bins=9, low=-4.0, high=4.0, spacing="signed_hyperbolic")
trunk = partial(DenseStack, layers=1)


KINDS: dict[str, dict[str, Any]] = {
    "numbered": {},
    "distinct": {"slots": partial(DistinctSlots, count=2)},
    "drawn": {"action": FORCE, "slots": partial(SampledSlots, count=3), "weights": LossWeights(entropy=0.01)},
    "EfficientZero": {
        "model": {"reward": partial(ValuePrefix, memory=5, horizon=2)},
        "weights": LossWeights(consistency=2.0),
        "consistency": partial(Consistency, projection=8, bottleneck=4),
    },
    "pUCT": {"search": SearchSettings(4, rule=PUCT()), "temperature": "linear(1, 0.25, 100)"},
    "V-trace": {"value_target": VTrace},
    "two players": {"two_player": True},
    "absorbing": {"absorbing": True},
    "ensemble": {"model": {"reward": partial(StepReward, head=partial(EnsembleHead, members=2))}},
    "values": {"model": {"codec": None, "value": partial(EnsembleHead, members=2, codec=codec)}},
    "mixture": {"model": {"trunk": partial(SparseMoE, num_experts=3, k=1, hidden=8)}},
}


def make_agent(
    action: gym.Space = TURN, observation: gym.Space = VECTOR, model: dict[str, Any] | None = None, **arguments: Any
) -> MuZero:
    """An agent of about 1000 parameters, whose heads do not start at zero."""
    torch.manual_seed(0)
    made = {"latent": 6, "units": 8, "trunk": trunk, "codec": codec, "reward": partial(StepReward, codec=codec)}
    settings: dict[str, Any] = {
        "unroll": UNROLL, "value_target": partial(NStep, n=STEPS), "discount": 0.9, "search": SearchSettings(4),
        "lr": 1e-2, "target_period": 1000,
    }  # fmt: skip
    agent = MuZero(
        Spaces(observation, action), partial(LatentModel, **(made | (model or {}))), **(settings | arguments)
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for network in (agent.model, agent.target_model):  # which differ
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return agent


def make_batch(agent: MuZero, seed: int = 1) -> PrioritizedSequences:
    """Sequences that go on, end, and are cut; searches of some of their rows have failed."""
    generator = torch.Generator().manual_seed(seed)
    count = len(ENDS)
    rows = torch.tensor([n for _, n in ENDS])
    time = torch.arange(LENGTH).unsqueeze(1)
    padding = time >= rows
    last = time == rows - 1
    terminated, truncated = (
        last & torch.tensor([end == flag for end, _ in ENDS]) for flag in ("terminated", "truncated")
    )
    first = torch.zeros_like(padding)
    space = agent.spaces.action
    if isinstance(space, gym.spaces.Discrete):
        action = int(space.start) + torch.randint(int(space.n), (LENGTH, count), generator=generator)
    else:
        action = torch.rand(LENGTH, count, *space.shape, generator=generator) * 2 - 1  # type: ignore[misc]
    reward = torch.randn(LENGTH, count, generator=generator).masked_fill(padding, 0.0)
    observation = torch.randn(LENGTH, count, 3, generator=generator).masked_fill(padding.unsqueeze(-1), 0.0)
    action = action * ~padding.reshape(*padding.shape, *[1] * (action.dim() - 2))
    rows_of_batch = SequenceBatch({"observation": observation}, action, reward, first, terminated, truncated)
    stored = make_records(agent, generator, count).masked_fill(padding.unsqueeze(-1), 0.0)
    stored[2, 0] = 0.0  # nothing was found at the second row of the first sequence
    weight = torch.rand(count, generator=generator)
    index, episode, age = torch.arange(count), torch.arange(count) // 2, torch.arange(count)
    return PrioritizedSequences(rows_of_batch, padding, stored[0], weight, index, episode, stored, age)


def make_records(agent: MuZero, generator: torch.Generator, count: int) -> Tensor:
    """`[L, B, W]` records with random policies."""
    slots = agent.slots.count
    policy = torch.randn(LENGTH, count, slots, generator=generator).softmax(-1)
    rest = torch.rand(LENGTH, count, record_width(agent.slots) - slots, generator=generator) - 0.5
    return torch.cat([policy, rest], -1)


def cross_entropy(prediction: Tensor, number: float) -> Tensor:
    """Of nine classes at -4 to 4 with the two that a number lies between, under the transform."""
    place = float(signed_hyperbolic(torch.tensor(number, dtype=torch.float64)).clamp(-4.0, 4.0)) + 4.0
    low = min(math.floor(place), 7)
    logs = prediction.log_softmax(-1)
    return -((1.0 - (place - low)) * logs[low] + (place - low) * logs[low + 1])


def plain_value_target(agent: MuZero, batch: PrioritizedSequences, b: int, k: int) -> float:
    """`n` discounted rewards, or those up to the end, and the target model's value of where they lead."""
    rows, total, discount = batch.sequence, 0.0, 1.0
    if rows.terminated[k, b]:
        return 0.0
    at = k
    for t in range(k + 1, min(k + STEPS, LENGTH - 1) + 1):
        if batch.padding[t, b]:
            break
        total += discount * float(rows.reward[t, b])
        discount *= agent.discount
        at = t
        if rows.terminated[t, b]:
            return total
    observation = {"observation": rows.observation["observation"][at, b].unsqueeze(0)}
    _, value = agent.target_model.predict(agent.target_model.represent(observation))
    return total + discount * float(agent.target_model.value_head.mean(value))


def plain_losses(agent: MuZero, batch: PrioritizedSequences) -> dict[str, Tensor]:
    """The losses of MuZero of numbered actions, sequence by sequence and step by step."""
    assert batch.stored is not None
    model, rows, slots = agent.model, batch.sequence, agent.slots.count
    losses = {name: torch.zeros(()) for name in ("policy", "value", "reward", "entropy")}
    for b in range(len(batch.weight)):
        weight = float(batch.weight[b]) / len(batch.weight)
        latent = model.represent({"observation": rows.observation["observation"][0, b].unsqueeze(0)})
        for k in range(UNROLL + 1):
            share = weight * (1.0 if k == 0 else 1.0 / UNROLL)
            if k:
                action = model.actor.encode(rows.previous_action[k, b].unsqueeze(0))
                latent = model.transition(0.5 * latent + 0.5 * latent.detach(), action)
            if batch.padding[k, b]:
                continue
            if k:
                reward = model.reward_head(latent)[0]
                losses["reward"] = losses["reward"] + share * cross_entropy(reward, float(rows.reward[k, b]))
            log_policy, value = (x[0] for x in model.predict(latent))
            losses["value"] = losses["value"] + share * cross_entropy(value, plain_value_target(agent, batch, b, k))
            if not batch.padding[k + 1, b]:
                found = batch.stored[k + 1, b, :slots]  # what was found here is stored with the next row
                losses["policy"] = losses["policy"] - share * (found * log_policy).sum()
                losses["entropy"] = losses["entropy"] + share * (log_policy.exp() * log_policy).sum()
    return losses
