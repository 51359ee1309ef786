"""`evaluate`: returns of a checkpoint's members, their table and files."""

from __future__ import annotations

import csv
import json

import gymnasium as gym
import imageio_ffmpeg
import minari
import numpy as np
import pytest
import torch
from checkpoint_files import DATASET, write_checkpoint
from toy_run import Toy

from callbacks.evaluation.films import enlarge, record_episode
from commands.checkpoints import load_agent, member_index
from commands.collect import collect
from commands.evaluate import evaluate, main
from datamodules.envs.make import EnvironmentSpec, make_env
from datamodules.played.minari_episodes import minari_root
from modules.batch import Spaces


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    path = tmp_path_factory.mktemp("population") / "many.ckpt"
    return path, write_checkpoint(path, seeds=2)


def play(policy: torch.nn.Module, seed: int) -> float:
    """Return of one episode, by the plainest loop."""
    env = make_env("Pendulum-v1")
    observation, _ = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        with torch.no_grad():
            action = policy(torch.as_tensor(observation)[None])[0].numpy()
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done = total + float(reward), terminated or truncated
    return total


def test_every_member_gets_its_own_true_returns(population, tmp_path, capsys) -> None:
    path, agent = population
    evaluate(str(path), episodes=3, seed=5, output=str(tmp_path / "o.json"))
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["environment"] == "Pendulum-v1"
    for index, result in enumerate(content["members"]):
        assert result["member"] == agent.member_names[index]
        expected = [play(agent.policy(index), 5 + e) for e in range(3)]
        np.testing.assert_allclose(result["returns"], expected, rtol=1e-4)
        assert result["mean"] == pytest.approx(np.mean(expected), rel=1e-4)
        assert result["normalized"] == pytest.approx((result["mean"] + 1200) / 1050 * 100)
        assert result["low"] <= result["mean"] <= result["high"]
        assert result["length"] == 200
    shown = capsys.readouterr().out
    assert agent.member_names[1] in shown
    assert f"{content['members'][1]['mean']:.1f}" in shown
    assert "dataset made-up" in shown


def test_one_member_and_csv(population, tmp_path, capsys) -> None:
    path, agent = population
    name = agent.member_names[1]
    main(["--ckpt_path", str(path), "--episodes", "2", "--member", name, "--output", str(tmp_path / "o.csv")])
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["member"], r["episode"], r["seed"]) for r in rows] == [(name, "0", "0"), (name, "1", "1")]
    assert agent.member_names[0] not in capsys.readouterr().out


def test_video_is_written_for_the_member(population, tmp_path) -> None:
    path, agent = population
    evaluate(str(path), episodes=1, member=agent.member_names[0], video=str(tmp_path / "films"))
    films = list((tmp_path / "films").iterdir())
    assert [f.suffix for f in films] == [".mp4"]
    assert films[0].stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"environment": "Hopper-v5"}, "does not fit Hopper-v5"),
        ({"environment": "Pendulumm-v1"}, "did you mean 'Pendulum-v1'"),
        ({"output": "x.txt"}, "must end in .csv or .json"),
        ({"member": "beta=9"}, "holds no member 'beta=9'"),
        ({"reference_min": 0.0}, "give both"),
        ({"reference_min": 1.0, "reference_max": 0.0}, "must be above"),
        ({"episodes": 0}, "episodes must be at least 1"),
    ],
)
def test_mistakes_are_named(population, arguments: dict, said: str) -> None:
    path, _ = population
    with pytest.raises(ValueError, match=said):
        evaluate(str(path), **arguments)


def test_a_damaged_checkpoint_is_one_line(population, tmp_path) -> None:
    content = population[0].read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.ckpt").write_text("hello")
    for name in ("cut", "text"):
        with pytest.raises(ValueError, match=rf"{name}\.ckpt is truncated"):
            evaluate(str(tmp_path / f"{name}.ckpt"))
    checkpoint = torch.load(population[0], weights_only=True)
    checkpoint["agent"]["class_path"] = "modules.algorithms.gone.Gone"
    torch.save(checkpoint, tmp_path / "gone.ckpt")
    with pytest.raises(
        ValueError, match=r"gone\.ckpt: the agent names modules\.algorithms\.gone\.Gone, and there is no such class"
    ):
        evaluate(str(tmp_path / "gone.ckpt"))


