"""`reverie.load`: a checkpoint's policy on numpy arrays, single and in batches, with its memory."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from checkpoint_files import save, write_checkpoint
from torch import nn

import reverie
from commands.checkpoints import load_agent
from commands.export import export
from datamodules.envs.recorded_environment import Changes
from modules.agent.agent import Agent
from modules.algorithms.atac import ATAC
from modules.algorithms.r2d2 import R2D2
from modules.batch import Spaces
from modules.experts.residual_stack import ResidualStack
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.recurrent import LSTM, ActionValues

IMAGE = gym.spaces.Box(0, 255, (5, 4, 1), np.uint8)
BOTH = gym.spaces.Dict({"image": IMAGE, "speed": gym.spaces.Box(-1.0, 1.0, (3,), np.float32)})


def test_a_member_acts_on_one_observation_and_on_many(tmp_path: Path) -> None:
    agent = write_checkpoint(tmp_path / "a.ckpt", beta=[1.0, 4.0])
    policy = reverie.load(tmp_path / "a.ckpt", "beta=4/seed=0")
    rows = np.random.default_rng(0).uniform(-1, 1, size=(6, 3))
    with torch.no_grad():
        expected = agent.act(torch.from_numpy(rows).float().repeat(2, 1), explore=False)[0].view(2, 6, 1)[1].numpy()
    assert np.abs(policy.predict(rows) - expected).max() < 1e-6
    one = policy.predict(list(rows[2]))
    assert one.shape == (1,)
    assert np.abs(one - expected[2]).max() < 1e-6
    assert policy.environment is not None
    assert policy.environment.id == "Pendulum-v1"
    with pytest.raises(ValueError, match=r"choose one with member=\.\.\.: beta=1/seed=0, beta=4/seed=0"):
        reverie.load(tmp_path / "a.ckpt")


@pytest.fixture
def recurrent(tmp_path: Path) -> tuple[R2D2, Path]:
    torch.manual_seed(0)
    trunk = partial(DenseStack, layers=1)
    sizes = {
        "units": 8,
        "trunk": trunk,
        "memory": partial(LSTM, width=8),
        "encoder": partial(Encoder, image_network="mlp"),
    }
    agent = R2D2(Spaces(BOTH, gym.spaces.Discrete(7)), partial(ActionValues, **sizes)).eval()
    save(agent, tmp_path / "r.ckpt")
    return agent, tmp_path / "r.ckpt"


def seen(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, size=(rows, 5, 4, 1)).astype(np.uint8)
    return {"image": images, "speed": rng.uniform(-1, 1, size=(rows, 3)).astype(np.float32)}


def test_the_memory_goes_on_until_an_episode_begins(recurrent: tuple[R2D2, Path]) -> None:
    agent, path = recurrent
    policy, rewards = reverie.load(path), np.random.default_rng(9).normal(size=(12, 4)).astype(np.float32)
    state, found, expected = agent.initial_state(4), [], []
    for t in range(12):
        batch = seen(4, t)
        found.append(policy.predict(batch, reward=rewards[t] if t else None))
        told = agent.rewarded(state, torch.from_numpy(rewards[t])) if t else state
        action, state = agent.act({k: torch.from_numpy(x) for k, x in batch.items()}, told, explore=False)
        expected.append(action.numpy())
    assert np.array_equal(np.stack(found), np.stack(expected))
    again = [policy.predict(seen(4, t), reward=rewards[t] if t else None, first=t == 0) for t in range(12)]
    assert np.array_equal(np.stack(again), np.stack(expected))  # `first` forgets what `reset` would
    policy.reset()
    alone = policy.predict({key: x[0] for key, x in seen(4, 0).items()})
    assert alone.shape == ()
    assert alone == expected[0][0]
    on = [policy.predict({key: x[0] for key, x in seen(4, t).items()}, reward=rewards[t, 0]) for t in range(1, 12)]
    assert on == [actions[0] for actions in expected[1:]]
    forgetful = []
    for t in range(12):
        policy.reset()
        forgetful.append(policy.predict(seen(4, t)))
    assert not np.array_equal(np.stack(forgetful), np.stack(expected))  # the memory matters


def test_mistakes_are_told(recurrent: tuple[R2D2, Path]) -> None:
    policy = reverie.load(recurrent[1])
    with pytest.raises(ValueError, match=r"keys \['image'\], the agent knows \['image', 'speed'\]"):
        policy.predict({"image": np.zeros((5, 4, 1))})
    with pytest.raises(ValueError, match=r"speed has the shape \(4,\), the space \(3,\)"):
        policy.predict({"image": np.zeros((5, 4, 1)), "speed": np.zeros(4)})
    with pytest.raises(ValueError, match="some parts"):
        policy.predict({"image": np.zeros((2, 5, 4, 1)), "speed": np.zeros(3)})
    policy.predict(seen(4, 0))
    with pytest.raises(ValueError, match=r"2 observations follow 4: call reset\(\)"):
        policy.predict(seen(2, 0))
    with pytest.raises(ValueError, match="no checkpoint file at nowhere"):
        reverie.load("nowhere")


class Own(nn.Linear):
    """A layer of one's own."""


