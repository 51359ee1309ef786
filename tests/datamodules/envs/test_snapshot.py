"""State of environments: a fresh copy continues exactly, and what cannot be captured is named."""

from __future__ import annotations

import functools
import io
import os
import random
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tape  # noqa: F401 - registers environments
from gymnasium.wrappers import FrameStackObservation, NormalizeObservation, RecordEpisodeStatistics

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.snapshot import SnapshotError, capture, restore
from datamodules.envs.wrappers import RepeatAction

STACKED = (NormalizeObservation, RecordEpisodeStatistics, functools.partial(FrameStackObservation, stack_size=3))


def play(env: gym.Env, actions: list[Any]) -> list[np.ndarray]:
    said: list[np.ndarray] = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        said += [np.asarray(observation), np.array([reward, terminated, truncated])]
        if terminated or truncated:
            said.append(np.asarray(env.reset()[0]))
    return said


@pytest.mark.parametrize(
    ("id", "wrappers"),
    [
        ("CartPole-v1", ()),
        ("Pendulum-v1", ()),
        ("Acrobot-v1", ()),
        ("MountainCar-v0", ()),
        ("reverie/Catch-v0", ()),
        ("reverie/TwoCatch-v0", (gym.wrappers.FlattenObservation,)),
        ("reverie/TMaze-v0", ()),
        ("FrozenLake-v1", ()),
        ("HalfCheetah-v5", ()),
        ("Ant-v5", ()),  # its reward reads quantities that a step leaves behind, and it touches the ground
        ("Pendulum-v1", STACKED),
        ("CartPole-v1", (functools.partial(RepeatAction, count=2),)),
    ],
)
def test_a_fresh_copy_continues_exactly(id: str, wrappers: tuple) -> None:
    spec = EnvironmentSpec(id, wrappers=wrappers)
    env = spec.make()
    env.reset(seed=3)
    env.action_space.seed(0)
    play(env, [env.action_space.sample() for _ in range(30)])
    state = capture(env)
    actions = [env.action_space.sample() for _ in range(50)]
    expected = play(env, actions)
    fresh = spec.make()
    fresh.reset(seed=99)
    restore(fresh, state)
    said = play(fresh, actions)
    assert len(said) == len(expected)
    for mine, theirs in zip(said, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


class Hoarder(gym.Env):
    """Holds one of everything."""

    def __init__(self) -> None:
        self.numbers = [1, (2.5, None), {"a": np.arange(3, dtype=np.uint16), 4: {5}}]
        self.recent: deque = deque([1, 2], maxlen=2)
        self.scalar = np.float32(0.1)
        self.empty = np.zeros((0, 3))
        self.dice = random.Random(1)
        self.rng = np.random.default_rng(2)
        self.helper = Helper()
        self.same_helper = self.helper
        self.reward_function = max
        self.window: Any = None


class Helper:
    def __init__(self) -> None:
        self.count = 0


def test_values_of_all_kinds_come_back() -> None:
    old, new = Hoarder(), Hoarder()
    old.numbers[2]["a"][0] = 7  # type: ignore[index]
    old.recent.append(3)
    old.helper.count = 5
    old.late = "appeared in an episode"  # type: ignore[attr-defined]
    new.stale = 1  # type: ignore[attr-defined]
    old.dice.random(), old.rng.random()
    helper = new.helper
    restore(new, capture(old))
    assert new.numbers[2]["a"].tolist() == [7, 1, 2]  # type: ignore[index]
    assert new.numbers[2]["a"].dtype == np.uint16  # type: ignore[index]
    assert new.numbers[:2] == [1, (2.5, None)]
    assert new.numbers[2][4] == {5}  # type: ignore[index]
    assert (list(new.recent), new.recent.maxlen) == ([2, 3], 2)
    assert type(new.scalar) is np.float32
    assert new.empty.shape == (0, 3)
    assert new.same_helper is new.helper is helper
    assert (helper.count, new.late) == (5, "appeared in an episode")  # type: ignore[attr-defined]
    assert not hasattr(new, "stale")
    assert new.dice.random() == old.dice.random()
    assert new.rng.random() == old.rng.random()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("file", io.BytesIO(), "Hoarder.file is a _io.BytesIO"),
        ("words", np.array(["a", None], dtype=object), "array of object"),
        ("deep", {"x": [io.BytesIO()]}, r"Hoarder.deep\['x'\]\[0\]"),
    ],
)
def test_what_cannot_be_captured_is_named(name: str, value: Any, said: str) -> None:
    env = Hoarder()
    setattr(env, name, value)
    with pytest.raises(SnapshotError, match=said):
        capture(env)


