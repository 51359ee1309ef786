"""Environments and wrappers that a file names."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from datamodules.envs.from_file import environment_from_file
from datamodules.envs.make import EnvironmentSpec, make_env
from datamodules.offline import OfflineDataModule
from datamodules.online import OnlineDataModule
from modules.trust import trusting

ROOM = "a_room_of_a_stranger"


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package that registers an environment when it is imported."""
    (tmp_path / f"{ROOM}.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control import PendulumEnv\n\n\n"
        "class Mine(gym.Wrapper): pass\n\n\ngym.register('Room-v0', PendulumEnv)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield f"{ROOM}:Room-v0"
    sys.modules.pop(ROOM, None)


def test_a_package_is_imported_for_the_user_alone(room) -> None:
    with pytest.raises(ValueError, match=r"^x\.npz names the environment \S+; nothing was imported.*--trust") as told:
        environment_from_file(room, "x.npz")
    assert ROOM not in sys.modules
    assert environment_from_file(room, "x.npz", given=room) == room
    with trusting([re.search(r"--trust (\S+)", str(told.value))[1]]):
        make_env(environment_from_file(room, "x.npz")).close()
        plain = {"id": room, "arguments": {"g": 1.0}, "wrappers": [{"class_path": f"{ROOM}.Mine"}]}
        assert EnvironmentSpec.from_plain(plain, "x.ckpt").make().unwrapped.g == 1.0


def spec(**changes: Any) -> dict[str, Any]:
    return {"id": "Pendulum-v1", "arguments": {}, "wrappers": [], **changes}


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ("Pendulum-v1", "should have id, arguments and wrappers"),
        (None, "should have id, arguments and wrappers"),
        ({"id": "Pendulum-v1"}, "should have id, arguments and wrappers"),
        (spec(wrappers=None), "should have id, arguments and wrappers"),
        (spec(id=5), "should name a registered environment"),
        (spec(id=""), "should name a registered environment"),
        (spec(id="os:Env-v0"), "--trust os$"),
        (spec(id="GymV21Environment-v0", arguments={"env_id": "os:Env-v0"}), "imports any other environment"),
        (spec(arguments=[1]), "should be by name"),
        (spec(arguments={"g": print}), "plain values"),
        (spec(wrappers=["os.system"]), "by class_path"),
        (spec(wrappers=[{"class_path": "os.system", "init_args": {"command": "touch x"}}]), "--trust os$"),
        (spec(wrappers=[{"class_path": "subprocess.Popen"}]), "--trust subprocess$"),
        (spec(wrappers=[{"class_path": "modules.networks.blocks.MLP"}]), "is no Wrapper"),
        (spec(wrappers=[{"class_path": "datamodules.envs.wrappers.RepeatAction", "init_args": 3}]), "by name"),
        (spec(wrappers=[{"class_path": "gymnasium.wrappers.rendering.RecordVideo"}]), "which is not reverie's own"),
    ],
)
def test_what_a_file_may_not_say(plain: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        EnvironmentSpec.from_plain(plain, "x.ckpt")
    assert str(told.value).startswith("x.ckpt")


def test_arguments_of_an_environment_are_arguments_alone() -> None:
    for arguments in ({"id": f"{ROOM}:Room-v0"}, {"entry_point": f"{ROOM}:Mine"}, {"self": 1}):
        with pytest.raises(ValueError, match="'Pendulum-v1' cannot be made"):
            EnvironmentSpec.from_plain(spec(arguments=arguments), "x.ckpt").make()
    assert ROOM not in sys.modules


def test_data_are_not_made_of_a_checkpoint() -> None:
    for kind in (OfflineDataModule, OnlineDataModule):
        with pytest.raises(ValueError, match=rf"{kind.__name__} is made from a config .* not from x\.ckpt"):
            kind.load_from_checkpoint("x.ckpt")
