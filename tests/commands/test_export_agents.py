"""Exports of every agent: images and dicts in, discrete actions out, and a memory in the caller's hands."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from checkpoint_files import save
from ftw_agents import made as made_ftw

from commands.export import check_rows, export
from commands.exported_act import Policy
from commands.policy_step import PolicyStep, random_observations
from modules.agent.agent import Agent
from modules.algorithms.a2c import A2C
from modules.algorithms.dreamer import DreamerV2
from modules.algorithms.merlin import MERLIN
from modules.algorithms.ppo import PPO
from modules.algorithms.r2d2 import R2D2
from modules.batch import Spaces
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.memory import ExternalMemory, MemoryLSTM
from modules.networks.recurrent import LSTM, ActionValues, Memory
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.latents import CategoricalLatent, GaussianLatent
from modules.world_model.memory_predictor import MemoryPredictor
from modules.world_model.world_model import WorldModel

pytestmark = pytest.mark.usefixtures("operators")

VECTOR = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (5, 4, 1), np.uint8)
BOTH = gym.spaces.Dict({"image": IMAGE, "speed": VECTOR})
TURN = gym.spaces.Discrete(3, start=1)
PUSH = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)
SWITCHES = gym.spaces.MultiDiscrete([2, 3])

trunk = functools.partial(DenseStack, layers=1)
encoder = functools.partial(Encoder, image_network="mlp")


def dreamer(observation: gym.Space, action: gym.Space, latent=CategoricalLatent) -> Agent:
    sizes = {"groups": 3, "classes": 4} if latent is CategoricalLatent else {"size": 6}
    model = {"latent": functools.partial(latent, **sizes), "deter": 8, "hidden": 8, "units": 8, "trunk": trunk}
    imagination = functools.partial(ActorCritic, units=8, trunk=trunk, horizon=4)
    world = functools.partial(WorldModel, image_network="mlp", **model)
    return DreamerV2(Spaces(observation, action), world, imagination)


def r2d2(observation: gym.Space, action: gym.Space, memory: Callable[..., Memory] = LSTM) -> Agent:
    network = {"units": 8, "trunk": trunk, "memory": functools.partial(memory, width=8), "encoder": encoder}
    return R2D2(Spaces(observation, action), functools.partial(ActionValues, **network))


def a2c(observation: gym.Space, action: gym.Space, memory: Callable[..., Memory] | None = None) -> Agent:
    return A2C(Spaces(observation, action), units=8, trunk=trunk, encoder=encoder, memory=memory)


def merlin(observation: gym.Space, action: gym.Space) -> Agent:
    sizes = {"latents": 3, "width": 4, "policy_width": 4, "units": 4, "trunk": trunk, "encoder": encoder}
    predictor = functools.partial(MemoryPredictor, memory=functools.partial(ExternalMemory, rows=3), **sizes)
    return MERLIN(Spaces(observation, action), predictor=predictor, units=4, trunk=trunk)


AGENTS = {
    "A2C, dict, continuous": lambda: a2c(BOTH, PUSH),
    "R2D2, images": lambda: r2d2(IMAGE, TURN),
    "R2D2, external memory": lambda: r2d2(VECTOR, TURN, functools.partial(MemoryLSTM, rows=3, moment=2)),
    "A2C, vectors, LSTM": lambda: a2c(VECTOR, PUSH, functools.partial(LSTM, width=4)),
    "MERLIN, several numbers": lambda: merlin(VECTOR, SWITCHES),
    "For The Win, continuous": lambda: made_ftw(VECTOR, PUSH, pixel_control=0.0),
    "PPO, dict, several numbers": lambda: PPO(
        Spaces(BOTH, SWITCHES), units=8, trunk=trunk, encoder=encoder, separate=True
    ),
    "DreamerV2, images, discrete": lambda: dreamer(IMAGE, TURN),
    "DreamerV2, dict, continuous, Gaussian": lambda: dreamer(BOTH, PUSH, GaussianLatent),
}

SLOW = ("A2C, vectors, LSTM", "PPO, dict, several numbers")
"""They act by the code of `OnPolicy`, as the first one does; others have that memory, and that space of actions."""

OUTSIDE = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from act import Policy
policy, steps, found = Policy(), np.load(sys.argv[2]), {}


class Given:
    def __init__(self, noise):
        self.random = self.standard_normal = lambda shape, dtype: noise


state = policy.initial_state(5)
keys = json.loads(sys.argv[3])
for t in range(4):
    seen = {key: steps[f"{key}{t}"] for key in keys}
    if "noise" in policy.inputs:
        policy.rng = Given(steps[f"noise{t}"])
    action, state = policy.step(seen if keys != [""] else seen[""], state, steps[f"reward{t}"])
    found[f"action{t}"] = action
np.savez(sys.argv[4], **found)
single = {key: steps[f"{key}0"][0] for key in keys}
if "noise" in policy.inputs:
    policy.rng = Given(steps["noise0"][:1])
    policy.reset()
assert policy(single if keys != [""] else single[""]).shape == found["action0"].shape[1:]
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch", "reverie", "modules", "commands", "gymnasium"}, loaded
"""


