"""Policies take what their environment gives: boards as boards, numbers as numbers, pictures in their own order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from checkpoint_files import save
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from muzero_agents import make_agent
from space_agents import BYTES, a2c

from callbacks.evaluation.rollout import to_tensors
from commands.export import export, own_or_why
from commands.exported_act import Policy, flat
from commands.loaded import load
from commands.own_observations import number_ranges, own_observations, to_plain
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.plain import plain_part
from modules.agent.agent import Agent
from modules.algorithms.muzero import MuZero

KINDS: list[Space] = [
    Discrete(4),
    Discrete(3, start=5),
    MultiDiscrete([2, 3]),
    MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [-2, 0]]),
    MultiBinary([2, 3]),
    Box(0, 1, (3, 3, 4), bool),
    Box(0, 1, (3, 3, 2), np.int8),
    Box(-np.inf, np.inf, (5, 7), np.float32),
    BYTES(shape=(3, 64, 64)),
    BYTES(shape=(10, 12)),
    BYTES(shape=(4, 3, 16, 16)),
    BYTES(shape=(4, 16, 16, 3)),
    Box(0, 1, (16, 16, 3), np.float32),
    Box(-1, 1, (1, 16, 16), np.float64),
    Box(-1, 1, (3,), np.float32),
    BYTES(shape=(8, 8, 3)),
]


@pytest.mark.parametrize("space", KINDS, ids=str)
def test_tensors_become_plain_as_arrays_do(space: Space) -> None:
    space.seed(3)
    rows = np.stack([np.asarray(space.sample()) for _ in range(5)])
    plain, convert = plain_part(space)
    expected = rows if convert is None else convert(rows)
    tensor = to_tensors(rows, torch.device("cpu"))
    assert isinstance(tensor, torch.Tensor)
    found = to_plain(space, tensor)
    assert found.shape == (5, *(plain.shape or ()))
    if plain.dtype == np.uint8:  # of floats, whose rounding may differ by one in the last place
        assert found.dtype == torch.uint8
        assert np.abs(found.numpy().astype(int) - expected.astype(int)).max() <= (0 if space.dtype == np.uint8 else 1)
    else:
        np.testing.assert_array_equal(found.numpy(), expected.astype(found.numpy().dtype))


def saved(agent: Agent, folder: Path, environment: dict[str, Any]) -> str:
    path = folder / "agent.ckpt"
    save(agent, path)
    torch.save({**torch.load(path, weights_only=True), "environment": environment}, path)
    return str(path)


def player(spec: EnvironmentSpec) -> MuZero:
    spaces = spec.spaces()
    return make_agent(spaces.action, spaces.observation).eval()


def test_a_player_of_a_board_game_takes_the_board(tmp_path: Path) -> None:
    spec = EnvironmentSpec("reverie/TicTacToe-v0")
    agent = player(spec)
    path = saved(agent, tmp_path, spec.to_plain())
    export(path, str(tmp_path / "policy"))
    board, plain = gym.make("reverie/TicTacToe-v0"), spec.make()
    seen, flat = board.reset(seed=0)[0], plain.reset(seed=0)[0]
    exported, loaded = Policy(tmp_path / "policy"), load(path)
    for _ in range(3):
        assert seen["board"].shape == (3, 3, 2)
        action = int(exported(seen))
        assert action == int(loaded.predict(seen)) == int(loaded.predict(flat))
        many = {key: np.stack([x, x]) for key, x in seen.items()}
        assert exported(many).tolist() == loaded.predict(many).tolist() == [action, action]
        seen, flat = board.step(action)[0], plain.step(action)[0]
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["observation"]["board"]["shape"] == [3, 3, 2]
    assert about["inputs"]["observation/board"] == {"shape": [3, 3, 2], "dtype": "int8"}
    with pytest.raises(ValueError, match=r"board has the shape \[1, 18\], the policy takes \[1, 3, 3, 2\]"):
        exported({key: x[None] for key, x in flat.items()})


def test_numbers_and_parts_of_a_tuple_go_in_as_they_are(tmp_path: Path) -> None:
    space = Tuple([Discrete(5, start=2), Dict({"a": MultiDiscrete([2, 3]), "b": Box(-1, 1, (2,), np.float32)})])
    gym.register("own/Tuple-v0", "shown:Shown", kwargs={"observation": space, "action": Discrete(3)})
    spec = EnvironmentSpec("own/Tuple-v0")
    agent = a2c(spec.spaces()).eval()
    step = own_observations(spec, agent.spaces.observations_by_key())
    assert step is not None
    assert step.parts.keys() == {"0", "1/a", "1/b"}
    loaded, env = load(saved(agent, tmp_path, spec.to_plain())), spec.bare()
    env.reset(seed=1)
    for _ in range(4):
        seen = env.step(0)[0]
        number, (flags, b) = seen[0], (seen[1]["a"], seen[1]["b"])
        parts = {
            "0": np.arange(2, 7) == number,
            "1/a": np.r_[np.arange(2) == flags[0], np.arange(3) == flags[1]],
            "1/b": b,
        }
        row = {key: torch.from_numpy(np.asarray(x, np.float32))[None] for key, x in parts.items()}
        action, _ = agent.act(row, agent.initial_state(1), explore=False)
        assert int(loaded.predict(seen)) == int(action)
    assert flat(seen).keys() == step.parts.keys()
    assert [number_ranges(part) for part in step.parts.values()] == [(2, 6), (0, 2), None]


def test_what_is_not_known_is_taken_as_the_agent_takes_it() -> None:
    board = EnvironmentSpec("reverie/TicTacToe-v0")
    taken = board.spaces().observation
    assert isinstance(taken, Dict)
    assert own_observations(None, taken.spaces) is None
    assert own_observations(EnvironmentSpec("reverie/ConnectFour-v0"), taken.spaces) is None  # another game
    assert own_observations(EnvironmentSpec("Pendulum-v1"), {"observation": Box(-1, 1, (3,))}) is None  # plain already
    own, said = own_or_why(EnvironmentSpec("reverie/TicTacToe-v0", {"opponent": "nobody"}), taken.spaces)
    assert own is None
    assert "takes observations as the agent does, since the environment cannot be asked: " in said
    assert "\n" not in said
