"""MuZero: bins that are too narrow, and batches, replays and arguments that it refuses."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from muzero_agents import (
    FORCE,
    KINDS,
    LENGTH,
    UNROLL,
    make_agent,
    make_batch,
)
from tensordict import TensorDict

from modules.algorithms.muzero import LossWeights
from modules.contracts import ReplayOffer
from modules.functional.planning_targets import NStep
from modules.networks.action_slots import DistinctSlots, NumberedSlots
from modules.networks.reward_models import StepReward
from modules.networks.value_codecs import TwoHot
from modules.networks.value_ensemble import EnsembleHead
from modules.search.settings import SearchSettings


def test_targets_beyond_the_bins_are_warned_of_with_bins_that_hold_them(recwarn: pytest.WarningsRecorder) -> None:
    agent = make_agent()
    batch = make_batch(agent)
    batch = batch._replace(sequence=batch.sequence._replace(reward=60.0 * batch.sequence.reward))
    metrics = agent.read_back(agent.update(batch).metrics)
    assert metrics["muzero/saturated"] > 10.0
    told = [str(w.message) for w in recwarn if "times as far out as its bins" in str(w.message)]
    assert len(told) == 2  # of values and of rewards
    agent.read_back(agent.update(batch).metrics)
    assert len([w for w in recwarn if "times as far out" in str(w.message)]) == 2
    key = "--model.model.init_args."
    advised = [re.fullmatch(rf".* ({key}\S*codec) \S*TwoHot \1.init_args '({{.*}})'", text) for text in told]
    found = {asked[1].removeprefix(key): partial(TwoHot, **yaml.safe_load(asked[2])) for asked in advised if asked}
    assert set(found) == {"codec", "reward.init_args.codec"}
    wide, reward = found["codec"], partial(StepReward, codec=found["reward.init_args.codec"])
    better = make_agent(model={"codec": wide, "reward": reward})
    assert better.read_back(better.update(batch).metrics)["muzero/saturated"] == 0.0


def test_targets_beyond_the_bins_are_counted_in_updates_that_nobody_reads(recwarn: pytest.WarningsRecorder) -> None:
    agent = make_agent(lr=0.0)
    batch = make_batch(agent)
    far = batch._replace(sequence=batch.sequence._replace(reward=60.0 * batch.sequence.reward))
    once = agent.update(far).metrics["saturated"]
    agent.update(far)
    metrics = agent.read_back(agent.update(batch).metrics)
    assert metrics["muzero/saturated"] == 2 * once > 0
    assert metrics["muzero/value_reach"] > 1.0 < metrics["muzero/reward_reach"]
    assert len([w for w in recwarn if "times as far out" in str(w.message)]) == 2
    # A process that goes on knows of them.
    again = make_agent(lr=0.0)
    again.load_rank_state(agent.rank_state())
    assert again.read_back(again.update(batch).metrics)["muzero/saturated"] == 2 * once


def test_the_flags_that_widen_an_ensemble_are_its_own(recwarn: pytest.WarningsRecorder) -> None:
    head = partial(EnsembleHead, members=2, codec=partial(TwoHot, bins=9, low=-1.0, high=1.0, spacing="identity"))
    agent = make_agent(model={"codec": None, "value": head, "reward": partial(StepReward, head=head)})
    batch = make_batch(agent)
    batch = batch._replace(sequence=batch.sequence._replace(reward=60.0 * batch.sequence.reward))
    agent.read_back(agent.update(batch).metrics)
    told = " ".join(str(w.message) for w in recwarn)
    for key in ("value", "reward.init_args.head"):
        assert f"--model.model.init_args.{key}.init_args.codec modules.networks.value_codecs.TwoHot" in told


def test_batches_of_another_kind_are_refused() -> None:
    agent = make_agent()
    windows = TensorDict({"reward": torch.zeros(2, 3), "observation": torch.zeros(2, 3, 3)}, [2, 3])
    with pytest.raises(ValueError, match=r"PrioritizedSequences of OnlineDataModule .* holds observation, reward"):
        agent.update(windows)
    batch = make_batch(agent)
    assert batch.stored is not None
    with pytest.raises(ValueError, match=r"set data.replay.init_args.stored_rows to true"):
        agent.update(batch._replace(stored=None))
    with pytest.raises(ValueError, match="stored records have a width of 4, the agent's 5"):
        agent.update(batch._replace(stored=batch.stored[..., :4]))
    long = make_agent(value_target=partial(NStep, n=STEPS_TOO_MANY))
    with pytest.raises(ValueError, match=r"a sequence of 5 rows is too short .* data.sequence_length to 5 or more"):
        long.update(batch)


STEPS_TOO_MANY = LENGTH - UNROLL


@pytest.mark.parametrize(
    ("offer", "message"),
    [
        (None, "prioritised sequences: give it data of the class OnlineDataModule"),
        (ReplayOffer(LENGTH), "prioritised sequences: give it data of the class OnlineDataModule"),
        (ReplayOffer(LENGTH, burn_in=2, prioritized=True), "burn_in to 0, not 2"),
        (ReplayOffer(LENGTH, prioritized=True), "set data.replay.init_args.stored_rows to true"),
        (ReplayOffer(LENGTH - 1, prioritized=True, stored=True), "sequence of 4 rows is too short .* to 4 or more"),
    ],
)
def test_replays_that_do_not_fit_are_refused(offer: ReplayOffer | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent().meet(offer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unroll": 0}, "unroll must be at least 1, got 0"),
        ({"discount": 1.1}, r"discount must lie in \[0, 1\], got 1.1"),
        ({"reanalyse": math.nan}, r"reanalyse must lie in \[0, 1\], got nan"),
        ({"search": SearchSettings(4, pessimism=1.0)}, "search.pessimism is about what is not known.*EnsembleHead"),
        ({"lr": -1e-3}, r"lr must lie in \[0, 1000\], got -0.001"),
        ({"lr": "cosine(1e-3, -1, 9)"}, r"lr must lie in \[0, 1000\], got -1"),
        ({"lr": "steps(3)"}, r"'steps\(3\)' is no schedule: give a number, or one of constant\(value\)"),
        ({"lr": "linear(1e-3, 0, 9)", "compile": "update"}, "lr: its graph .* set compile to off, or one number"),
        (KINDS["pUCT"] | {"compile": "both"}, "temperature: its graph .* set compile to off, or one number"),
        ({"compile": "searches"}, "compile must be one of off, update, search, both, got 'searches'"),
        ({"temperature": 0.5}, "temperature would be ignored: of the rules only modules.search.rules.PUCT has one"),
        (KINDS["pUCT"] | {"temperature": "linear(1, -1, 5)"}, r"temperature must lie in \[0, 1e\+06\], got -1"),
        (
            {"slots": partial(DistinctSlots, count=4)},
            "4 slots of different actions are more than the 3 actions: set .*count to 3 or less",
        ),
        ({"action": FORCE, "slots": NumberedSlots}, "needs a Discrete space of actions"),
        ({"action": gym.spaces.Box(-np.inf, np.inf, (1,))}, "actions of a Box need finite bounds"),
        ({"observation": gym.spaces.Dict({"action_mask": gym.spaces.MultiBinary(3)})}, "nothing to observe besides"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)


def test_weights_are_checked_by_name() -> None:
    with pytest.raises(ValueError, match=r"weights.value must lie in \[0, 1e\+12\], got -1"):
        LossWeights(value=-1.0)