def test_messages_name_the_keywords_and_following_them_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.ckpt"
    write_checkpoint(file, beta=[1.0, 4.0], trunk=partial(ResidualStack, depth=1, experts=Own))
    member, folder = "beta=1/seed=0", tmp_path / "none"
    # Each mistake with what Python is told, and with what the command line is.
    mistakes: list[tuple[dict[str, Any], str, str]] = [
        ({"ckpt_path": file, "member": member}, rf"add trust=\['{__name__}'\]$", rf"add --trust {__name__}$"),
        ({"ckpt_path": file, "trust": [__name__]}, r"choose one with member=\.\.\.: ", "choose one with --member: "),
        ({"ckpt_path": "nowhere"}, r"; ckpt_path=\.\.\. also takes", "; --ckpt_path also takes"),
        (
            {"ckpt_path": "last", "run_dir": folder},
            r"^ckpt_path='last': .* the same config=\.\.\. or run_dir=\.\.\. as",
            "--ckpt_path last: .* the same --config or --run_dir as",
        ),
        (
            {"ckpt_path": file, "run_dir": folder},
            r"^config=\.\.\. and run_dir=\.\.\. say .*; ckpt_path='",
            "--config and --run_dir say .*; --ckpt_path /",
        ),
        ({"ckpt_path": "best", "config": str(tmp_path)}, r"^config=\.\.\. needs a file", "--config needs a file"),
    ]
    for given, keyword, flag in mistakes:
        with pytest.raises(ValueError, match=keyword):
            reverie.load(**given)
        typed = [word for key, value in given.items() for word in (f"--{key}", *([value] if key != "trust" else value))]
        with pytest.raises(SystemExit):
            reverie.main(["export", "--output", str(tmp_path / "out"), *map(str, typed)])
        assert re.search(flag, capsys.readouterr().err.strip())
    assert reverie.load(file, member=member, trust=[__name__]).predict(np.zeros(3)).shape == (1,)


def test_the_advice_on_a_wrapper_of_a_stranger_is_what_the_call_takes(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    write_checkpoint(file)
    checkpoint = torch.load(file, weights_only=True)
    wrapper = {"class_path": "antigravity.Fun", "init_args": {}}
    checkpoint["environment"] = {"id": "Pendulum-v1", "arguments": {}, "wrappers": [wrapper]}
    torch.save(checkpoint, file)
    with pytest.raises(ValueError, match=r"nothing was imported\. .* add trust=\['antigravity'\]$"):
        reverie.load(file)
    with pytest.raises(ValueError, match=r"add --trust antigravity$"):  # an export takes no wrappers
        export(str(file), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"add --trust antigravity; or give all wrappers .* with --wrappers"):
        load_agent(file, Changes())


def test_lightnings_own_way_of_loading_works(recurrent: tuple[R2D2, Path]) -> None:
    agent, path = recurrent
    for cls in (R2D2, Agent):
        loaded = cls.load_from_checkpoint(path, map_location="cpu")
        assert isinstance(loaded, R2D2)
        assert all(torch.equal(x, agent.state_dict()[key]) for key, x in loaded.state_dict().items())
    with pytest.raises(ValueError, match="which is no ATAC"):
        ATAC.load_from_checkpoint(path)
    with pytest.raises(ValueError, match="lr cannot be given"):
        R2D2.load_from_checkpoint(path, lr=1e-3)
