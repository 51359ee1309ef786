"""Rows that are collected: their layout, what the policy sees, failures, and continuing after a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tape
import torch
from tensordict import TensorDict
from torch import Tensor

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.collector import Collector
from datamodules.played.fields import field_of
from datamodules.played.policies import AgentPolicy, RandomPolicy
from datamodules.played.setting import make_environments
from modules.functional.recurrent_state import restart


@pytest.fixture(autouse=True)
def _new_tape() -> None:
    tape.Tape.taken = tape.Tape.failed = 0


def collector(
    id: str = "tape:Tape-v0", environments: int = 2, *, vectorization: Any = "sync", restarts: int = 3, **arguments: Any
) -> Collector:
    spec = EnvironmentSpec(id, arguments)
    env = make_environments(spec, environments, vectorization=vectorization, seed=5, protection=Protection(restarts))
    return Collector(env, id, 5)


class Counting:
    """Acts by its memory, which counts the steps of the episode and holds the first observation in a nested place."""

    device = torch.device("cpu")
    stored_width = 0

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        return state

    def initial_state(self, batch: int) -> Any:
        return {"count": torch.zeros(batch, dtype=torch.int64), "more": (torch.full((batch, 2), -1.0), "fixed")}

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        assert explore
        assert not torch.is_grad_enabled()
        self.seen.append(observation)
        count, (first, fixed) = state["count"], state["more"]
        first = torch.where(count.unsqueeze(1) == 0, observation[:, :2], first)
        return count % 7, {"count": count + 1, "more": (first, fixed)}


def same(one: TensorDict, other: TensorDict) -> None:
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_rows_hold_an_observation_and_what_led_to_it() -> None:
    # The action is the number of steps of the episode so far, so all of this is known beforehand.
    rows = collector(length=3).collect(9, AgentPolicy(Counting(), 2))
    time, episode, action = rows["observation"][:, 0].unbind(-1)
    assert rows["observation"].dtype == torch.float32
    assert time.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert episode.diff().tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert action.tolist() == [0, 0, 1, 2, 0, 0, 1, 2, 0]
    assert rows["previous_action"][:, 0].tolist() == [0, 0, 1, 2, 0, 0, 1, 2, 0]
    assert rows["reward"][:, 0].tolist() == [0, 10, 20, 30, 0, 10, 20, 30, 0]
    assert rows["is_first"][:, 0].tolist() == [True, False, False, False] * 2 + [True]
    assert rows["truncated"][:, 0].int().tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]  # episodes of odd numbers are cut
    assert rows["terminated"][:, 0].int().tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert torch.equal(rows[:, 0]["reward"], rows[:, 1]["reward"])


def test_pieces_join_and_counters_count() -> None:
    whole = collector(length=3).collect(11, AgentPolicy(Counting(), 2))
    pieces, policy = collector(length=3), AgentPolicy(Counting(), 2)
    joined = torch.cat([pieces.collect(n, policy) for n in (1, 2, 1, 5, 2)])
    same(whole, joined)
    assert pieces.steps == 2 * (11 - 3)
    assert (pieces.episodes, list(pieces.finished)) == (4, [(60.0, 3)] * 4)
    assert pieces.speed > 0


def test_an_agent_sees_each_observation_once_with_the_memory_of_its_episode() -> None:
    agent = Counting()
    collector(length=3).collect(9, AgentPolicy(agent, 2))
    assert torch.stack(agent.seen)[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


class Storing(Counting):
    """Remembers the rewards that it was told; stores [actions in the episode, 100 + sum of their rewards]."""

    stored_width = 2

    def initial_state(self, batch: int) -> Any:
        return {"count": torch.zeros(batch), "sum": torch.full((batch,), 100.0)}

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        return torch.zeros(len(observation), dtype=torch.int64), {**state, "count": state["count"] + 1}

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        self.seen.append(reward)
        return {**state, "sum": state["sum"] + reward}

    def stored_state(self, state: Any) -> Tensor:
        return torch.stack([state["count"], state["sum"]], -1)


def test_an_agent_is_told_what_its_actions_paid() -> None:
    agent = Storing()
    pieces, policy = collector(length=3), AgentPolicy(agent, 2)
    for count in (1, 3, 1, 4):
        pieces.collect(count, policy)
    # Rewards of the rows 0 to 7: 0 at the resets, then 10, 20, 30.
    assert torch.stack(agent.seen)[:, 0].tolist() == [0, 10, 20, 30, 0, 10, 20, 30]
    assert agent.seen[0].dtype == torch.float32


def test_a_record_is_of_the_state_in_which_the_action_was_chosen() -> None:
    pieces, policy = collector(length=3), AgentPolicy(Storing(), 2)
    rows = torch.cat([pieces.collect(count, policy) for count in (1, 3, 1, 4)])
    assert rows["stored"].shape == (9, 2, 2)
    assert rows["stored"].dtype == torch.float32
    counts, sums = rows["stored"][:, 1].unbind(-1)
    assert counts.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert sums.tolist() == [100, 100, 110, 130, 100, 100, 110, 130, 100]  # the reward of this action is not known yet
    without = collector(length=3)
    assert "stored" not in without.collect(2, RandomPolicy(without.env.single_action_space, 2, seed=0)).keys()  # noqa: SIM118


def test_only_rows_that_begin_get_a_fresh_state() -> None:
    state = (torch.arange(6.0).view(3, 2), {"a": torch.arange(3)}, "fixed", None)
    fresh = (torch.full((3, 2), -1.0), {"a": torch.full((3,), -1)}, "other", None)
    new = restart(state, fresh, torch.tensor([False, True, False]))
    assert new[0].tolist() == [[0, 1], [-1, -1], [4, 5]]
    assert new[1]["a"].tolist() == [0, -1, 2]
    assert new[2:] == ("fixed", None)
    assert restart(None, None, torch.tensor([True])) is None


def test_keys_and_several_actions_are_kept_apart() -> None:
    source = collector("tape:Many-v0", length=3)
    policy = RandomPolicy(source.env.single_action_space, 2, seed=0)
    rows = source.collect(6, policy)
    observation = rows["observation"]
    assert observation["camera/front"].dtype == torch.uint8
    assert observation["camera/front"].shape == (6, 2, 4, 4, 1)
    assert observation["camera/front"][:, 0, 2, 2, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert torch.equal(observation["clock"].sum(-1), torch.ones(6, 2, dtype=torch.int64))  # a class, one-hot
    assert observation["clock"][:, 0].argmax(-1).tolist() == [0, 1, 2, 3, 0, 1]
    assert rows["previous_action"].shape == (6, 2, 2)
    assert torch.equal(observation["reward"][..., 1], rows["previous_action"][..., 0].float())
    assert rows["reward"][:, 0].tolist() == [0, 10, 20, 30, 0, 10]


@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
def test_the_own_vector_form_gives_rows_of_the_same_layout(vectorization: str) -> None:
    source = collector("CartPole-v1", 4, vectorization=vectorization)
    rows = source.collect(60, RandomPolicy(source.env.single_action_space, 4, seed=0))
    ended = rows["terminated"] | rows["truncated"]
    assert ended.any()
    assert torch.equal(rows["is_first"][1:], ended[:-1])
    assert rows["is_first"][0].all()
    assert torch.equal(rows["reward"], (~rows["is_first"]).float())
    assert (rows["observation"][rows["is_first"]].abs() <= 0.05).all()  # CartPole starts there
    assert (rows["observation"][rows["terminated"]].abs().amax(-1) > 0.05).all()


def test_processes_give_the_same_rows() -> None:
    here, there = collector("CartPole-v1"), collector("CartPole-v1", vectorization="async")
    try:
        policies = [RandomPolicy(here.env.single_action_space, 2, seed=3) for _ in range(2)]
        mine, theirs = here.collect(40, policies[0]), there.collect(40, policies[1])
        same(mine, theirs)
        file = there.state_dict()
        continued = there.collect(30, policies[1])
        again = collector("CartPole-v1", vectorization="async")
        try:
            assert again.load_state_dict(file) is None
            repeated = again.collect(30, policies[0])
        finally:
            again.close()
        same(continued, repeated)
    finally:
        there.close()


# ---------------------------------------------------------------------------------------------------------- bad input
def test_a_copy_that_fails_is_made_anew_and_its_episode_is_cut() -> None:
    source = collector(environments=2, length=4, fail_at=5)  # the sixth step of all: environment 1, third step
    with pytest.warns(
        UserWarning, match=r"environment 1 of 'tape:Tape-v0' failed and was made anew: in step: ZeroDivision"
    ):
        rows = source.collect(8, AgentPolicy(Counting(), 2))
    assert source.restarts == 1
    assert rows["observation"][:, 1, 0].tolist() == [0, 1, 2, 2, 0, 1, 2, 3]
    assert rows["truncated"][:, 1].tolist() == [False] * 3 + [True] + [False] * 4
    assert rows["reward"][:, 1].tolist() == [0, 10, 20, 0, 0, 10, 20, 30]
    assert rows["observation"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]  # the other one goes on


def test_a_copy_that_fails_for_good_is_an_error_that_names_it() -> None:
    with (
        pytest.warns(UserWarning, match="made anew"),
        pytest.raises(ValueError, match="'tape:Tape-v0' failed in step for the 3rd time: ZeroDivisionError: the simul"),
    ):
        collector(environments=1, fail_at=3, fails=100, restarts=2).collect(40, AgentPolicy(Counting(), 1))
    with pytest.raises(ValueError, match="'tape:Tape-v0' failed in step: ZeroDivisionError"):
        collector(environments=1, fail_at=3, fails=200, restarts=0).collect(40, AgentPolicy(Counting(), 1))


def test_a_process_that_dies_is_an_error_that_names_it() -> None:
    source = collector(vectorization="async", bad="exit")
    with pytest.raises(ValueError, match="environment 'tape:Tape-v0': a process ended"):
        source.collect(5, AgentPolicy(Counting(), 2))
    source.close()


@pytest.mark.parametrize(("bad", "said"), [("observation", "the observation"), ("reward", "the reward")])
def test_values_that_are_not_finite_are_named(bad: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"environment 'tape:Tape-v0': {said} of environment 0 is not finite"):
        collector(bad=bad).collect(5, AgentPolicy(Counting(), 2))


def test_an_agent_that_diverged_does_not_act() -> None:
    class Diverged(Counting):
        def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
            return torch.full((len(observation), 1), torch.nan), state

    with pytest.raises(FloatingPointError, match="training diverged"):
        collector("Pendulum-v1").collect(3, AgentPolicy(Diverged(), 2))


def test_spaces_that_cannot_be_stored_are_named() -> None:
    with pytest.raises(ValueError, match=r"the action is of the space Text.*--data.wrappers"):
        field_of(gym.spaces.Text(3), "the action")
    with pytest.raises(ValueError, match="has no vector form of its own"):
        collector("Pendulum-v1", vectorization="vector_entry_point")
    spec = EnvironmentSpec("CartPole-v1", wrappers=(gym.wrappers.FlattenObservation,))
    with pytest.raises(ValueError, match="has no wrappers around"):
        make_environments(spec, 2, vectorization="vector_entry_point", seed=0, protection=Protection(0))


# -------------------------------------------------------------------------------------------------------- checkpoints
def through_a_file(state: Any, folder: Path) -> Any:
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize("agent", [Counting, Storing])
@pytest.mark.parametrize("before", [1, 3, 5, 6, 8])  # within an episode, at an end, after a reset
def test_episodes_continue_exactly(tmp_path: Path, before: int, agent: type[Counting]) -> None:
    old, policy = collector(length=4), AgentPolicy(agent(), 2)
    old.collect(before, policy)
    state = through_a_file([old.state_dict(), policy.state_dict()], tmp_path)
    expected = old.collect(9, policy)
    new, fresh = collector(length=4), AgentPolicy(agent(), 2)
    assert new.load_state_dict(state[0]) is None
    fresh.load_state_dict(state[1])
    rows = new.collect(9, fresh)
    same(rows, expected)
    assert (new.steps, new.episodes, new.finished) == (old.steps, old.episodes, old.finished)


def test_episodes_that_cannot_continue_start_anew(tmp_path: Path) -> None:
    old, policy = collector(opaque=True), AgentPolicy(Counting(), 2)
    old.collect(8, policy)
    state = through_a_file(old.state_dict(), tmp_path)
    new = collector(opaque=True)
    assert "opaque is a builtins.memoryview" in str(new.load_state_dict(state))
    rows = new.collect(4, AgentPolicy(Counting(), 2))
    assert rows["is_first"][:, 0].tolist() == [True, False, False, False]
    assert new.steps == old.steps + 6
    np.testing.assert_array_equal(rows["observation"][:, 0, 0], [0, 1, 2, 3])


def test_episodes_that_start_anew_are_not_the_first_ones_again() -> None:
    old = collector("CartPole-v1")
    policy = RandomPolicy(old.env.single_action_space, 2, seed=0)
    first = old.collect(20, policy)
    new = collector("CartPole-v1")
    assert new.load_state_dict(old.state_dict(), continue_episodes=False) == "the replay is another one"
    assert not torch.equal(new.collect(1, policy)["observation"], first["observation"][:1])


def test_random_actions_continue(tmp_path: Path) -> None:
    for space in (gym.spaces.Discrete(5, start=2), gym.spaces.Box(-1, 1, (3,)), gym.spaces.MultiDiscrete([3, 4])):
        policy = RandomPolicy(space, 4, seed=0)
        first = np.array([policy(torch.empty(0), np.zeros(4), np.zeros(4)) for _ in range(20)])
        assert all(space.contains(action) for action in first.reshape(-1, *space.shape).astype(space.dtype))
        state = through_a_file(policy.state_dict(), tmp_path)
        expected = policy(torch.empty(0), np.zeros(4), np.zeros(4))
        fresh = RandomPolicy(space, 4, seed=9)
        fresh.load_state_dict(state)
        np.testing.assert_array_equal(fresh(torch.empty(0), np.zeros(4), np.zeros(4)), expected)


def test_a_reference_to_old_rows_stays_valid() -> None:
    source, policy = collector(length=3), AgentPolicy(Counting(), 2)
    first: TensorDict = source.collect(3, policy)
    before = first["observation"].clone()
    source.collect(3, policy)
    assert torch.equal(first["observation"], before)