def test_memory_that_two_attributes_share_is_refused() -> None:
    env = Hoarder()
    env.all = np.zeros(4)  # type: ignore[attr-defined]
    env.half = env.all[:2]  # type: ignore[attr-defined]
    with pytest.raises(SnapshotError, match="half shares its memory"):
        capture(env)
    env = Hoarder()
    env.alias = env.numbers  # type: ignore[attr-defined]
    with pytest.raises(SnapshotError, match="one object with another"):
        capture(env)


class Sharing(gym.Env):
    """Returns its own array, which Gymnasium's checker of first steps then holds, too."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.place = np.zeros(1, np.float32)
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = self.place + np.float32(action)
        return self.place, 0.0, False, False, {}


@pytest.mark.filterwarnings("ignore:.*share an object")
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_what_the_checker_of_first_steps_holds_is_no_state(steps: int) -> None:
    env, copy = (gym.wrappers.PassiveEnvChecker(Sharing()) for _ in range(2))
    env.reset()
    copy.reset()
    for _ in range(steps):
        env.step(1)
    restore(copy, capture(env))
    assert [float(e.step(1)[0][0]) for e in (copy, copy, env)] == [steps + 1.0, steps + 2.0, steps + 1.0]


def test_a_copy_of_another_make_is_refused() -> None:
    old, new = Hoarder(), Hoarder()
    new.helper = new.same_helper = None  # type: ignore[assignment]
    with pytest.raises(SnapshotError, match=r"Hoarder\.helper is a NoneType in the copy"):
        restore(new, capture(old))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": "x"}, r"Hoarder\.step is no data"),
        ({"np_random": 1}, r"Hoarder\.np_random is no data"),
        ({"__class__": 1}, r"__class__ is no data"),
        ({"a\x1b[2J": 1}, r"is no data in the copy"),
        ({"reward_function": "x"}, r"reward_function is no data"),
        ({"package": {"kind": "object", "type": "module", "attributes": {"sep": "x"}}}, r"package is no data"),
        ({"numbers": {"kind": "list", "items": ["os.system"], "limit": None}}, r"numbers\[0\] may name a file or code"),
        ({"late": "/etc/passwd"}, r"late may name a file or code"),
        ({"late": "a.b"}, r"late may name a file or code"),
        ({"helper": {"kind": "object", "type": "Helper", "attributes": {"count": "../x"}}}, "count may name a file"),
        (
            {"modules": {"kind": "list", "items": [{"kind": "object", "type": "module", "attributes": {}}]}},
            "damaged|module",
        ),
        ({"scalar": {"kind": "array", "dtype": "O", "bytes": np.zeros(8, np.uint8), "shape": [1]}}, "damaged"),
        ({"scalar": {"kind": "array", "dtype": "f4", "bytes": np.zeros(8, np.uint8), "shape": [9]}}, "damaged"),
        ({"rng": {"kind": "generator", "state": 5}}, "damaged"),
        ({"dice": {"kind": "random", "state": 5}}, "damaged"),
        ({"scalar": {}}, "damaged"),
    ],
)
def test_a_state_of_a_stranger_sets_data_alone(changes: dict[str, Any], said: str) -> None:
    env = Hoarder()
    env.package, env.modules = os, [os]  # type: ignore[attr-defined]
    state = {key: value for key, value in capture(Hoarder()).items() if key not in changes}
    with pytest.raises(SnapshotError, match=said) as told:
        restore(env, {**changes, **state})
    assert str(told.value).isprintable()
    assert os.sep == "/"


def test_folders_stay_those_of_the_copy_and_sentences_are_restored() -> None:
    old, new = Hoarder(), Hoarder()
    old.video_folder, new.video_folder = "/a", "/b"  # type: ignore[attr-defined]
    old.mission = "go to the door/window."  # type: ignore[attr-defined]
    restore(new, capture(old))
    assert (new.video_folder, new.mission) == ("/b", "go to the door/window.")  # type: ignore[attr-defined]
