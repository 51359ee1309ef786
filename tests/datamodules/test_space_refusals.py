"""Spaces that are refused, and that the advice of the refusal works when it is followed."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box, Dict, Discrete, Graph, Sequence, Space, Text, Tuple
from jsonargparse import ArgumentParser
from space_agents import BYTES, a2c, dreamer, r2d2, spec

from callbacks.evaluation.rollout import evaluate_policy
from commands.parsing import find_config
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.online import OnlineDataModule
from datamodules.played.setting import make_environments
from modules.algorithms.atac import ATAC
from modules.algorithms.cql import CQL
from modules.algorithms.iql import IQL
from modules.batch import Spaces

PAIR = Dict({"b": Discrete(3), "a": Box(-1, 1, (2,), np.float32)})
GRAPH = Graph(node_space=Box(-1, 1, (2,), np.float32), edge_space=None)
ADVICE = r"--data\.(\w+) ('\[.*?\]'|\d+)"


def module(environment: EnvironmentSpec, **options: Any) -> OnlineDataModule:
    return OnlineDataModule(
        environment.id, dict(environment.arguments), environments=2, prefill=60, capacity=200, sequence_length=4,
        **options,
    )  # fmt: skip


def follow(message: str) -> dict[str, Any]:
    """The arguments that a message advises, as the command line reads them."""
    found = {name: yaml.safe_load(value.strip("'")) for name, value in re.findall(ADVICE, message)}
    assert found, message
    parser, every = ArgumentParser(exit_on_error=False), inspect.signature(OnlineDataModule).parameters
    parser.add_class_arguments(OnlineDataModule, "data", instantiate=False, skip=set(every) - set(found))
    return vars(parser.instantiate_classes(parser.parse_object({"data": found})).data)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (Dict({"goal": Text(5), "cell": Discrete(3)}), "observation 'goal', Text"),
        (Tuple([Sequence(Discrete(2)), BYTES(shape=(8, 8, 3)), GRAPH]), "observation '0', Sequence"),
        (Dict({"id": Discrete(10**6), "x": Box(-1, 1, (1,), np.float32)}), r"observation 'id', Discrete\(1000000\)"),
        (Text(5), "the observation is of the space Text"),
    ],
)
def test_what_cannot_be_learned_from_is_left_out_as_the_refusal_says(observation: Space, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        module(spec(observation)).spaces  # noqa: B018
    assert len(str(caught.value)) < 400
    data = module(spec(observation), **follow(str(caught.value)))
    env = data.environment_spec.make()
    assert env.observation_space == data.spaces.observation
    assert data.spaces.observation.contains(env.reset(seed=0)[0])
    plain = json.loads(json.dumps(data.environment_spec.to_plain() | {"arguments": {}}))
    back = EnvironmentSpec.from_plain(plain, "the checkpoint")  # what evaluates leaves out the same
    assert [w["class_path"] for w in back.to_plain()["wrappers"]] == [w["class_path"] for w in plain["wrappers"]]
    assert a2c(data.spaces)


def test_keys_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match=r"must be some of deep/a, deep/b; got \['deep'\]"):
        module(spec(Dict({"deep": PAIR})), observation_keys=["deep"]).spaces  # noqa: B018
    with pytest.raises(ValueError, match="Dict or Tuple of observations alone"):
        module(spec(Discrete(2)), observation_keys=["x"]).spaces  # noqa: B018


@pytest.mark.parametrize("shape", [(210, 160, 3), (3, 210, 160), (210, 160)])
def test_large_images_are_resized_as_the_refusal_says(shape: tuple[int, ...]) -> None:
    data = module(spec(BYTES(shape=shape)))
    with pytest.raises(ValueError, match=r"210x160.*--data.resize 64") as caught:
        a2c(data.spaces)
    resized = module(data.environment_spec, **follow(str(caught.value)))
    assert resized.spaces.observation == BYTES(shape=(64, 64, 1 if len(shape) == 2 else 3))
    assert a2c(resized.spaces)


def test_images_of_two_sizes_get_one_as_the_refusal_says() -> None:
    space = Dict({"left": BYTES(shape=(12, 9, 3)), "right": BYTES(shape=(3, 16, 16))})
    data = module(spec(space))
    with pytest.raises(ValueError, match="must have one size") as caught:
        dreamer(data.spaces)
    assert dreamer(module(data.environment_spec, **follow(str(caught.value))).spaces)


def test_offline_data_of_classes_are_recorded_as_the_refusal_says() -> None:
    actions = Box(-1, 1, (1,), np.float32)
    with pytest.raises(ValueError, match="flat Box of observations") as caught:
        ATAC(Spaces(Discrete(3), actions))
    (name,) = re.findall(r"gymnasium\.wrappers\.(\w+)", str(caught.value))
    env = spec(Discrete(3), actions, getattr(gym.wrappers, name)).bare()
    assert ATAC(Spaces(env.observation_space, env.action_space), hidden=[4])


def test_actions_without_bounds_get_some_as_the_refusal_says() -> None:
    data = module(spec(Discrete(2), Box(-np.inf, np.inf, (2,), np.float32)))
    with pytest.raises(ValueError, match="need finite bounds") as caught:
        a2c(data.spaces)
    limited = module(data.environment_spec, **follow(str(caught.value)))
    assert limited.spaces.action == Box(-1, 1, (2,), np.float32)
    agent = a2c(limited.spaces)
    assert evaluate_policy(agent, limited.environment_spec, 1, 0).returns.tolist() == [[5.0]]


def test_actions_of_no_plain_form_are_refused() -> None:
    mixed = Dict({"go": Discrete(2), "push": Box(-1, 1, (1,), np.float32)})
    with pytest.raises(ValueError, match=r"the action is of the space Dict.*wrapper of your own"):
        module(spec(Discrete(2), mixed)).spaces  # noqa: B018
    with pytest.raises(ValueError, match=r"Discrete space of actions.*dreamer/small"):
        r2d2(module(spec(Discrete(2), Box(-1, 1, (1,), np.float32))).spaces)


def test_an_own_vector_form_of_other_kinds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = gym.make_vec("Shown-v0", 2, vectorization_mode="sync", observation=Discrete(3), action=Discrete(2))
    monkeypatch.setattr(gym, "make_vec", lambda *_, **__: inner)
    with pytest.raises(ValueError, match="use vectorization: sync or async"):
        make_environments(spec(Discrete(3)), 2, vectorization="vector_entry_point", seed=0, protection=Protection(0))


def test_recorded_numbered_actions_are_for_the_agents_that_the_refusal_names() -> None:
    spaces = Spaces(Box(-1, 1, (3,), np.float32), Discrete(4))
    with pytest.raises(ValueError, match=r"got Discrete\(4\); .*numbered actions") as caught:
        CQL(spaces, hidden=[4])
    named = re.findall(r"--config (\S+)", str(caught.value))
    assert len(named) == 2
    for name in named:
        model = yaml.safe_load(find_config(name).read_text())["model"]
        kind = {"modules.algorithms.iql.IQL": IQL, "modules.algorithms.atac.ATAC": ATAC}[model["class_path"]]
        assert kind(spaces, hidden=[4]).spaces.action == spaces.action
