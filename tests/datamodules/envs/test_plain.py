"""Observations and actions of every kind in the kinds that agents know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shown
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from pytorch_lightning import Trainer
from space_agents import BYTES, a2c, dreamer, r2d2, spec
from tensordict import TensorDict

from callbacks.evaluation.rollout import evaluate_policy
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.plain import plain_space
from datamodules.envs.snapshot import capture
from datamodules.online import OnlineDataModule
from datamodules.replay.sequences import LatestWindows
from modules.agent.agent import Agent
from modules.algorithms.atac import ATAC
from modules.batch import Spaces

PAIR = Dict({"b": Discrete(3), "a": Box(-1, 1, (2,), np.float32)})


def binary(size: int) -> Box:
    return Box(0, 1, (size,), np.int8)


@pytest.mark.parametrize(
    ("space", "plain"),
    [
        (Discrete(4), binary(4)),
        (Discrete(3, start=5), binary(3)),
        (MultiDiscrete([2, 3]), binary(5)),
        (MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [-2, 0]]), binary(14)),
        (MultiBinary(6), binary(6)),
        (MultiBinary([2, 3]), binary(6)),
        (Box(0, 1, (10, 10, 4), bool), binary(400)),
        (Tuple([Discrete(2), PAIR]), Dict({"0": binary(2), "1/a": PAIR["a"], "1/b": binary(3)})),
        (Dict({"deep": PAIR, "flat": BYTES(shape=(3,))}),
         Dict({"deep/a": PAIR["a"], "deep/b": binary(3), "flat": BYTES(shape=(3,))})),
        (BYTES(shape=(3, 64, 64)), BYTES(shape=(64, 64, 3))),
        (BYTES(shape=(8, 84, 84)), BYTES(shape=(84, 84, 8))),
        (BYTES(shape=(10, 12)), BYTES(shape=(10, 12, 1))),
        (BYTES(shape=(3, 3)), BYTES(shape=(9,))),
        (BYTES(shape=(4, 16, 16, 3)), BYTES(shape=(16, 16, 12))),
        (BYTES(shape=(4, 3, 16, 16)), BYTES(shape=(16, 16, 12))),
        (Box(0, 1, (16, 16, 3), np.float32), BYTES(shape=(16, 16, 3))),
        (Box(-1, 1, (1, 16, 16), np.float64), BYTES(shape=(16, 16, 1))),
        (Box(0, 255, (16, 16, 3), np.int64), BYTES(shape=(16, 16, 3))),
        (Box(0, 1, (40, 40), np.float32), BYTES(shape=(40, 40, 1))),
        (Box(-np.inf, np.inf, (5, 7), np.float32), Box(-np.inf, np.inf, (35,), np.float32)),
        (Box(0, 1, (16, 16), np.float32), Box(0, 1, (256,), np.float32)),
        (Box(0, 9, (2, 2, 2), np.int64), Box(0, 9, (8,), np.int64)),
    ],
)  # fmt: skip
def test_observations_become_vectors_of_numbers_or_images_of_bytes(space: Space, plain: Space) -> None:
    env = spec(space).make()
    assert env.observation_space == plain
    seen = [env.reset(seed=0)[0], env.step(env.action_space.sample())[0]]
    assert all(plain.contains(observation) for observation in seen)
    back = Spaces.from_json(Spaces(plain, Discrete(2)).to_json())
    assert back.observation == plain
    capture(env)  # exact resume goes on within episodes


@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, (3,), np.float32), Box(-1, 1, (), np.float64), BYTES(shape=(128,)), BYTES(shape=(64, 64, 3)),
        BYTES(shape=(10, 5, 1)), BYTES(shape=(4, 4, 16)), BYTES(shape=(5, 10, 7)), Box(0, 1, (4,), bool),
        Dict({"image": BYTES(shape=(8, 8, 3)), "speed": Box(-1, 1, (2,), np.float32)}),
    ],
)  # fmt: skip
def test_vectors_and_images_stay_and_their_environment_is_not_wrapped(space: Space) -> None:
    assert plain_space(space) == (space, None)
    assert isinstance(spec(space).make().unwrapped, shown.Shown)
    assert type(spec(space).make()).__name__ == "OrderEnforcing"  # Gymnasium's own, the last one


def test_what_is_seen_is_what_was_shown() -> None:
    cases: list[tuple[Space, Any]] = [
        (Discrete(3, start=5), lambda x: np.eye(3)[x - 5]),
        (MultiDiscrete([2, 3], start=[1, -1]), lambda x: np.concatenate([np.eye(2)[x[0] - 1], np.eye(3)[x[1] + 1]])),
        (BYTES(shape=(3, 9, 8)), lambda x: np.moveaxis(x, 0, -1)),
        (BYTES(shape=(2, 9, 8, 3)), lambda x: np.concatenate([x[0], x[1]], -1)),
        (BYTES(shape=(9, 8)), lambda x: x[:, :, None]),
        (Box(-1, 1, (9, 8, 3), np.float32), lambda x: np.rint(127.5 * (x + 1))),
        (Box(-1, 1, (2, 3), np.float32), lambda x: x.reshape(-1)),
    ]
    for space, expected in cases:
        env = spec(space).make()
        seen, _ = env.reset(seed=1)
        np.testing.assert_allclose(seen, expected(env.unwrapped.last), atol=1e-6)  # type: ignore[attr-defined]
    nested = spec(Tuple([Discrete(2), PAIR])).make()
    seen, _ = nested.reset(seed=1)
    first, pair = nested.unwrapped.last  # type: ignore[attr-defined]
    assert [seen["0"].argmax(), seen["1/b"].argmax()] == [first, pair["b"]]
    np.testing.assert_array_equal(seen["1/a"], pair["a"])


def test_a_class_outside_of_its_space_is_named() -> None:
    _, convert = plain_space(Discrete(3))
    assert convert is not None
    with pytest.raises(ValueError, match=r"observation 3 is outside of its space Discrete\(3\)"):
        convert(3)


@pytest.mark.parametrize(
    ("space", "plain"),
    [
        (MultiBinary(3), MultiDiscrete([2, 2, 2])),
        (MultiDiscrete([[2, 3], [4, 5]]), MultiDiscrete([2, 3, 4, 5])),
        (Box(-2, 3, (2,), np.int64), MultiDiscrete([6, 6], start=[-2, -2])),
        (Box(-1, 2, (2, 2), np.float32), Box(-1, 2, (4,), np.float32)),
        (Tuple([Discrete(2), MultiBinary(2)]), MultiDiscrete([2, 2, 2])),
        (Dict({"one of many": Discrete(5000)}), MultiDiscrete([5000])),  # as many as data may hold
        (Dict({"go": Discrete(3, start=1), "say": MultiDiscrete([2, 4])}), MultiDiscrete([3, 2, 4], start=[1, 0, 0])),
        (Dict({"a": Box(0, 1, (2,), np.float32), "b": Box(-3, 1, (1,), np.float64)}),
         Box(np.array([0, 0, -3]), np.array([1, 1, 1]), dtype=np.float32)),
    ],
)  # fmt: skip
def test_actions_become_numbers_or_a_flat_box(space: Space, plain: Space) -> None:
    env = spec(Discrete(2), space).make()
    assert env.action_space == plain
    env.reset(seed=0)
    for _ in range(4):
        env.step(env.action_space.sample())  # the environment checks what it gets


# -------------------------------------------------------------------------------------------------------------- agents
def batch_of(made: EnvironmentSpec, spaces: Spaces) -> TensorDict:
    """`[2, 4]` windows of random actions, with what A2C stores."""
    env = made.make()
    rows: list[dict[str, Any]] = []
    for copy in range(2):
        observation, _ = env.reset(seed=copy)
        for time in range(4):
            action = env.action_space.sample()
            seen = {k: torch.as_tensor(v) for k, v in observation.items()} if isinstance(observation, dict) else None
            rows.append({"observation": TensorDict(seen) if seen else torch.as_tensor(observation),
                         "previous_action": torch.as_tensor(action), "reward": torch.tensor(1.0),
                         "is_first": torch.tensor(time == 0), "terminated": torch.tensor(False),
                         "truncated": torch.tensor(False), "stored": torch.zeros(1)})  # fmt: skip
            observation = env.step(action)[0]
    return torch.stack([TensorDict(row) for row in rows]).view(2, 4)  # type: ignore[return-value]


@pytest.mark.parametrize("make", [dreamer, a2c])
@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (Discrete(4), MultiBinary(2)),
        (Dict({"cell": MultiDiscrete([2, 3]), "seen": BYTES(shape=(9, 9)), "ram": BYTES(shape=(16,))}), Discrete(3)),
        (Box(0, 1, (12, 12, 3), np.float32), Dict({"a": Box(0, 1, (1,), np.float32)})),
    ],
)
def test_agents_learn_from_them_and_a_checkpoint_plays_the_same(
    make: Any, observation: Space, action: Space, tmp_path: Path
) -> None:
    made = spec(observation, action)
    env = made.make()
    agent = make(Spaces(env.observation_space, env.action_space))
    metrics = agent.update(batch_of(made, agent.spaces)).metrics
    assert all(torch.isfinite(value).all() for value in metrics.values())
    checkpoint: dict[str, Any] = {"state_dict": agent.state_dict(), "hyper_parameters": dict(agent.hparams)}
    agent.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "file.ckpt")
    again = Agent.from_checkpoint(tmp_path / "file.ckpt")
    mine, theirs = (evaluate_policy(who, made, 2, 0).returns for who in (agent, again))
    np.testing.assert_array_equal(mine, theirs)
    assert mine.tolist() == [[5.0, 5.0]]


def test_values_are_learned_of_classes_and_images() -> None:
    for observation in (Discrete(4), BYTES(shape=(3, 12, 12)), Tuple([MultiBinary(2), Discrete(3)])):
        env = spec(observation).make()
        agent = r2d2(Spaces(env.observation_space, env.action_space))
        assert evaluate_policy(agent, spec(observation), 1, 0).returns.tolist() == [[5.0]]


def test_bytes_of_vectors_are_seen_and_predicted_between_0_and_1() -> None:
    model = dreamer(Spaces(BYTES(shape=(128,)), Discrete(2))).world_model  # type: ignore[union-attr]
    ram = torch.full((2, 3, 128), 255, dtype=torch.uint8)
    assert model.prepare({"observation": ram})["observation"].unique().tolist() == [1.0]  # type: ignore[operator]
    features = torch.zeros(2, 3, model.rssm.width)  # type: ignore[union-attr, arg-type]
    losses = model.reconstruction_losses(features, {"observation": ram})["observation"]  # type: ignore[operator]
    assert losses.max() < 0.5 * 128 * 2  # of squares of differences that are about 1
    shown_again = model.decode(features)["observation"]  # type: ignore[operator]
    torch.testing.assert_close(shown_again[0, 0] / 255.0, model.decoder(features[0])["observation"][0])  # type: ignore[operator]
    offline = ATAC(Spaces(BYTES(shape=(128,)), Box(-1, 1, (1,), np.float32)), hidden=[4])
    assert offline.normalize(ram).unique().tolist() == [1.0]
    odd = Spaces(Box(np.array([0, 10]), np.array([200, 10]), dtype=np.uint8), Discrete(2)).statistics_by_key()
    assert [x.tolist() for x in odd["observation"]] == [[0.0, 10.0], [200.0, 1.0]]


def test_classes_are_predicted_as_chances() -> None:
    env = spec(Discrete(500)).make()
    model = dreamer(Spaces(env.observation_space, Discrete(2))).world_model  # type: ignore[union-attr]
    seen, logits = torch.zeros(1, 500, dtype=torch.int8), torch.full((1, 500), -20.0)
    seen[0, 7] = 1
    decoder: Any = model.decoder
    assert decoder.losses({"observation": logits}, {"observation": seen})["observation"].item() == pytest.approx(20.0)
    logits[0, 7] = 20.0
    assert decoder.losses({"observation": logits}, {"observation": seen})["observation"].item() < 1e-5
    assert decoder.to_units({"observation": logits})["observation"].round().equal(seen.float())


@pytest.mark.long
def test_classes_and_images_are_collected_and_learned_from(tmp_path: Path) -> None:
    space = Dict({"cell": Discrete(3), "seen": BYTES(shape=(3, 8, 8))})
    made = {"observation": space, "action": MultiBinary(2)}
    sizes = {"environments": 2, "prefill": 8, "batch_size": 2, "sequence_length": 4, "capacity": 64}
    data = OnlineDataModule(
        "shown:Shown-v0", made, **sizes, replay=LatestWindows, vectorization="async", folder=str(tmp_path),
        steps_per_epoch=10,
    )  # fmt: skip
    agent = a2c(data.spaces)
    trainer = Trainer(accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, log_every_n_steps=1,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(agent, data)
    assert agent.updates == 2
    rows = data.sample_windows(2, 3, torch.Generator())["observation"]
    assert rows["cell"].sum(-1).unique().tolist() == [1]
    assert (rows["seen"].shape, rows["seen"].dtype) == ((2, 3, 8, 8, 3), torch.uint8)
