"""Environments and wrappers that a file names."""

from __future__ import annotations

import functools
import json
import re
import sys
from typing import Any

import pytest
from gymnasium.wrappers import FrameStackObservation

from datamodules.envs import file_arguments
from datamodules.envs.from_file import environment_from_file, read_plain
from datamodules.envs.make import EnvironmentSpec, make_env
from datamodules.envs.recorded_environment import Changes, from_meta
from datamodules.offline import OfflineDataModule
from datamodules.online import OnlineDataModule
from modules.trust.names import trusting

STACK = "gymnasium.wrappers.FrameStackObservation"
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
        (spec(id="Pendulum-v1\x1b[2J"), "should name a registered environment"),
        (spec(id="a" * 101), "should name a registered environment"),
        *((spec(id="Ant-v5", arguments={"xml_file": text}), "xml_file may name a file") for text in ("ant.xml", "a")),
        *(
            (spec(arguments={"a": [{"b": text}]}), "b may name a file or code")
            for text in (
                "/etc/passwd",
                "../a",
                "~root",
                ".",
                "a\\b",
                "os.system",
                "os:system",
                "a.xml",
                "pyproject.toml",
                "a\0",
            )
        ),
        (spec(arguments={"rows": 30_000}), "rows is 30000, and a file may say up to 10,000; .*environment_arguments"),
        (spec(arguments={"dtype": "S500000000"}), "dtype is S500000000, and a file may"),
        (spec(arguments={"desc": ["S" * 3000] * 3000}), "values and letters"),
        (spec(arguments={"g": json.loads("[" * 700 + "]" * 700)}), "levels"),
        (spec(wrappers=[{"class_path": STACK, "init_args": {"stack_size": 10**8}}]), "stack_size is 100000000"),
        (spec(wrappers=[{"class_path": STACK, "init_args": {"padding_type": "a/b"}}]), "padding_type may name a file"),
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
    assert len(str(told.value)) < 400


def test_what_recorded_environments_hold_is_taken() -> None:
    arguments = {
        "render_mode": "rgb_array", "game": "pong", "task": "walk", "domain": "cheetah", "map_name": "8x8", "g": 9.81,
        "desc": ["SF", "FG"], "maze_map": [[1, "r", 0]], "max_episode_steps": 10**6, "seed": 2**40, "config": {"a": {}},
        "max_num_frames_per_episode": 108_000, "tasks_to_complete": ["bottom burner"], "obs_type": "rgb", "flag": None,
    }  # fmt: skip
    assert EnvironmentSpec.from_plain(spec(arguments=arguments), "x.npz").arguments == arguments
    shown = EnvironmentSpec.from_plain(spec(arguments={"render_mode": "human", "g": 1.0}), "x.npz")
    assert shown.arguments == {"g": 1.0}  # a file opens no window


def test_an_argument_that_the_user_gives_is_his_whatever_the_file_says() -> None:
    plain = spec(id="reverie/Catch-v0", arguments={"rows": 30_000, "columns": 4})
    with pytest.raises(ValueError, match="rows is 30000"):
        Changes().on_file(plain, "x.ckpt", "--wrappers")
    taken = Changes(arguments={"rows": 12}).on_file(plain, "x.ckpt", "--wrappers")
    assert taken.arguments == {"rows": 12, "columns": 4}


def test_what_a_refusal_of_a_wrapper_advises_works() -> None:
    plain = spec(wrappers=[{"class_path": STACK, "init_args": {"stack_size": 10_001}}])
    with pytest.raises(ValueError, match=r"stack_size is 10001.*--trust ") as told:
        EnvironmentSpec.from_plain(plain, "x.ckpt")
    with trusting([re.search(r"--trust (\S+)", str(told.value))[1]]):
        assert EnvironmentSpec.from_plain(plain, "x.ckpt").wrappers[0].keywords == {"stack_size": 10_001}


def test_observations_of_a_size_that_none_can_hold_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(file_arguments, "LARGEST_OBSERVATION", 100)
    with pytest.raises(ValueError, match=r"'reverie/Catch-v0' has observations of 200 numbers, up to 100 are taken"):
        EnvironmentSpec("reverie/Catch-v0", {"rows": 20, "columns": 10}).make()
    small = {"rows": 5, "columns": 5}
    with pytest.raises(ValueError, match="observations of 125 numbers"):
        EnvironmentSpec("reverie/Catch-v0", small, (functools.partial(FrameStackObservation, stack_size=5),)).make()


def test_arguments_of_an_environment_are_arguments_alone() -> None:
    for arguments in ({"id": f"{ROOM}:Room-v0"}, {"entry_point": f"{ROOM}:Mine"}, {"self": 1}):
        with pytest.raises(ValueError, match=r"'Pendulum-v1' cannot be made|may name a file or code"):
            EnvironmentSpec.from_plain(spec(arguments=arguments), "x.ckpt").make()
    assert ROOM not in sys.modules


def test_data_are_not_made_of_a_checkpoint() -> None:
    for kind in (OfflineDataModule, OnlineDataModule):
        with pytest.raises(ValueError, match=rf"{kind.__name__} is made from a config .* not from x\.ckpt"):
            kind.load_from_checkpoint("x.ckpt")


def test_one_reader_says_what_form_a_description_has() -> None:
    read = read_plain(spec(wrappers=({"class_path": "a.B"}, {"class_path": "a.C", "init_args": None})), "x")
    assert read["wrappers"] == [{"class_path": "a.B", "init_args": {}}, {"class_path": "a.C", "init_args": None}]
    for value in (spec(wrappers=[{}]), spec(arguments=[]), spec(more=1), {"id": "Pendulum-v1"}):
        said = []
        for reader in (
            lambda value: read_plain(value, "x"),
            lambda value: EnvironmentSpec.from_plain(value, "x"),
            lambda value: Changes().on_file(value, "x", "--wrappers"),
            lambda value: from_meta({"environment_spec": value}, "x"),
        ):
            with pytest.raises(ValueError, match=r"^x") as told:
                reader(value)
            said.append(str(told.value).replace("x: environment_spec", "x"))
        assert len(set(said)) == 1, said
