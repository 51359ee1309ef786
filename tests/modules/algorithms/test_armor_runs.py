"""ARMOR: members that never meet, runs in parts, two ranks, and mistakes in arguments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from armor_agents import in_the_game, make_agent
from atac_agents import SPACES, make_batch
from equal import assert_equal
from pytorch_lightning import Trainer
from ranks import run_on_ranks
from runs_in_parts import train
from tiny_dataset import make_arrays, write_hdf5
from torch import Tensor

from datamodules.offline import OfflineDataModule
from modules.agent.actor_critic_updates import ActorUpdates
from modules.agent.learned_model import DynamicsUpdates, RolloutPlan
from modules.agent.trust_region import TrustRegion
from modules.agent.warm_start import WarmStart
from modules.algorithms.armor import ARMOR
from modules.batch import Spaces, Transition


# ------------------------------------------------------------------------------------------- members, resume, ranks
@pytest.mark.parametrize("shared", [False, True])
def test_a_member_equals_the_same_run_done_alone(shared: bool) -> None:
    four = make_agent(beta=[0.5, 4.0], seeds=2, shared_batch=shared, warm_start=WarmStart(3))
    alone = make_agent(beta=4.0, seed=1, warm_start=WarmStart(3))
    assert four.member_names[3] == "beta=4/seed=1"
    for i in range(9):
        other, mine = make_batch(16, seed=2 * i), make_batch(16, seed=2 * i + 1)
        joined = Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True)))  # type: ignore[arg-type]
        four.update(mine if shared else joined)
        alone.update(mine)
        four.advance()
        alone.advance()
    for whole, single in ((four.actor, alone.actor), (four.dynamics, alone.dynamics)):
        for p, q in zip(whole.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(p[3:], q, rtol=0, atol=2e-6)
    for p, q in zip(four.critic.parameters(), alone.critic.parameters(), strict=True):
        torch.testing.assert_close(p[3::4], q, rtol=0, atol=2e-6)
    torch.testing.assert_close(four.imagined.observation[3:], alone.imagined.observation, rtol=0, atol=2e-6)


def test_a_member_that_diverged_leaves_the_others_alone() -> None:
    agent = in_the_game(beta=[1.0, 4.0], shared_batch=True)
    with torch.no_grad():
        agent.dynamics.network.layers[0].weight[0] = float("nan")
    agent.imagine_from(make_batch().observation.repeat(2, 1, 1))
    with pytest.warns(UserWarning, match="beta=1"):
        values = agent.read_back(agent.update(make_batch()).metrics)
    assert agent.alive == [False, True]
    assert math.isfinite(values["armor/beta=4/seed=0/model_relative_value"])


def fit(folder: Path, epochs: int, checkpoint: Path | None = None) -> ARMOR:
    module = OfflineDataModule(
        str(folder / "tiny.h5"), cache_dir=str(folder / "cache"), validation_batches=1, updates_per_epoch=2,
        batch_size=4, validation_fraction=0.4, normalize_observation=True,
    )  # fmt: skip
    agent = ARMOR(
        module.spaces, beta=[1.0, 4.0], hidden=[8], actor_lr=0.03, warm_start=WarmStart(3),
        dynamics=DynamicsUpdates((8,)), rollouts=RolloutPlan(horizon=2, interval=3, capacity=40),
        actor=ActorUpdates(average_rate=0.1),
    )  # fmt: skip
    train(agent, module, folder, epochs, checkpoint)
    return agent


@pytest.mark.filterwarnings("ignore")
def test_a_run_in_parts_is_the_whole_run(tmp_path: Path) -> None:
    """One part ends in the warm start, one in the game between two times at which steps are imagined."""
    write_hdf5(tmp_path / "tiny.h5", make_arrays())
    whole = fit(tmp_path, 5)
    fit(tmp_path, 1)
    assert not fit(tmp_path, 4, tmp_path / "1.ckpt").warm_starting
    parts = fit(tmp_path, 5, tmp_path / "4.ckpt")
    assert_equal(dict(parts.state_dict()), dict(whole.state_dict()))
    assert_equal(parts.dynamics_optimizer.state_dict(), whole.dynamics_optimizer.state_dict())
    assert_equal(parts.imagined.content(), whole.imagined.content())
    assert int(whole.imagined.filled) == 40
    restored = ARMOR.from_checkpoint(tmp_path / "5.ckpt")
    observation = torch.randn(5, 3)
    assert torch.equal(restored.policy(1)(observation), whole.policy(1)(observation))


def learned_on(rank: int) -> tuple[list[Tensor], Tensor]:
    agent = make_agent(warm_start=WarmStart(2))
    for i in range(6):
        whole = make_batch(seed=i)
        agent.update(Transition(*(x if x is None else x[16 * rank : 16 * rank + 16] for x in whole)))  # type: ignore[arg-type]
        agent.advance()
    return [p.detach() for p in agent.parameters()], agent.imagined.observation


def test_two_ranks_learn_the_same_from_steps_that_each_imagines_itself(tmp_path: Path) -> None:
    (first, one), (second, other) = run_on_ranks(2, tmp_path, learned_on)
    for p, q in zip(first, second, strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(one, other)


# ------------------------------------------------------------------------------------------------------ bad arguments
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"beta": -1.0}, "beta"),
        ({"beta": [1.0, 1.0]}, "beta must hold distinct"),
        ({"discount": 1.1}, "discount"),
        ({"hidden": [0]}, "hidden"),
        ({"initializer": "orthogonal"}, "initializer"),
        ({"critic.roles": "split"}, r"critic\.roles must be twin for ARMOR"),
        ({"dynamics.lr": -1.0}, r"dynamics\.lr"),
        ({"dynamics.adversarial": -0.1}, r"dynamics\.adversarial must lie in \[0"),
        ({"dynamics.hidden": (0,)}, r"dynamics\.hidden"),
        ({"rollouts.horizon": 0}, r"rollouts\.horizon must be at least 1"),
        ({"rollouts.interval": 0}, r"rollouts\.interval"),
        ({"rollouts.capacity": 0}, r"rollouts\.capacity"),
        ({"warm_start": WarmStart(0)}, "set warm_start.updates above 0, or reference_policy to data"),
        ({"trust": TrustRegion(radius=0.2)}, "set warm_start.patience"),
        ({"spaces": Spaces(SPACES.observation, gym.spaces.Discrete(3))}, "bounded flat Box of actions"),
        ({"spaces": Spaces(gym.spaces.Discrete(3), SPACES.action)}, "flat Box of observations"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_agent(**arguments)


def test_more_steps_than_are_kept_are_refused_at_the_first_update() -> None:
    agent = make_agent(**{"rollouts.capacity": 127})
    with pytest.raises(ValueError, match=r"rollouts\.capacity must be at least the 128 steps .* of 32 rows .* got 127"):
        agent.update(make_batch())
    make_agent(**{"rollouts.capacity": 128}).update(make_batch())
    make_agent(**{"rollouts.capacity": 64, "reference_policy": "data"}).update(make_batch())


def test_a_reference_that_is_no_checkpoint_is_refused_before_the_run(tmp_path: Path) -> None:
    agent = make_agent(reference_policy=str(tmp_path / "missing.ckpt"))
    with pytest.raises(ValueError, match=r"no checkpoint file at .*missing\.ckpt"):
        agent.check_run(Trainer(logger=False, accelerator="cpu"), None)
