"""Crafter and the Control Suite as Gymnasium environments, with stand-ins for their packages."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from datamodules.envs.make import make_env


# ------------------------------------------------------------------------------------------------------------- Crafter
class FakeCrafter:
    """Dies in the second step of every second episode; else its length ends the episode."""

    def __init__(self, size: tuple[int, int], length: int, reward: bool, seed: int | None = None) -> None:
        self.size = size
        self.length = length
        self.seed = -1 if seed is None else seed
        self.step_count = self.episode = 0
        self.action_space = SimpleNamespace(n=17)

    def reset(self) -> np.ndarray:
        self.step_count = 0
        self.episode = self.episode + 1
        return self._image()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        assert type(action) is int
        self.step_count += 1
        dead = self.step_count == 2 and self.episode % 2 == 0
        done = dead or self.step_count == self.length
        return self._image(), np.float64(0.1), done, {"discount": 1 - float(dead), "achievements": {"wake_up": 1}}

    def render(self, size: tuple[int, int]) -> np.ndarray:
        return np.zeros((*size, 3), np.uint8)

    def _image(self) -> np.ndarray:
        return np.full((*self.size, 3), (self.seed * 16 + self.episode * 4 + self.step_count) % 256, np.uint8)


@pytest.fixture
def crafter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crafter", SimpleNamespace(Env=FakeCrafter))  # type: ignore[arg-type]


@pytest.mark.usefixtures("crafter")
def test_crafter_ends_with_death_and_is_cut_by_its_length() -> None:
    env = make_env("reverie/Crafter-v1", length=3)
    observation, _ = env.reset(seed=1)
    assert observation.shape == (64, 64, 3)
    assert env.observation_space.contains(observation)
    assert env.action_space.n == 17  # type: ignore[attr-defined]
    flags = [env.step(np.int64(0))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]
    env.reset()
    flags = [env.step(0)[2:4] for _ in range(2)]
    assert flags == [(False, False), (True, False)]


@pytest.mark.usefixtures("crafter")
def test_crafter_is_seeded_and_goes_on_to_other_worlds() -> None:
    env = make_env("reverie/Crafter-v1", size=8)
    first = env.reset(seed=3)[0]
    assert (first == 3 * 16 + 4).all()
    assert (env.reset()[0] == 3 * 16 + 8).all()  # the second of the series
    assert (env.reset(seed=3)[0] == first).all()
    assert env.step(0)[4]["achievements"] == {"wake_up": 1}
    check_env(env.unwrapped, skip_render_check=True)
    assert make_env("reverie/Crafter-v1", render_mode="rgb_array").unwrapped.render().shape == (512, 512, 3)  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------- Control Suite
class Time(NamedTuple):
    reward: float | None
    discount: float | None
    observation: dict[str, Any]
    is_last: bool

    def last(self) -> bool:
        return self.is_last


class FakeTask:
    """Three steps; the discount of the last is that of the task's name."""

    def __init__(self, task: str, seed: int) -> None:
        self.discount = float(task == "cut")
        self.seed = seed
        self.taken = 0
        self.episode = 0
        self.actions: list[np.ndarray] = []
        self.physics = SimpleNamespace(render=self._render)

    def action_spec(self) -> Any:
        return SimpleNamespace(shape=(2,), minimum=np.array([-1.0, -2.0]), maximum=np.array(3.0))

    def observation_spec(self) -> dict[str, Any]:
        return {"height": SimpleNamespace(shape=()), "joints": SimpleNamespace(shape=(2, 2))}

    def reset(self) -> Time:
        self.taken = 0
        self.episode = self.episode + 1
        return Time(None, None, self._observation(), False)

    def step(self, action: np.ndarray) -> Time:
        assert action.dtype == np.float64
        self.taken += 1
        last = self.taken == 3
        return Time(0.5, self.discount if last else 1.0, self._observation(), last)

    def close(self) -> None: ...

    def _observation(self) -> dict[str, Any]:
        return {"height": float(self.seed), "joints": np.arange(4.0).reshape(2, 2) + self.episode}

    def _render(self, height: int, width: int, camera_id: int) -> np.ndarray:
        return np.full((height, width, 3), camera_id, np.uint8)[::-1]


def load(domain: str, task: str, task_kwargs: dict[str, int] | None = None) -> FakeTask:
    return FakeTask(task, (task_kwargs or {"random": -1})["random"])


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Any:
    tasks = (("walker", "cut"), ("walker", "end"), ("quadruped", "cut"))
    package = ModuleType("dm_control")
    package.suite = SimpleNamespace(ALL_TASKS=tasks, load=load)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dm_control", package)
    return package


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(("task", "flags"), [("cut", (False, True)), ("end", (True, False))])
def test_a_task_ends_where_its_discount_is_zero_and_is_cut_elsewhere(task: str, flags: tuple[bool, bool]) -> None:
    env = make_env("reverie/ControlSuite-v1", domain="walker", task=task, pixels=False)
    env.reset(seed=0)
    seen = [env.step(env.action_space.sample()) for _ in range(3)]
    assert [step[2:4] for step in seen] == [(False, False), (False, False), flags]
    assert [step[1] for step in seen] == [0.5, 0.5, 0.5]


@pytest.mark.usefixtures("control")
def test_vectors_come_flat_by_key() -> None:
    env = make_env("reverie/ControlSuite-v1", domain="walker", task="cut", pixels=False)
    observation, _ = env.reset(seed=7)
    assert observation["height"].tolist() == [7.0]
    assert observation["joints"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert env.observation_space.contains(observation)
    assert env.reset()[0]["joints"].tolist() == [2.0, 3.0, 4.0, 5.0]
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    assert (low.tolist(), high.tolist()) == ([-1.0, -2.0], [3.0, 3.0])
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.usefixtures("control")
def test_pictures_are_of_the_camera_that_follows() -> None:
    for domain, camera, shown in (("walker", None, 0), ("quadruped", None, 2), ("quadruped", 1, 1)):
        env = make_env("reverie/ControlSuite-v1", domain=domain, task="cut", camera=camera, render_mode="rgb_array")
        image = env.reset(seed=0)[0]["image"]
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert (image == shown).all()
        assert env.unwrapped.render().shape == (256, 256, 3)  # type: ignore[union-attr]


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(
    ("domain", "task", "said"),
    [
        ("walker", "fly", "no task 'walker' 'fly'; tasks of walker: cut, end"),
        ("horse", "run", "domains: quadruped, wal"),
    ],
)
def test_tasks_that_are_not_there_are_named(domain: str, task: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_env("reverie/ControlSuite-v1", domain=domain, task=task)


# ---------------------------------------------------------------------------------------------------- missing packages
@pytest.mark.parametrize(
    ("package", "id", "arguments", "extra"),
    [
        ("crafter", "reverie/Crafter-v1", {}, "crafter"),
        ("dm_control", "reverie/ControlSuite-v1", {"domain": "walker", "task": "walk"}, "control"),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, id: str, arguments: dict[str, str], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"{id}.*not installed.*pip install -e '\.\[{extra}\]'"):
        make_env(id, **arguments)


def test_a_package_for_another_mujoco_is_named(control: Any) -> None:
    def load(domain: str, task: str) -> None:
        raise AttributeError("'MjModel' object has no attribute 'flex_vertedge'")

    control.suite.load = load
    with pytest.raises(ValueError, match=r"flex_vertedge.*pip install -e '\.\[control\]'"):
        make_env("reverie/ControlSuite-v1", domain="walker", task="cut")
