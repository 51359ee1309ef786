"""Environments by id, in their wrappers."""

from __future__ import annotations

import functools
import itertools
import json
import pickle
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FlattenObservation, TimeLimit
from jsonargparse import ArgumentParser

from datamodules.envs.make import EnvironmentSpec, make_env, vector_of
from datamodules.envs.wrappers import (
    KeepEntries,
    RepeatAction,
    ResizeImages,
    StackImages,
    area_weights,
    resize_image,
)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("Pendulumm-v1", "did you mean 'Pendulum-v1'"),
        ("Pendulum-v7", "did you mean 'Pendulum-v1'"),
        ("hoper", "did you mean 'Hopper-v"),
        ("zzzz", "pprint_registry"),
        ("no_such_package:X-v0", "no_such_package"),
    ],
)
def test_unknown_environment_names_the_nearest(wrong: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_env(wrong)


def test_mujoco_is_quiet_and_leaves_no_log(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    env = make_env("HalfCheetah-v5")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_vector_env_is_seeded_copy_by_copy() -> None:
    pendulum = EnvironmentSpec("Pendulum-v1").make
    env, again, other = (vector_of([pendulum] * 3, seed=7, autoreset=AutoresetMode.SAME_STEP) for _ in range(3))
    first, _ = env.reset(seed=7)
    for copy in range(3):
        alone, _ = make_env("Pendulum-v1").reset(seed=7 + copy)
        np.testing.assert_array_equal(first[copy], alone)
    np.testing.assert_array_equal(again.reset()[0], other.reset()[0])
    assert not np.array_equal(again.reset()[0], first)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    with pytest.raises(ValueError, match="environments must be at least 1"):
        vector_of([], seed=0, autoreset=AutoresetMode.SAME_STEP)


def test_an_argument_that_the_environment_does_not_take_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"'Pendulum-v1' cannot be made with the arguments \{'gravity': 1\}"
    ) as refused:
        make_env("Pendulum-v1", gravity=1)
    assert str(refused.value).endswith("; without any: --data.environment_arguments null")


def test_a_spec_makes_the_environment_in_its_wrappers_and_survives_being_plain() -> None:
    spec = EnvironmentSpec(
        "CartPole-v1",
        {"sutton_barto_reward": True},
        (functools.partial(TimeLimit, max_episode_steps=5), FlattenObservation),
    )
    plain = spec.to_plain()
    assert plain == {
        "id": "CartPole-v1",
        "arguments": {"sutton_barto_reward": True},
        "wrappers": [
            {"class_path": "gymnasium.wrappers.common.TimeLimit", "init_args": {"max_episode_steps": 5}},
            {"class_path": "gymnasium.wrappers.transform_observation.FlattenObservation", "init_args": {}},
        ],
    }
    again = EnvironmentSpec.from_plain(json.loads(json.dumps(plain)), "x.ckpt")
    assert again.to_plain() == plain
    env = again.make(render_mode="rgb_array")
    assert isinstance(env, FlattenObservation)
    assert isinstance(env.env, TimeLimit)
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)
    steps = [env.step(t % 2) for t in range(5)]
    assert [truncated for *_, truncated, _ in steps] == [False] * 4 + [True]
    assert [reward for _, reward, *_ in steps] == [0.0] * 5  # where it is 1 otherwise


def test_wrappers_of_a_config_are_taken_by_their_class() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--wrappers", type=list[Callable[[gym.Env], gym.Env]])
    path = "gymnasium.wrappers.TimeLimit"
    given = {"wrappers": [{"class_path": path, "init_args": {"max_episode_steps": 5}}]}
    wrappers = parser.instantiate(parser.parse_object(given)).wrappers
    spec = EnvironmentSpec("CartPole-v1", wrappers=wrappers)
    assert spec.to_plain()["wrappers"][0]["init_args"] == {"max_episode_steps": 5}
    assert pickle.loads(pickle.dumps(spec)).to_plain() == spec.to_plain()


def test_wrong_wrappers_are_named() -> None:
    with pytest.raises(ValueError, match="wrappers must be a class"):
        EnvironmentSpec("CartPole-v1", wrappers=(lambda env: env,))
    with pytest.raises(ValueError, match=r"TimeLimit cannot wrap 'CartPole-v1'.*max_episode_steps"):
        EnvironmentSpec("CartPole-v1", wrappers=(TimeLimit,)).make()
    with pytest.raises(ValueError, match=r"ResizeImages cannot wrap 'CartPole-v1': there is no image"):
        EnvironmentSpec("CartPole-v1", wrappers=(functools.partial(ResizeImages, size=4),)).make()


