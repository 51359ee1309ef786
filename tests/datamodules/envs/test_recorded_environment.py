"""The environment that data were recorded in: rebuilt with arguments, time limit and wrappers, or refused by name."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.wrappers import RescaleAction
from recorded_pendulum import STEPS, change, change_spec, halved, record
from tiny_dataset import Arrays, write_hdf5

from commands.collect import collect
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes, from_gymnasium, label
from datamodules.envs.wrappers import RepeatAction
from datamodules.offline import OfflineDataModule
from datamodules.recorded.conversion import convert
from datamodules.recorded.references import measured_reference, why_not_standard

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RESCALED = {
    "class_path": "gymnasium.wrappers.transform_action.RescaleAction",
    "init_args": {"min_action": -1.0, "max_action": 1.0},
}
HALVED = {"id": "Pendulum-v1", "arguments": {"g": 1.0, "max_episode_steps": STEPS}, "wrappers": [RESCALED]}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))


class Doubled(gym.RewardWrapper):
    """Keeps no arguments, so that no dataset can describe it."""

    def reward(self, reward: Any) -> float:
        return 2.0 * float(reward)


# ------------------------------------------------------------------------------------------------------------- rebuilt
def test_the_recorded_environment_is_made_again_and_plays_the_same() -> None:
    record("halved-v0", halved())
    data = OfflineDataModule("halved-v0")
    assert data.environment_spec is not None
    assert data.environment_spec.to_plain() == HALVED
    again, original = data.environment_spec.make(), halved()
    assert again.action_space == original.action_space == data.spaces.action
    first = [env.reset(seed=5)[0] for env in (again, original)]
    np.testing.assert_array_equal(*first)
    for step in range(STEPS):
        (one, reward, _, cut, _), (other, expected, *_) = (
            env.step(np.array([0.7], np.float32)) for env in (again, original)
        )
        np.testing.assert_allclose(one, other, rtol=1e-6)
        assert reward == pytest.approx(expected)
        assert cut == (step == STEPS - 1)


def test_the_card_says_what_the_environment_is_and_scores_have_no_foreign_yardstick() -> None:
    record("halved-v0", halved())
    info = OfflineDataModule("halved-v0").info
    assert info.environment == "Pendulum-v1"
    assert "Pendulum-v1 (g=1.0, max_episode_steps=4) in RescaleAction (min_action=-1.0, max_action=1.0)" in info.card
    assert "RecordEpisodeStatistics, which changes nothing" in info.card
    assert info.reference_min is None
    assert info.reference_source.startswith("none: measured for the plain Pendulum-v1")
    plain = record("plain-v0", gym.make("Pendulum-v1"), episodes=1)
    assert OfflineDataModule(str(plain)).info.reference_max == measured_reference("Pendulum-v1").maximum


def test_the_environment_for_evaluation_comes_before_the_recorded_one() -> None:
    record("two-v0", halved(), eval_env=gym.make("Pendulum-v1", g=3.0))
    assert OfflineDataModule("two-v0").environment_spec == EnvironmentSpec("Pendulum-v1", {"g": 3.0})
    record("light-v0", halved(), eval_env=gym.make("Pendulum-v1"))
    info = OfflineDataModule("light-v0").info
    assert info.reference_source.startswith(
        "none: recorded in Pendulum-v1 (g=1.0, max_episode_steps=4) in RescaleAction"
    )
    assert info.reference_source.endswith("and evaluated in Pendulum-v1")
    assert "the returns of the data are of that one" in info.card


def test_what_the_user_gives_comes_on_top(tmp_path: Path) -> None:
    record("halved-v0", halved())
    data = OfflineDataModule("halved-v0", environment_arguments={"g": 2.0}, wrappers=[])
    assert data.environment_spec == EnvironmentSpec("Pendulum-v1", {"g": 2.0, "max_episode_steps": STEPS})
    with pytest.raises(ValueError, match="recorded in Pendulum-v1, but Acrobot-v1 is asked for"):
        assert OfflineDataModule("halved-v0", environment="Acrobot-v1").info


def test_sources_of_different_environments_are_not_joined() -> None:
    record("light-v0", halved())
    record("heavy-v0", halved(g=20.0))
    with pytest.raises(ValueError, match=r"cannot be joined: Pendulum-v1 \(g=1\.0.*against Pendulum-v1 \(g=20\.0"):
        convert(["light-v0", "heavy-v0"])


def test_the_package_that_registers_an_environment_may_be_given() -> None:
    record("plain-v0", gym.make("Pendulum-v1"), episodes=1)
    data = OfflineDataModule("plain-v0", environment="gymnasium:Pendulum-v1")
    assert data.environment_spec == EnvironmentSpec("gymnasium:Pendulum-v1")


@pytest.mark.parametrize("name", ["hdf5", "npz"])
def test_flat_files_hold_the_same_description(tmp_path: Path, name: str) -> None:
    arrays = {
        "observations": np.zeros((4, 3), np.float32),
        "actions": np.full((4, 1), 0.5, np.float32),
        "rewards": np.zeros(4, np.float32),
        "terminals": np.zeros(4, bool),
        "timeouts": np.array([0, 1, 0, 1], bool),
        "final_observations": np.zeros((2, 3), np.float32),
    }
    path = tmp_path / f"a.{name}"
    if name == "hdf5":
        write_hdf5(path, arrays, {"environment_spec": HALVED})
    else:
        np.savez(path, meta=json.dumps({"environment_spec": HALVED}), **arrays)
    data = OfflineDataModule(str(path))
    assert data.environment_spec is not None
    assert data.environment_spec.to_plain() == HALVED
    assert data.spaces.action.high.tolist() == [1.0]
    assert OfflineDataModule(str(path), wrappers=[]).spaces.action.high.tolist() == [2.0]


def test_what_is_collected_names_its_arguments_and_wrappers(tmp_path: Path) -> None:
    wrappers = [
        functools.partial(RescaleAction, min_action=-1.0, max_action=1.0),
        functools.partial(RepeatAction, count=2),
    ]
    options = {
        "transitions": 20,
        "root": str(tmp_path / "minari"),
        "environment_arguments": {"g": 1.0, "max_episode_steps": 8},
    }
    collect("Pendulum-v1", "repeated-v0", wrappers=wrappers, **options)
    spec = OfflineDataModule("repeated-v0").environment_spec
    asked = EnvironmentSpec("Pendulum-v1", options["environment_arguments"], tuple(wrappers))
    assert spec is not None
    assert spec.to_plain() == asked.to_plain()
    with pytest.raises(ValueError, match=r"cannot name Doubled.*RecordConstructorArgs"):
        collect("Pendulum-v1", "doubled-v0", wrappers=[Doubled], **options)
    with pytest.raises(ValueError, match=r"no controller is built in for Pendulum-v1 \(g=1"):
        collect("Pendulum-v1", "led-v0", "controller", **options)


def test_what_is_collected_in_a_standard_environment_has_its_yardstick(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    collect("Pendulum-v1", "standard-v0", "controller", transitions=200, root=str(tmp_path / "minari"))
    info, standard = OfflineDataModule("standard-v0").info, measured_reference("Pendulum-v1")
    assert (info.reference_min, info.reference_max) == standard[:2]
    assert standard.source in capsys.readouterr().out.replace("\n", " ")


# -------------------------------------------------------------------------------------------------- cannot be rebuilt
def test_a_wrapper_without_arguments_is_named_and_the_advice_works() -> None:
    record("doubled-v0", Doubled(halved()))
    with pytest.raises(ValueError, match=r"Doubled, which kept no arguments.*--data\.wrappers, or '\[\]'"):
        assert OfflineDataModule("doubled-v0").info
    assert "Doubled (arguments unknown)" in label(convert(["doubled-v0"]).metadata["environment_spec"])
    assert OfflineDataModule("doubled-v0", wrappers=[Doubled]).environment_spec.wrappers == (Doubled,)
    assert OfflineDataModule("doubled-v0", wrappers=[]).environment_spec.wrappers == ()


def test_a_foreign_wrapper_is_not_imported() -> None:
    folder = record("plain-v0", gym.make("Pendulum-v1"), episodes=1)
    foreign = {"name": "Fun", "entry_point": "antigravity:Fun", "kwargs": {}}
    change_spec(folder, additional_wrappers=[foreign])
    with pytest.raises(ValueError, match=r"antigravity\.Fun.*--trust antigravity; or give all wrappers"):
        assert OfflineDataModule("plain-v0").info
    assert "antigravity" not in sys.modules


def test_spaces_that_are_missing_come_from_the_registered_environment_alone() -> None:
    folder = record("plain-v0", gym.make("Pendulum-v1"), episodes=1)
    change_spec(folder, entry_point="antigravity:fly")
    change(folder, observation_space=None, action_space=None)
    data = OfflineDataModule("plain-v0")
    assert data.spaces.action == gym.make("Pendulum-v1").action_space
    assert "antigravity" not in sys.modules
    assert "recorded with Pendulum-v1 of antigravity:fly" in data.info.card


def test_arguments_that_are_the_registered_ones_say_nothing() -> None:
    assert from_gymnasium(gym.make("FrozenLake-v1").spec.to_json(), "f")[0]["arguments"] == {}
    endless = gym.make("Pendulum-v1", max_episode_steps=-1).spec.to_json()
    assert from_gymnasium(endless, "f")[0]["arguments"] == {"max_episode_steps": -1}
    stateful = gym.wrappers.NormalizeReward(gym.make("Pendulum-v1")).spec.to_json()
    assert "statistics are in no file" in from_gymnasium(stateful, "f")[1][0]


# ------------------------------------------------------------------------------------------------------- bad metadata
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "env_spec a number": ({"env_spec": 5, "eval_env_spec": None}, "env_spec describes no environment"),
    "env_spec a list": ({"env_spec": "[1]", "eval_env_spec": None}, "env_spec describes no environment"),
    "env_spec no JSON": ({"eval_env_spec": "{"}, "eval_env_spec is no JSON"),
    "env_spec kwargs": ({"eval_env_spec": '{"id": "X-v0", "kwargs": [1]}'}, "kwargs must be a JSON object"),
    "env_spec limit": ({"eval_env_spec": '{"id": "X-v0", "max_episode_steps": "9"}'}, "must be a whole number or null"),
    "env_spec wrapper": ({"eval_env_spec": '{"id": "X-v0", "additional_wrappers": [7]}'}, "a wrapper needs an entry_p"),
    "env_spec wrappers": ({"eval_env_spec": '{"id": "X-v0", "additional_wrappers": 7}'}, "must be a list"),
    "no total_episodes": ({"total_episodes": None}, "total_episodes is missing"),
    "total_steps text": ({"total_steps": "12"}, "total_steps must be a whole number"),
    "references text": ({"ref_min_score": "low", "ref_max_score": 1.0}, "ref_min_score must be a number"),
    "references NaN": ({"ref_min_score": 0.0, "ref_max_score": float("nan")}, "ref_max_score must be a number"),
    "dataset_id": ({"dataset_id": [1]}, "dataset_id must be a name"),
    "version": ({"minari_version": [1]}, "was written by Minari"),
    "data_format": ({"data_format": "zip"}, "cannot be opened by Minari"),
    "space empty": ({"action_space": "{}"}, "action_space describes no space"),
    "space a number": ({"action_space": 5}, "action_space describes no space"),
    "space unknown": ({"action_space": '{"type": "Sphere"}'}, "action_space describes no space"),
    "space no parts": ({"observation_space": '{"type": "Dict"}'}, "observation_space describes no space"),
    "space huge": (
        {"action_space": '{"type": "Box", "dtype": "float32", "shape": [1000000, 1000000], "low": -1, "high": 1}'},
        "action_space describes no space",
    ),
}


@pytest.mark.parametrize(("entries", "said"), BAD.values(), ids=BAD.keys())
def test_bad_metadata_is_one_line(
    write: Callable[[str], str], tmp_path: Path, entries: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "minari" / write("minari-hdf5")
    change(folder, **entries)
    with pytest.raises(ValueError, match=said) as caught:
        convert([folder], cache_dir=tmp_path / "cache")
    assert "metadata.json" in str(caught.value) or str(folder) in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def empty(episode: h5py.Group) -> None:
    for name in ("actions", "rewards", "terminations", "truncations"):
        values = episode[name][:0]
        del episode[name]
        episode[name] = values
    first = episode["observations"][:1]
    del episode["observations"]
    episode["observations"] = first
    episode.attrs["total_steps"] = 0


def replaced(name: str, value: Any) -> Callable[[h5py.Group], None]:
    def replace(episode: h5py.Group) -> None:
        del episode[name]
        if value is None:
            episode.create_group(name)
        else:
            episode[name] = value

    return replace


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (empty, "episode 1 has no steps"),
        (replaced("rewards", 3.0), "episode 1 cannot be read"),
        (replaced("observations", None), "episode 1 cannot be read"),
        (replaced("actions", np.zeros((3, 7), np.float32)), "differ in shape"),
    ],
)
def test_bad_episodes_are_one_line(write: Callable[[str], str], tmp_path: Path, edit: Any, said: str) -> None:
    folder = tmp_path / "minari" / write("minari-hdf5")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        edit(file["episode_1"])
    with pytest.raises(ValueError, match=said):
        convert([folder])


def test_metadata_that_is_no_object_or_has_no_name(write: Callable[[str], str], tmp_path: Path) -> None:
    folder = tmp_path / "minari" / write("minari-hdf5")
    change(folder, dataset_id=None)
    assert convert([folder]).metadata["name"] == folder.name
    (folder / "data" / "metadata.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"metadata\.json holds a JSON list"):
        convert([folder])


@pytest.mark.parametrize(
    ("arguments", "wrappers", "standard"),
    [
        ({}, (), True),
        ({"g": 10.0, "max_episode_steps": 200, "render_mode": None}, (), True),
        ({"g": 1.0}, (), False),
        ({"max_episode_steps": 40}, (), False),
        ({}, (gym.wrappers.FlattenObservation,), True),
        ({}, (functools.partial(RescaleAction, min_action=-1.0, max_action=1.0),), False),
        ({}, (functools.partial(RepeatAction, count=2),), False),
        ({}, (Doubled,), False),
    ],
)
def test_standard_scores_are_for_the_standard_environment(arguments: dict, wrappers: tuple, standard: bool) -> None:
    reason = why_not_standard(EnvironmentSpec("Pendulum-v1", arguments, wrappers).to_plain())
    assert (reason is None) == standard


def test_changes_to_nothing_are_refused() -> None:
    assert Changes().applied(None) is None
    with pytest.raises(ValueError, match="no environment is known"):
        Changes(arguments={"g": 1.0}).applied(None)


def test_sources_with_different_references_have_none(tmp_path: Path, arrays: Arrays) -> None:
    paths = [
        write_hdf5(tmp_path / f"{name}.h5", arrays, {"name": name, "ref_random": 0.0, "ref_expert": expert})
        for name, expert in (("a", 1.0), ("b", 2.0))
    ]
    info = OfflineDataModule([str(path) for path in paths]).info
    assert info.reference_min is None
    assert "different reference scores" in info.card
