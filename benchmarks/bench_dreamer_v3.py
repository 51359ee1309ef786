"""Speed of one whole update of DreamerV3 (model, actor, critic, optimiser) against that of TorchRL at the same sizes.

    python benchmarks/bench_dreamer_v3.py [--settings small 1m] [--rounds 5] [--threads 1]
    python benchmarks/bench_dreamer_v3.py --device cuda --settings 12m

Both start from the same weights; before anything is timed, their losses of the world model are compared on the same
windows and noise. They take turns, round by round. TorchRL's update is its `DreamerV3Loss` with `RSSMRolloutV3`,
`DreamerEnv`, `DreamerV3Optimizer` and `SoftUpdate`, in eager mode, as ours is unless `--compile` says otherwise. Prints
one JSON line per setting; `ratio` is our time over TorchRL's, of neighbouring rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from measured_by import tell
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Composite, OneHot, Unbounded
from torchrl.envs.model_based import DreamerEnv
from torchrl.modules import WorldModelWrapper
from torchrl.objectives import DreamerV3ActorLoss, DreamerV3Loss, DreamerV3ValueLoss, SoftUpdate
from torchrl.objectives.utils import ValueEstimators
from torchrl.trainers.algorithms.dreamer_v3 import DreamerV3Optimizer

from modules.agent.laprop import LaProp
from modules.algorithms.dreamer import DreamerV2
from modules.batch import SequenceBatch, Spaces
from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack
from modules.networks.value_codecs import TwoHot
from modules.networks.value_heads import Head
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.block_rssm import BlockRSSM
from modules.world_model.latents import CategoricalLatent
from modules.world_model.world_model import WorldModel

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from torchrl_dreamer import FEATURES, HORIZON, Chance, model_loss, policy_of, value_of, windows

WIDTH, ACTIONS = 8, 4


@dataclass(frozen=True)
class Setting:
    """Sizes of an update."""

    batch: int
    window: int
    deter: int
    units: int
    groups: int
    classes: int
    blocks: int = 8
    layers: int = 3


SETTINGS = {
    "small": Setting(16, 16, 128, 64, 8, 8, blocks=4, layers=2),
    "1m": Setting(16, 64, 512, 64, 32, 4),
    "12m": Setting(16, 64, 2048, 256, 32, 16),
}


def make_agent(s: Setting, compile: str, device: str) -> DreamerV2:
    """Ours, with vectors of `WIDTH` numbers and `ACTIONS` actions."""
    torch.manual_seed(0)
    stack = partial(DenseStack, activation="silu", norm="rms", start="truncated_normal")
    head = partial(Head, codec=partial(TwoHot, unbiased=True))
    world = partial(
        WorldModel, latent=partial(CategoricalLatent, groups=s.groups, classes=s.classes, unimix=0.01),
        rssm=partial(BlockRSSM, blocks=s.blocks), deter=s.deter, hidden=s.units, units=s.units,
        trunk=partial(stack, layers=s.layers), head_trunk=partial(stack, layers=1), activation="silu", norm="rms",
        symlog=True, reward=head,
    )  # fmt: skip
    behaviour = partial(
        ActorCritic, trunk=partial(stack, layers=s.layers), units=s.units,
        discrete=partial(DiscreteActor, unimix=0.01), critic=head, value_of="future", critic_target="online",
        slow_interval=1, slow_rate=0.02, return_scale="percentiles", entropy=3e-4, actor_lr=None, critic_lr=None,
    )  # fmt: skip
    spaces = Spaces(gym.spaces.Box(-9.0, 9.0, (WIDTH,)), gym.spaces.Discrete(ACTIONS))
    agent = DreamerV2(
        spaces, world, behaviour, discount=1.0 - 1.0 / HORIZON, model_lr=None, kl_alpha=1.0 / 1.1, kl_scale=1.1,
        free_nats=1.0, free_per_step=True, reconstruction_loss_scale=2.0, replay_value_loss_scale=0.3,
        optimizer=LaProp, compile=compile,  # type: ignore[arg-type]
    )  # fmt: skip
    agent.to(device).configure_optimizers()
    return agent


def make_batch(s: Setting, device: str) -> SequenceBatch:
    """Random windows in which some episodes end."""
    shape = s.window, s.batch
    first, terminated, truncated = (torch.rand(3, *shape) < 0.02).unbind()
    fields = torch.randint(ACTIONS, shape), torch.randn(shape), first, terminated, truncated
    return SequenceBatch({"observation": torch.randn(*shape, WIDTH).to(device)}, *(x.to(device) for x in fields))


def torchrl_loss(agent: DreamerV2) -> DreamerV3Loss:
    """TorchRL's loss of everything, with the weights of ours."""
    model, learner = agent.world_model, agent.behaviour
    world = model_loss(agent, ACTIONS)
    # The same networks imagine: the prior, the reward and the chance of going on.
    _, rollout, _, reward, going_on = world.world_model.module
    env = DreamerEnv(
        WorldModelWrapper(
            TensorDictModule(rollout.rssm_prior.module, in_keys=[*FEATURES, "action"], out_keys=["_", *FEATURES]),
            TensorDictModule(reward.module, in_keys=FEATURES, out_keys=["reward_logits", "reward"]),
        ),
        prior_shape=(model.rssm.latent.width,),
        belief_shape=(model.rssm.deter,),
    )
    env.observation_spec = Composite(state=Unbounded(model.rssm.latent.width), belief=Unbounded(model.rssm.deter))
    env.state_spec = env.observation_spec.clone()
    env.action_spec, env.reward_spec = OneHot(ACTIONS), Unbounded((1,))
    value = value_of(learner.critic)
    chance = TensorDictModule(Chance(going_on.module), in_keys=FEATURES, out_keys=["continuation"])
    actor = DreamerV3ActorLoss(
        policy_of(learner.actor), value, env, continuation_model=chance, imagination_horizon=learner.horizon,
        use_reinforce=True,
    )  # fmt: skip
    actor.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=learner.lambda_)
    critic = DreamerV3ValueLoss(value, "two_hot", slow_critic_regularization=1.0)
    return DreamerV3Loss(world, actor, critic, replay_value_loss_weight=0.3, continuation_horizon=HORIZON)


