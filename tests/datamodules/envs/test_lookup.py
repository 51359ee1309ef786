"""Environments that are not there: what to install or to say instead, and modules in the current folder."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

import datamodules
from datamodules.envs.lookup import EXTRAS
from datamodules.envs.make import EnvironmentSpec, make_env, vector_of
from modules.trust.beside import find_beside, find_named, with_finder
from modules.trust.names import is_trusted, trusting

HOME = Path(datamodules.__file__).parent.parent  # type: ignore[arg-type]
ROOM = """
import gymnasium as gym, numpy as np
class Room(gym.Env):
    observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, True, {}
class Twice(gym.ObservationWrapper):
    def observation(self, observation):
        return 2 * observation
gym.register("Room-v0", "NAME:Room")
"""


@pytest.fixture
def extras() -> dict[str, list[str]]:
    return tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_every_extra_that_is_advised_holds_the_package(extras: dict[str, list[str]]) -> None:
    packages = {"ale_py": "ale-py", "cv2": "opencv-python-headless", "dm_control": "dm-control"}
    for module, extra in EXTRAS.items():
        names = [re.split(r"[=<>\[]", requirement)[0] for requirement in extras[extra]]
        assert packages.get(module, module) in names, module


@pytest.mark.parametrize(
    ("id", "said", "extra"),
    [
        ("ALE/Nowhere-v5", "Atari games need", "atari"),
        ("PongNoFrameskip-v4", "the game is 'ALE/Pong-v5' by now", "atari"),
        ("dm_control/walker-walk-v0", "--data.environment reverie/ControlSuite-v1", "control"),
        ("CrafterReward-v1", "'reverie/Crafter-v1'", "crafter"),
    ],
)
def test_games_of_other_packages_name_the_extra(id: str, said: str, extra: str, extras: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="unknown environment") as caught:
        make_env(id)
    message = str(caught.value)
    assert said in message
    assert f"pip install -e '.[{extra}]'" in message
    assert extra in extras
    assert len(message) < 400
    for ours in re.findall(r"reverie/[\w-]+", message):
        assert ours in gym.registry


@pytest.mark.parametrize("id", ["Reacher-v2", "Hopper-v3", "Pusher-v4", "LunarLander-v2"])
def test_old_versions_name_the_newest_and_it_is_there(id: str) -> None:
    with pytest.raises(ValueError, match=id) as caught:
        make_env(id)
    newest = re.findall(r"use [`']([\w-]+)[`']", str(caught.value))
    assert [name in gym.registry for name in newest] == [True]


def test_whatever_an_environment_raises_when_it_is_made_is_one_message() -> None:
    class Broken(gym.Env):
        def __init__(self) -> None:
            raise AttributeError("no such field")

    gym.register("Broken-v0", Broken)
    try:
        with pytest.raises(ValueError, match="'Broken-v0' cannot be made: AttributeError: no such field"):
            make_env("Broken-v0")
    finally:
        del gym.registry["Broken-v0"]
    with pytest.raises(ValueError, match=r"environment 'not an id'"):
        make_env("not an id")


class NoWrapper:
    def __init__(self, env: gym.Env) -> None: ...


class NeedsPackage(gym.Wrapper):
    def __init__(self, env: gym.Env) -> None:
        import no_such_package  # noqa: F401


@pytest.mark.parametrize(
    ("wrapper", "said"),
    [
        (NoWrapper, "NoWrapper is no wrapper: it makes a NoWrapper of 'CartPole-v1'"),
        (NeedsPackage, "NeedsPackage cannot wrap 'CartPole-v1': No module named 'no_such_package'"),
        (gym.wrappers.AtariPreprocessing, "AtariPreprocessing cannot wrap 'CartPole-v1'"),
    ],
)
def test_wrappers_that_do_not_fit_are_one_message(wrapper: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        EnvironmentSpec("CartPole-v1", {}, (wrapper,)).make()


def test_a_wrapper_without_opencv_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, extras: dict[str, list[str]]
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"ResizeObservation cannot wrap.*\.\[atari\]"):
        EnvironmentSpec("reverie/Catch-v0", {}, (partial(gym.wrappers.ResizeObservation, shape=(8, 8)),)).make()
    assert any(requirement.startswith("opencv") for requirement in extras["atari"])


def test_missing_arguments_say_where_they_are_given() -> None:
    with pytest.raises(ValueError, match=r"'domain' and 'task'.*--data.environment_arguments"):
        make_env("reverie/ControlSuite-v1")


# ------------------------------------------------------------------------------------------- in the current folder
@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with an environment and a wrapper in the current folder, as an installed command sees it."""
    name = f"room_{abs(hash(str(tmp_path))) % 10**8}"
    (tmp_path / f"{name}.py").write_text(ROOM.replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)
    gym.registry.pop("Room-v0", None)