def test_checkpoint_without_a_dataset_needs_an_environment(tmp_path, capsys) -> None:
    write_checkpoint(tmp_path / "bare.ckpt", dataset=None)
    with pytest.raises(ValueError, match="--environment"):
        evaluate(str(tmp_path / "bare.ckpt"))
    evaluate(str(tmp_path / "bare.ckpt"), environment="Pendulum-v1", episodes=1)
    assert "measured" in capsys.readouterr().out


def test_references_of_other_data_are_not_used(tmp_path, capsys) -> None:
    write_checkpoint(tmp_path / "a.ckpt", dataset={**DATASET, "environment": "Other-v0"})
    evaluate(str(tmp_path / "a.ckpt"), environment="Pendulum-v1", episodes=1)
    assert "made-up" not in capsys.readouterr().out


def test_diverged_member_is_shown_as_such(tmp_path, capsys) -> None:
    write_checkpoint(tmp_path / "a.ckpt", seeds=2)
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    checkpoint["agent"]["alive"] = [True, False]
    torch.save(checkpoint, tmp_path / "a.ckpt")
    evaluate(str(tmp_path / "a.ckpt"), episodes=1)
    assert "diverged" in capsys.readouterr().out


ONLINE = {
    "id": "Pendulum-v1",
    "arguments": {"g": 0.0},
    "wrappers": [{"class_path": "gymnasium.wrappers.common.TimeLimit", "init_args": {"max_episode_steps": 7}}],
}
gym.register("Swing-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=50)


def lengths_and_returns(path, tmp_path, **arguments) -> tuple[list[int], list[float]]:
    evaluate(str(path), episodes=1, output=str(tmp_path / "o.json"), **arguments)
    (member,) = json.loads((tmp_path / "o.json").read_text())["members"]
    return member["lengths"], member["returns"]


def test_a_checkpoint_of_an_online_run_is_played_in_its_own_environment(tmp_path, capsys) -> None:
    path = tmp_path / "online.ckpt"
    write_checkpoint(path, dataset=None)
    torch.save({**torch.load(path, weights_only=True), "environment": ONLINE}, path)
    agent, origin = load_agent(path)
    assert origin.environment.to_plain() == ONLINE
    env = EnvironmentSpec("Pendulum-v1", {"g": 0.0}).make()
    observation, _ = env.reset(seed=0)
    total = 0.0
    for _ in range(7):
        with torch.no_grad():
            action = agent.policy()(torch.as_tensor(observation)[None])[0].numpy()
        observation, reward, *_ = env.step(action)
        total += float(reward)
    lengths, returns = lengths_and_returns(path, tmp_path)
    assert lengths == [7]
    np.testing.assert_allclose(returns, [total], rtol=1e-4)
    assert lengths_and_returns(path, tmp_path, environment="Pendulum-v1")[1] == returns
    elsewhere = lengths_and_returns(path, tmp_path, environment="Swing-v0")
    assert elsewhere[0] == [7]  # another environment keeps the wrappers, but not the arguments
    assert elsewhere[1] != returns


class Lamp(gym.Env):
    """A picture of 3 x 5 pixels, as bright as the last action says; lasts five steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    observation_space = gym.spaces.Dict({"light": gym.spaces.Box(0, 255, (1,), np.uint8)})
    action_space = gym.spaces.Discrete(256)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.light = 5, 0
        return {"light": np.array([0], np.uint8)}, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.left, self.light = self.left - 1, int(action)
        return {"light": np.array([action], np.uint8)}, 0.0, self.left == 0, False, {}

    def render(self):
        return np.full((3, 5, 3), self.light, np.uint8) if self.render_mode else None


gym.register("Lamp-v0", Lamp)


class Dimmer(Toy):
    """Its second member adds 40 to the light at each step, in its memory; the others leave it off."""

    def initial_state(self, batch):
        assert batch == self.members
        return torch.zeros(batch, dtype=torch.int64)

    def act(self, observation, state=None, *, explore):
        state = state + 40 * (torch.arange(len(state)) == 1)
        assert observation["light"].shape == (self.members, 1)
        return state, state


def test_a_film_shows_what_a_member_with_memory_does(tmp_path) -> None:
    from moviepy import VideoFileClip

    agent = Dimmer(Spaces(Lamp.observation_space, Lamp.action_space), members=3)
    record_episode(agent, 1, EnvironmentSpec("Lamp-v0"), 0, tmp_path / "lamp.mp4")
    film = VideoFileClip(str(tmp_path / "lamp.mp4"))
    assert film.fps == 4
    assert film.size == [430, 258]
    brightness = [frame.mean() for frame in film.iter_frames()]
    film.close()
    np.testing.assert_allclose(brightness, [0, 40, 80, 120, 160], atol=6)


@pytest.mark.parametrize("fault", ["none", "dies", "cut short"])
def test_an_ffmpeg_that_fails_leaves_no_film(fault, tmp_path, monkeypatch) -> None:
    ffmpeg = tmp_path / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    cut = 'for last; do :; done; case "$*" in *yuv420p*) cat > /dev/null; echo cut > "$last";; *)'
    ffmpeg.write_text(
        "#!/bin/sh\n" + {"none": "", "dies": "exit 1", "cut short": f'{cut} exec {real} "$@";; esac'}[fault] + "\n"
    )
    ffmpeg.chmod(0o755)

    def found() -> str:
        if fault == "none":
            raise RuntimeError("No ffmpeg exe could be found")
        return str(ffmpeg)

    monkeypatch.setattr(imageio_ffmpeg._io, "get_ffmpeg_exe", found)
    agent = Dimmer(Spaces(Lamp.observation_space, Lamp.action_space))
    with pytest.raises(ValueError, match="ffmpeg, which writes films, fails: "):
        record_episode(agent, 0, EnvironmentSpec("Lamp-v0"), 0, tmp_path / "lamp.mp4")
    assert sorted(tmp_path.iterdir()) == [ffmpeg]


def test_an_environment_without_pictures_is_named(tmp_path) -> None:
    gym.register("Dark-v0", lambda render_mode=None: Lamp())
    agent = Dimmer(Spaces(Lamp.observation_space, Lamp.action_space))
    with pytest.raises(ValueError, match=r"Dark-v0 has no pictures.* render\(\) returned None"):
        record_episode(agent, 0, EnvironmentSpec("Dark-v0"), 0, tmp_path / "x.mp4")


def test_small_frames_are_enlarged_and_sides_are_even() -> None:
    small = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    large = enlarge(small)
    assert large.shape == (256, 384, 3)
    np.testing.assert_array_equal(large[127, 128], small[0, 1])
    assert enlarge(np.zeros((301, 400, 3), np.uint8)).shape == (300, 400, 3)


def test_member_index() -> None:
    assert member_index(("",), None) == 0
    assert member_index(("a", "b"), "b") == 1
    with pytest.raises(ValueError, match="choose one with --member: a, b"):
        member_index(("a", "b"), None)


def test_collect_with_a_checkpoint_plays_its_policy(population, tmp_path) -> None:
    path, agent = population
    collect("Pendulum-v1", "pendulum/agent-v0", "checkpoint", transitions=400, root=str(tmp_path),
            checkpoint=str(path), member=agent.member_names[1], reference_episodes=2)  # fmt: skip
    with minari_root(tmp_path):
        episode = minari.load_dataset("pendulum/agent-v0")[0]
    with torch.no_grad():
        expected = agent.policy(1)(torch.from_numpy(episode.observations[:-1])).numpy()
    np.testing.assert_allclose(episode.actions, expected, atol=1e-5)