def torchrl_update(agent: DreamerV2, batch: SequenceBatch, device: str) -> Callable[[], TensorDict]:
    """A function that does one whole update of TorchRL's."""
    loss = torchrl_loss(agent).to(device)
    optimizer = DreamerV3Optimizer(list(dict.fromkeys(p for p in loss.parameters() if p.requires_grad)))
    slow = SoftUpdate(loss.value_loss, tau=0.02)
    sample = windows(agent, batch)

    def update() -> TensorDict:
        losses = loss(sample)
        optimizer.zero_grad()
        sum(value for key, value in losses.items() if key.startswith("loss_")).backward()  # type: ignore[union-attr]
        optimizer.step()
        slow.step()
        return losses.detach()

    return update


def compare_losses(agent: DreamerV2, batch: SequenceBatch, theirs: Callable[[], TensorDict]) -> None:
    """Refuse to time two updates that do not do the same.

    Raises:
        SystemExit: the losses of the world model differ.
    """
    steps, rows = batch.reward.shape
    torch.manual_seed(7)
    drawn = torch.rand(steps, 2, rows, agent.world_model.rssm.latent.groups, device=batch.reward.device)[:, 1]
    noise = agent.draw_noise(steps, rows)._replace(posterior=drawn)
    found = agent.update(batch, noise).metrics
    torch.manual_seed(7)
    expected = theirs()
    kl = expected["loss_model_dynamic"] + expected["loss_model_representation"]
    pairs = {
        "observation": (2.0 * found["observation_loss"], expected["loss_model_reco"]),
        "reward": (found["reward_loss"], expected["loss_model_reward"]),
        "discount": (found["discount_loss"], expected["loss_model_continue"]),
        "kl": (found["kl_loss"], kl),
    }
    for name, (ours, other) in pairs.items():
        if not torch.allclose(ours, other, rtol=1e-4):
            raise SystemExit(f"the losses of {name} differ: ours {float(ours)}, TorchRL's {float(other)}")


def seconds(update: Callable[[], Any], device: str) -> float:
    """Wall time of one update."""
    begun = time.perf_counter()
    update()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    """Time both at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=["small", "1m"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", choices=["off", "cell", "captured"], default="off", help="of ours")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.settings:
        s = SETTINGS[name]
        agent, batch = make_agent(s, options.compile, options.device), make_batch(s, options.device)
        theirs = torchrl_update(agent, batch, options.device)
        compare_losses(agent, batch, theirs)
        mine = partial(agent.update, batch)
        for _ in range(3 if options.compile == "off" else 6):
            mine()
        theirs()
        times = [(seconds(mine, options.device), seconds(theirs, options.device)) for _ in range(options.rounds)]
        ours, other = ([1e3 * pair[i] for pair in times] for i in (0, 1))
        line = {
            "benchmark": f"one DreamerV3 update, {name}: {s}, vectors of {WIDTH}, {ACTIONS} actions, {options.device}",
            "parameters": sum(p.numel() for p in agent.parameters() if p.requires_grad), "compile": options.compile,
            "ms": round(statistics.median(ours), 1), "torchrl_ms": round(statistics.median(other), 1),
            "ratio": round(statistics.median(a / b for a, b in zip(ours, other, strict=True)), 3),
        }  # fmt: skip
        tell(line)


if __name__ == "__main__":
    main()
