"""`collect`: complete episodes, true last observations, the same seed gives the same dataset."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import goals
import gymnasium as gym
import minari
import numpy as np
import pytest
import yaml

from commands.behaviour_parts import Part
from commands.collect import collect, main
from datamodules.envs.make import make_env
from datamodules.envs.wrappers import KeepKeys
from datamodules.offline import OfflineDataModule
from datamodules.played.behaviours import swing_up
from datamodules.played.minari_episodes import SETTINGS_KEY, collection_settings, episodes, minari_root
from datamodules.played.policies import RandomPolicy

SHORT = {"environment": "Pendulum-v1", "dataset": "pendulum/short-v0", "transitions": 1000, "reference_episodes": 3}
MIXTURE = [Part("random", share=2), Part("controller", share=3, noise=0.5)]


def read(root: Path, name: str) -> minari.MinariDataset:
    with minari_root(root):
        return minari.load_dataset(name)


def test_episodes_replay_exactly_in_the_plain_environment() -> None:
    collected = list(itertools.islice(episodes("Pendulum-v1", swing_up, seed=11, environments=4), 6))
    env = make_env("Pendulum-v1")
    for number, episode in enumerate(collected):
        assert episode.id == number
        assert episode.seed == 11 + number
        observation, _ = env.reset(seed=episode.seed)
        assert len(episode) == 200
        assert episode.observations.shape == (201, 3)
        for step, action in enumerate(episode.actions):
            np.testing.assert_array_equal(episode.observations[step], observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            assert episode.rewards[step] == pytest.approx(reward)
            assert (episode.terminations[step], episode.truncations[step]) == (terminated, truncated)
        # The last one is where the time limit cut the episode, not the start of the next.
        np.testing.assert_array_equal(episode.observations[200], observation)
        assert episode.truncations[199]


def test_episodes_come_in_the_order_of_their_start() -> None:
    space = make_env("Hopper-v5").action_space
    assert isinstance(space, gym.spaces.Box)
    act = RandomPolicy(space, 5, seed=0)
    collected = list(itertools.islice(episodes("Hopper-v5", act, seed=0, environments=5), 30))
    assert [e.id for e in collected] == list(range(30))
    assert len({len(e) for e in collected}) > 5  # lengths differ, so the order of finishing does too
    for episode in collected:
        assert episode.terminations[-1]
        assert not any(episode.terminations[:-1])
        assert len(episode.observations) == len(episode) + 1


def test_same_seed_same_content_other_seed_other_content(tmp_path, capsys) -> None:
    for root, seed in (("a", 0), ("b", 0), ("c", 1)):
        collect(**SHORT, behaviour=MIXTURE, root=str(tmp_path / root), seed=seed)
    one, two, other = (list(read(tmp_path / root, SHORT["dataset"])) for root in "abc")
    assert [len(e) for e in one] == [200] * 5
    for left, right in zip(one, two, strict=True):
        for field in ("observations", "actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(left, field), getattr(right, field))
    assert not np.array_equal(one[0].observations, other[0].observations)
    seconds = {float(e.observations[0, 2]) for e in one}
    assert len(seconds) == 5  # every episode starts elsewhere, across the parts too
    assert "mean return" in capsys.readouterr().out


def test_references_and_settings_are_stored(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/nowhere")
    collect(**{**SHORT, "reference_episodes": 50}, behaviour=MIXTURE, root=str(tmp_path))
    dataset = minari.MinariDataset(tmp_path / SHORT["dataset"] / "data")
    metadata = dataset.storage.metadata
    assert -1400 < metadata["ref_min_score"] < -1000
    assert -200 < metadata["ref_max_score"] < -100
    assert metadata["num_episodes_average_score"] == 50
    assert SETTINGS_KEY in metadata
    settings = collection_settings(tmp_path / SHORT["dataset"])
    assert settings is not None
    assert [p["behaviour"] for p in settings["behaviour"]] == ["random", "controller"]
    assert dataset.recover_environment().spec.id == "Pendulum-v1"
    assert not list(tmp_path.glob(".collecting-*"))
    returns = [float(np.sum(e.rewards)) for e in dataset]
    scores = minari.get_normalized_score(dataset, np.array(returns))
    assert scores[:2].mean() < 0.5 < scores[2:].mean()  # two random episodes, then three of the controller


def test_what_decides_the_content_is_part_of_the_settings(tmp_path, monkeypatch, capsys) -> None:
    collect(**SHORT, root=str(tmp_path))
    monkeypatch.setattr("commands.collect.ENVIRONMENTS", 7)
    with pytest.raises(ValueError, match="copies: 50 there, 7 asked for"):
        collect(**SHORT, root=str(tmp_path))


def test_existing_dataset_is_kept_refused_or_replaced(tmp_path, capsys) -> None:
    root = str(tmp_path)
    collect(**SHORT, behaviour="random", root=root)
    file = tmp_path / SHORT["dataset"] / "data" / "main_data.hdf5"
    before = file.stat().st_mtime_ns
    capsys.readouterr()
    collect(**SHORT, behaviour="random", root=root)
    assert "same settings: kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match="seed: 0 there, 1 asked for"):
        collect(**SHORT, behaviour="random", root=root, seed=1)
    assert file.stat().st_mtime_ns == before
    collect(**SHORT, behaviour="random", root=root, seed=1, overwrite=True)
    settings = collection_settings(tmp_path / SHORT["dataset"])
    assert settings is not None
    assert settings["seed"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pendulum"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"behaviour": "random", "noise": 0.1}, "noise and epsilon change nothing"),
        ({"behaviour": MIXTURE, "noise": 0.1}, "give noise inside its entries"),
        ({"behaviour": "checkpoint"}, "needs a checkpoint file"),
        ({"behaviour": "controller", "epsilon": 1.5}, "epsilon must lie in"),
        ({"behaviour": "controller", "environment": "Hopper-v5"}, "no controller is built in for Hopper-v5"),
        ({"dataset": "pendulum/mixed"}, "ends with a version"),
        ({"transitions": 0}, "transitions must be at least 1"),
        ({"environment": "CartPole-v1", "noise": 0.1, "behaviour": "controller"}, "noise: 0.1 is for Box actions"),
        (
            {"environment": "goals/Goal-v0", "environment_arguments": {"text": True}},
            "shows say, a Text without numbers",
        ),
        ({"reference_max": -5000.0}, "must be above the return of a random policy"),
        ({"behaviour": [Part("random"), Part("controller", share=1e-6)]}, "less than one episode"),
    ],
)
def test_mistakes_are_named(tmp_path, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        collect(**{**SHORT, **changes}, root=str(tmp_path))
    assert not list(tmp_path.rglob("*.hdf5"))


def test_parts_of_observations_are_stored_as_minari_nests_them_and_read_again(tmp_path, capsys) -> None:
    seed, arguments = 5, {"environment": "goals/Goal-v0", "dataset": "goal/random-v0", "transitions": 40}
    collect(**arguments, root=str(tmp_path), seed=seed)
    dataset = read(tmp_path, "goal/random-v0")
    assert set(dataset.observation_space.spaces) == {"achieved_goal", "desired_goal", "observation", "phase"}
    assert set(dataset.observation_space["desired_goal"].spaces) == {"far", "side"}
    # Played again, each part is what the environment shows, in plain form; so are the joined rows of a datamodule.
    keys = ["desired_goal", "observation"]
    parts = ["desired_goal/far", "desired_goal/side", "observation"]
    data = OfflineDataModule(str(tmp_path / "goal/random-v0"), observation_keys=keys, cache_dir=str(tmp_path / "cache"))
    column = data.dataset.columns["observation"]
    rows = data.dataset.steps["row"][:, column.start : column.stop].numpy()
    env, joined = gym.make("goals/Goal-v0"), []
    for episode in dataset:
        observation, _ = env.reset(seed=int(next(iter(dataset.storage.get_episode_metadata([episode.id])))["seed"]))
        assert len(episode.rewards) == goals.LENGTH
        for step, action in enumerate(episode.actions):
            np.testing.assert_array_equal(episode.observations["achieved_goal"][step], observation["achieved_goal"])
            side = episode.observations["desired_goal"]["side"][step]
            np.testing.assert_array_equal(side, np.eye(2)[observation["desired_goal"]["side"]])
            joined.append(goals.by_hand(observation, parts))
            observation, reward, *_ = env.step(action)
            assert reward == pytest.approx(episode.rewards[step])
        np.testing.assert_array_equal(episode.observations["achieved_goal"][-1], observation["achieved_goal"])
    np.testing.assert_array_equal(rows, np.stack(joined))
    # The advice about a part without numbers works.
    keep = partial(KeepKeys, keys=["achieved_goal", "desired_goal/far", "desired_goal/side", "observation", "phase"])
    text = {"environment_arguments": {"text": True}, "dataset": "goal/text-v0", "wrappers": [keep]}
    collect(**arguments | text, root=str(tmp_path))
    np.testing.assert_array_equal(read(tmp_path, "goal/text-v0")[0].observations["phase"][:, :3], np.eye(9, 3))


def test_numbered_actions_and_images_are_stored_as_they_are(tmp_path, capsys) -> None:
    settings = {"environment": "reverie/Catch-v0", "dataset": "catch/short-v0", "transitions": 500}
    collect(**settings, behaviour=[Part("random"), Part("controller", epsilon=0.2)], root=str(tmp_path))
    dataset = read(tmp_path, "catch/short-v0")
    assert dataset.action_space == gym.spaces.Discrete(3)
    assert dataset.storage.metadata["ref_max_score"] == 1.0
    env, episodes_of = make_env("reverie/Catch-v0"), list(dataset)
    assert {float(sum(e.rewards)) for e in episodes_of} == {-1.0, 1.0}
    for episode in episodes_of:
        assert episode.observations.shape == (10, 10, 5, 1)
        assert episode.observations.dtype == np.uint8
        column = int(episode.observations[0, 0, :, 0].argmax())
        env.reset()
        env.unwrapped.ball_column = column  # type: ignore[attr-defined]
        for step, action in enumerate(episode.actions):
            observation, reward, *_ = env.step(int(action))
            np.testing.assert_array_equal(observation, episode.observations[step + 1])
            assert reward == episode.rewards[step]


def test_command_line_takes_a_config_and_flags(tmp_path, capsys) -> None:
    config = tmp_path / "mixture.yaml"
    config.write_text(yaml.safe_dump({**SHORT, "behaviour": [{"behaviour": "random"}, {"behaviour": "controller"}]}))
    flags = ["--config", str(config), "--root", str(tmp_path), "--transitions", "800"]
    main(flags)
    settings = collection_settings(tmp_path / SHORT["dataset"])
    assert settings is not None
    assert settings["transitions"] == 800
    assert settings["behaviour"][1]["noise"] == 0.0
    assert len(list(read(tmp_path, SHORT["dataset"]))) == 4
    main([*flags, "--overwrite"])
    assert "stored in" in capsys.readouterr().out
    for mistake, said in (
        (["--behavior", "random"], "did you mean '--behaviour'"),
        (["--behaviour", "randm"], "did you mean 'random'"),
        (["--behaviour", "[{behaviour: contrler}]"], "did you mean 'controller'"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*flags, *mistake])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="noise and epsilon change nothing") as caught:
        main([*flags, "--behaviour", "[{behaviour: random, noise: 1}]"])
    assert len(str(caught.value).splitlines()) == 1