Exported = Callable[[str], tuple[Agent, Path]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An agent by its name, and the folder of what it was exported to, once."""

    @functools.cache
    def made(name: str) -> tuple[Agent, Path]:
        folder = tmp_path_factory.mktemp("exported")
        torch.manual_seed(0)
        agent = AGENTS[name]().eval()
        save(agent, folder / "a.ckpt")
        export(str(folder / "a.ckpt"), str(folder / "policy"))
        return agent, folder / "policy"

    return made


@pytest.fixture
def recurrent(exported: Exported) -> Policy:
    """An exported R2D2, which takes bytes, and has integers and flags in its memory beside the floats."""
    return Policy(exported("R2D2, images")[1])


@pytest.mark.long
def test_a_state_may_give_its_parts_in_any_order(recurrent: Policy) -> None:
    rng = np.random.default_rng(0)
    seen = rng.integers(0, 256, (2, 5, 4, 1)).astype(np.uint8)
    start = recurrent.initial_state(2)
    assert [x.dtype.kind for x in start.values()] == ["f", "i", "f", "b"]
    state = {name: rng.uniform(1, 3, x.shape).astype(x.dtype) for name, x in start.items()}
    action, after = recurrent.step(seen, state, reward=[1.0, 2.0])
    again, after_again = recurrent.step(seen, dict(reversed(state.items())), reward=[1.0, 2.0])
    assert np.array_equal(action, again)
    assert list(after) == list(after_again) == list(start)
    for name, part in after.items():
        assert part.dtype == start[name].dtype
        assert np.array_equal(part, after_again[name])
    with pytest.raises(ValueError, match=r"the state has the parts \['state/1', .*, the policy takes \['state/0'"):
        recurrent.step(seen, {name: part for name, part in state.items() if name != "state/0"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("observation", 256, "int64 from 256 to 256, the policy takes uint8"),
        ("observation", -1, "int64 from -1 to -1, the policy takes uint8"),
        ("observation", 0.5, "float64 from 0.5 to 0.5, the policy takes uint8"),
        ("observation", np.nan, "float64 from nan to nan, the policy takes uint8"),
        ("state/1", 1.5, "float64 from 1.5 to 1.5, the policy takes int64"),
        ("state/3", 0.5, "float64 from 0.5 to 0.5, the policy takes bool"),
    ],
)
def test_numbers_that_a_type_cannot_hold_are_refused(recurrent: Policy, name: str, value: float, said: str) -> None:
    given = {"observation": np.zeros((2, 5, 4, 1)), **recurrent.initial_state(2)}
    wrong = given | {name: np.full(given[name].shape, value)}
    with pytest.raises(ValueError, match=f"^{name} holds {said}$"):
        recurrent.step(wrong.pop("observation"), wrong)


def test_numbers_that_a_type_holds_are_taken_in_another_type(recurrent: Policy) -> None:
    seen, state = np.full((2, 5, 4, 1), 255), recurrent.initial_state(2)
    expected, _ = recurrent.step(seen.astype(np.uint8), state)
    floats = {name: part.astype(np.float64) for name, part in state.items()}
    assert np.array_equal(recurrent.step(seen.astype(np.float64), floats)[0], expected)


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in AGENTS])
def test_an_export_plays_as_the_checkpoint_does(name: str, exported: Exported, tmp_path: Path) -> None:
    agent, policy = exported(name)
    step, rng = PolicyStep(agent), np.random.default_rng(3)
    keys = step.keys or [""]
    steps, expected = {}, []
    state, reward = agent.initial_state(5), torch.zeros(5)
    for t in range(4):
        seen = random_observations(step.space, 5, rng)
        steps |= {f"{key}{t}": seen[key] if key else seen for key in keys} | {f"reward{t}": reward.numpy()}
        torch.manual_seed(t)
        noise = agent.acting_noise(5)
        steps |= {} if noise is None else {f"noise{t}": noise.numpy()}
        torch.manual_seed(t)
        tensors = {key: torch.from_numpy(x) for key, x in seen.items()} if step.keys else torch.from_numpy(seen)
        action, state = agent.act(tensors, agent.rewarded(state, reward), explore=False)
        expected.append(action.numpy())
        reward = torch.from_numpy(rng.normal(size=5).astype(np.float32))
    np.savez(tmp_path / "steps.npz", **steps)
    arguments = [str(policy), str(tmp_path / "steps.npz"), json.dumps(keys), str(tmp_path / "found.npz")]
    subprocess.run([sys.executable, "-I", "-c", OUTSIDE, *arguments], cwd=tmp_path, check=True, timeout=250)
    found = np.load(tmp_path / "found.npz")
    for t, action in enumerate(expected):
        assert found[f"action{t}"].dtype == action.dtype
        assert np.abs(found[f"action{t}"] - action).max() < 1e-5
    assert np.unique(np.stack(expected), axis=0).size > 1  # not one action whatever is seen


def test_a_file_that_takes_one_number_of_rows_is_refused() -> None:
    check_rows({"observation": "batch", "state/0": "s3"}, "A2C")
    with pytest.raises(
        ValueError, match=r"^A2C cannot be exported: state/0 would always have 256 rows, .*x\.shape\[0\]"
    ):
        check_rows({"observation": "batch", "state/0": 256}, "A2C")