def test_repeated_actions_add_up_and_stop_at_the_end() -> None:
    env = EnvironmentSpec("reverie/Catch-v0", {"rows": 6}, (functools.partial(RepeatAction, count=2),)).make()
    env.reset(seed=0)
    assert [env.step(1)[2] for _ in range(3)] == [False, False, True]  # 2 + 2 + 1 steps
    cart = EnvironmentSpec("CartPole-v1", wrappers=(functools.partial(RepeatAction, count=3),)).make()
    cart.reset(seed=0)
    assert cart.step(0)[1] == 3.0
    with pytest.raises(ValueError, match="count must be at least 1"):
        EnvironmentSpec("CartPole-v1", wrappers=(functools.partial(RepeatAction, count=0),)).make()


def test_images_stand_together_with_those_before_them() -> None:
    stacked = EnvironmentSpec("reverie/Catch-v0", {"rows": 6}, (functools.partial(StackImages, count=3),)).make()
    plain = EnvironmentSpec("reverie/Catch-v0", {"rows": 6}).make()
    assert stacked.observation_space.shape == (6, 5, 3)
    for seed in (0, 1):  # of the episode before nothing is left
        images = [plain.reset(seed=seed)[0]] * 3
        found = stacked.reset(seed=seed)[0]
        for action in (0, 2, 1, 0):
            assert np.array_equal(found, np.concatenate(images[-3:], -1))
            assert stacked.observation_space.contains(found)
            found, images = stacked.step(action)[0], [*images, plain.step(action)[0]]
    with pytest.raises(ValueError, match=r"images alone can be stacked, got Box.*; leave StackImages out"):
        EnvironmentSpec("CartPole-v1", wrappers=(StackImages,)).make()


def test_entries_are_kept_in_their_order() -> None:
    spec = EnvironmentSpec("CartPole-v1", wrappers=(functools.partial(KeepEntries, indices=[2, 0]),))
    env, whole = spec.make(), EnvironmentSpec("CartPole-v1").make()
    assert env.observation_space.high.tolist() == whole.observation_space.high[[2, 0]].tolist()
    assert env.reset(seed=3)[0].tolist() == whole.reset(seed=3)[0][[2, 0]].tolist()
    assert env.observation_space.contains(env.step(1)[0])
    for indices in ([], [0, 4], [-1], [1, 1]):
        with pytest.raises(ValueError, match="indices must be different numbers from 0 to 3, got "):
            KeepEntries(whole, indices)
    with pytest.raises(ValueError, match="of a flat Box alone"):
        KeepEntries(EnvironmentSpec("reverie/Catch-v0").make(), [0])


def test_a_pixel_is_the_mean_of_the_area_that_it_covers() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    halved = resize_image(image, 2)
    for row, column in itertools.product(range(2), range(2)):
        block = image[3 * row : 3 * row + 3, 2 * column : 2 * column + 2].astype(np.float64)
        assert np.abs(halved[row, column] - block.mean((0, 1))).max() <= 0.5 + 1e-4
    # Enlarged by a whole factor, pixels are repeated; by another one, the covered parts are mixed.
    np.testing.assert_array_equal(resize_image(image[:2, :2], 4), image[:2, :2].repeat(2, 0).repeat(2, 1))
    np.testing.assert_allclose(area_weights(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=1e-7)


def test_images_in_a_dict_are_resized_and_the_rest_is_left() -> None:
    env = ResizeImages(EnvironmentSpec("tape:Many-v0").make(), 8)
    assert env.observation_space["camera/front"] == gym.spaces.Box(0, 255, (8, 8, 1), np.uint8)
    assert env.observation_space["clock"] == gym.spaces.Box(0, 1, (100,), np.int8)  # a class, one-hot
    env.reset()
    observation, *_ = env.step(np.array([1, 1]))
    np.testing.assert_array_equal(observation["camera/front"], np.full((8, 8, 1), 1, np.uint8))
    assert np.flatnonzero(observation["clock"]).tolist() == [1]