@pytest.mark.long
def test_a_module_beside_is_found_and_in_processes_of_their_own_too(beside: str) -> None:
    env = make_env(f"{beside}:Room-v0")
    assert env.reset()[0].shape == (2,)
    wrapper = getattr(sys.modules[beside], "Twice")  # noqa: B009  # of a module that mypy cannot see
    spec = EnvironmentSpec(f"{beside}:Room-v0", {}, (wrapper,))
    made = vector_of([spec.make], seed=0, autoreset=AutoresetMode.SAME_STEP, asynchronous=True)
    try:
        assert made.step(made.action_space.sample())[1].tolist() == [1.0]
    finally:
        made.close()


def test_a_file_beside_does_not_stand_in_for_a_package(beside: str, tmp_path: Path) -> None:
    (tmp_path / "crafter.py").write_text("raise SystemExit('it was imported')")
    if importlib.util.find_spec("crafter") is None:
        with pytest.raises(ValueError, match="No module named 'crafter'"):
            make_env("reverie/Crafter-v1")
    assert str(tmp_path) not in sys.path


def test_modules_that_are_named_are_found_and_no_others(beside: str, tmp_path: Path) -> None:
    find_named(f"--data.source {beside}.npz --run_dir runs/{beside} --config {beside}.yaml --x y.{beside}.Z")
    find_beside("no_such_module")
    find_beside("json")
    assert importlib.util.find_spec(beside) is None
    (tmp_path / "no_such_package.py").write_text("raise SystemExit('it was imported')")
    (tmp_path / "json.py").write_text("raise SystemExit('it was imported')")
    find_named(f"data:\n  init_args:\n    wrappers: [{{class_path: {beside}.Twice}}, {{class_path: json.JSONDecoder}}]")
    assert importlib.util.find_spec("no_such_package") is None  # after a module beside it has been found
    assert str(tmp_path) not in sys.path
    assert importlib.import_module(beside).__file__ == str(tmp_path / f"{beside}.py")
    assert Path(importlib.util.find_spec("json").origin or "").parent.parent != tmp_path  # type: ignore[union-attr]


def test_a_package_beside_is_found_with_its_parts_wherever_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rooms_beside").mkdir()
    (tmp_path / "rooms_beside" / "inner.py").write_text("class Room: pass")
    monkeypatch.chdir(tmp_path)
    find_named("--data.wrappers rooms_beside.inner.Room")
    monkeypatch.chdir("/")
    assert importlib.import_module("rooms_beside.inner").Room
    for name in ("rooms_beside", "rooms_beside.inner"):
        monkeypatch.delitem(sys.modules, name)


def test_a_process_of_its_own_finds_what_is_sent_to_it(beside: str, tmp_path: Path) -> None:
    find_named(f"--data.wrappers {beside}.Twice")
    made = with_finder(getattr(importlib.import_module(beside), "Twice"))  # noqa: B009  # mypy cannot see it
    code = "import pickle, sys, importlib.util\nprint(pickle.load(sys.stdin.buffer).args[1].__name__)\n"
    code += "print(importlib.util.find_spec('other_beside'))"
    (tmp_path / "other_beside.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], input=pickle.dumps(made), capture_output=True, cwd="/", check=True,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    )  # fmt: skip
    assert done.stdout.decode().split() == ["Twice", "None"]


def test_a_process_of_its_own_trusts_whom_the_user_trusts_while_what_is_sent_to_it_runs() -> None:
    with trusting(["somebody.rooms"]):
        sent = pickle.dumps(with_finder(is_trusted))
    assert not is_trusted("somebody.rooms.Room")
    assert pickle.loads(sent)("somebody.rooms.Room")
    assert not pickle.loads(sent)("others.Room")
    assert not is_trusted("somebody.rooms.Room")


@pytest.mark.parametrize("text", ["--model {}.Twice", "--data.environment={}:Room-v0", "environment: {}:Room-v0"])
def test_they_may_be_named_as_class_or_environment(beside: str, tmp_path: Path, text: str) -> None:
    find_named(text.format(beside))
    assert importlib.util.find_spec(beside) is not None


def test_a_module_that_is_nowhere_is_said_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"neither installed nor in the current folder {tmp_path}.*PYTHONPATH"):
        make_env("nowhere_at_all:Room-v0")
