"""Environments that misbehave: what is forgiven, what is an error, and what the errors say."""

from __future__ import annotations

import re
import warnings
from itertools import islice
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import rogue
from gymnasium.vector import AutoresetMode

import datamodules.envs.processes
from callbacks.evaluation.rollout import Rollouts, evaluate_policy, evaluate_random, evaluation_environments
from datamodules.envs.contract import Contract, ContractError
from datamodules.envs.episode_infos import episode_numbers, mean_numbers, vector_numbers, written
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection, Restarting
from datamodules.played.collector import Collector
from datamodules.played.minari_episodes import episodes
from datamodules.played.policies import RandomPolicy
from datamodules.played.setting import make_environments
from modules.stop import Stop

WRONG = {
    "shape": r"step\(\) returned an observation of shape \[2, 1\], its space declares \[2\]",
    "text": r"step\(\) returned an observation str 'seen', its space declares an array of float32 \[2\]",
    "keys": r"step\(\) returned an observation dict .*, its space declares an array of float32 \[2\]",
    "complex": r"an observation an array|an observation ndarray array\(\[.*j\].*its space declares an array of float32",
    "reward none": r"step\(\) must return a reward that is one number, it returned None",
    "reward array": r"step\(\) must return a reward that is one number, it returned ndarray array\(\[1., 1.\]\)",
    "reward complex": r"step\(\) must return a reward that is one number, it returned complex 1j",
    "done none": r"step\(\) must return terminated as True or False, it returned None",
    "done text": r"step\(\) must return truncated as True or False, it returned str 'no'",
    "info none": r"step\(\) must return a dict of infos, it returned None",
    "old interface": r"return observation, reward, terminated, truncated, info; it returned 4 values \(gym's old",
    "nothing": r"step\(\) must return observation, reward, terminated, truncated, info; it returned None",
    "no info": r"reset\(\) must return an observation and a dict of infos, it returned ndarray .* alone",
}
HARMLESS = ("float64", "list", "reward of shape one", "done number")


@pytest.fixture(autouse=True)
def _new() -> None:
    rogue.Rogue.shown = 0


def spec(fault: str = "", id: str = "rogue:Rogue-v0", **arguments: Any) -> EnvironmentSpec:
    return EnvironmentSpec(id, {"fault": fault, **arguments}, ())


def collect(made: EnvironmentSpec, protection: Protection = Protection(), **kind: Any) -> Collector:  # noqa: B008
    env = make_environments(made, 2, seed=3, protection=protection, **{"vectorization": "sync", **kind})
    source = Collector(env, made.id, 3)
    try:
        source.collect(20, RandomPolicy(env.single_action_space, 2, 0))
    finally:
        source.close()
    return source


def play(made: EnvironmentSpec, episodes: int = 6, **arguments: Any) -> Rollouts:
    protection = Protection(same_episodes=True, **arguments)
    return evaluate_random(evaluation_environments(made, 2, 10, protection), episodes, 10)


def raised(call: Any, *arguments: Any, **more: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's own checker says some of it too, without a name
        with pytest.raises(ValueError, match="environment '") as error:
            call(*arguments, **more)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


@pytest.mark.parametrize("id", ["rogue:Rogue-v0", "rogue:Limited-v0"])
@pytest.mark.parametrize("call", [collect, play])
def test_what_breaks_the_interface_is_one_line_and_not_forgiven(id: str, call: Any) -> None:
    for fault, said in WRONG.items():
        message = raised(call, spec(fault, id))
        assert message.startswith(f"environment '{id}': "), (fault, message)
        assert re.search(said, message), (fault, message)


@pytest.mark.parametrize("call", [collect, play])
def test_numbers_that_are_none_are_named(call: Any) -> None:
    assert "observation" in (message := raised(call, spec("nan")))
    assert "is not finite" in message
    assert "reward" in (message := raised(call, spec("reward nan")))
    assert "is not finite" in message


def test_what_is_meant_right_is_taken() -> None:
    for fault in HARMLESS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rollouts = play(spec(fault))
            assert collect(spec(fault)).steps > 0
        assert rollouts.returns.tolist() == [[5.0] * 6], fault


def test_spaces_of_each_kind_are_compared() -> None:
    space = gym.spaces.Dict({"a": gym.spaces.Discrete(3, start=1), "b": gym.spaces.MultiDiscrete([2, 2])})
    check = Contract("X", space)
    right = {"a": 3, "b": np.array([1, 1])}
    assert check.of_reset((right, {}))[0] == right
    assert check.of_reset(({**right, "a": np.int32(2)}, {}))[0]["a"] == 2
    for wrong, said in {
        "key 'a', int 4, its space declares an integer from 1 to 3": {**right, "a": 4},
        "key 'a', float 1.0, its space": {**right, "a": 1.0},
        "key 'b', ndarray": {**right, "b": np.array([1, 2])},
        "with the keys": {"a": 1},
        "its space declares a dict": 5,
    }.items():
        with pytest.raises(ContractError, match=wrong):
            check.of_reset((said, {}))
    bytes_ = Contract("X", gym.spaces.Box(0, 255, (2,), np.uint8))
    assert bytes_.of_reset((np.array([0, 255]), {}))[0].dtype == np.uint8
    with pytest.raises(ContractError, match="of int64 that does not fit into the uint8"):
        bytes_.of_reset((np.array([0, 256]), {}))
    with pytest.raises(ContractError, match="of float64 that does not fit into the uint8"):
        bytes_.of_reset((np.array([0.0, 1.0]), {}))


# ------------------------------------------------------------------------------------------------------------ failures
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", "ZeroDivisionError: the sim"),
        ("exit", "SystemExit: 0"),
        ("interrupt", "Interrupt: st"),
    ],
)
def test_an_episode_that_fails_is_played_again_and_not_counted(fault: str, said: str) -> None:
    whole = play(spec())
    with pytest.warns(UserWarning, match=f"'rogue:Rogue-v0' failed .* played again: in step, .* of seed 1[01]: {said}"):
        again = play(spec(fault, often=2))
    assert again.returns.tolist() == whole.returns.tolist() == [[5.0] * 6]
    assert again.numbers == whole.numbers
    rogue.Rogue.shown = 0
    with pytest.warns(UserWarning, match=said):
        assert collect(spec(fault, often=2)).restarts == 2


def test_an_episode_that_fails_for_good_is_an_error_that_names_its_seed() -> None:
    with pytest.warns(UserWarning, match="played again"):
        assert play(spec("raise", often=6), max_restarts=6).returns.tolist() == [[5.0] * 6]
    rogue.Rogue.shown = 0
    message = raised(play, spec("raise", seeds=[13]))
    assert message.startswith(
        "environment 'rogue:Rogue-v0' failed in step for the 4th time, in the episode of seed 13: Z"
    )
    assert "SystemExit: 0" in raised(play, spec("exit"), max_restarts=0)


def test_a_reset_that_fails_is_repeated() -> None:
    with pytest.warns(UserWarning, match="in reset, in the episode of seed 12: ZeroDivisionError: no world"):
        assert play(spec("raise in reset", often=2)).numbers == play(spec()).numbers
    rogue.Rogue.shown = 0
    assert "failed in reset for the 4th time, in the episode of seed 12" in raised(play, spec("raise in reset"))


def test_failures_of_different_episodes_are_forgiven_each() -> None:
    env = Restarting(spec("raise").make, Protection(1, same_episodes=True), "X")
    for seed in range(3):
        env.reset(seed=seed)
        env.step(0), env.step(0)
        assert env.step(0)[3]  # failed
        env.env.unwrapped.fault = ""
        seen, _ = env.reset()
        assert seen.tolist() == [0, seed]  # the same episode
        assert [env.step(0)[2] for _ in range(5)] == [False] * 4 + [True]
        env.env.unwrapped.fault = "raise"


def test_an_episode_without_an_end_is_an_error_that_says_the_limit() -> None:
    env = evaluation_environments(spec(length=0), 2, 0)
    with pytest.raises(ValueError, match=r"'rogue:Rogue-v0': the episode of seed 0 is longer than 50 steps.*TimeLimit"):
        evaluate_random(env, 2, 0, max_episode_steps=50)
    assert evaluate_policy.__kwdefaults__["max_episode_steps"] == 100_000


def test_datasets_hold_whole_episodes_of_finite_numbers() -> None:
    def store(made: EnvironmentSpec) -> list[Any]:
        zeros = lambda moment: np.zeros(len(moment.first), np.int64)  # noqa: E731
        return list(islice(episodes(made, zeros, seed=20, environments=2), 6))

    whole = store(spec())
    with pytest.warns(UserWarning, match=r"played again: in step, in the episode of seed 2[01]: ZeroDivisionError"):
        again = store(spec("raise", often=2))
    for one, other in zip(whole, again, strict=True):
        assert one.seed == other.seed
        np.testing.assert_array_equal(one.observations, other.observations)
    assert "of seed 23: Zero" in raised(store, spec("raise", seeds=[23]))
    assert "observation is not finite (NaN or infinite) in the episode of seed 20" in raised(store, spec("nan"))
    assert "step() must return a reward that is one number, it returned None" in raised(store, spec("reward none"))


# -------------------------------------------------------------------------------------------------------------- hanging
def test_a_step_that_hangs_is_interrupted_and_forgiven_like_a_failure() -> None:
    with pytest.warns(UserWarning, match=r"StepTimeout: it took longer than 0.5 s"):
        assert play(spec("hang", often=1), step_timeout=0.5).returns.tolist() == [[5.0] * 6]
    rogue.Rogue.shown = 0
    with pytest.warns(UserWarning, match="StepTimeout"):
        assert collect(spec("hang", often=1), Protection(step_timeout=0.5)).restarts == 1
    assert "failed in step: StepTimeout" in raised(collect, spec("hang"), Protection(0, step_timeout=0.5))


class Stumble(gym.Wrapper):
    def step(self, action: Any) -> Any:
        raise TypeError("a wrapper that stumbles over what it got")


def test_a_signal_that_ends_the_run_is_nobodys_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise Stop

    monkeypatch.setattr(rogue.Rogue, "step", stop)
    monkeypatch.setattr(rogue.Rogue, "reset", stop)
    with pytest.raises(Stop):
        Restarting(rogue.Rogue, Protection(), "it").step(0)
    with pytest.raises(Stop):
        Restarting(rogue.Rogue, Protection(), "it").reset()
    with pytest.raises(Stop):  # while it is looked for who is to blame
        Restarting(lambda: Stumble(rogue.Rogue()), Protection(), "it").step(0)


@pytest.mark.long
def test_processes_that_hang_or_fail_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datamodules.envs.processes, "RESTART_SECONDS", 0.5)
    hang = raised(collect, spec("hang in C"), Protection(step_timeout=0.5), vectorization="async")
    assert hang == "environment 'rogue:Rogue-v0': environment 0, 1 did not answer within step_timeout, 0.5 s"
    assert "returned an observation of shape [2, 1]" in raised(collect, spec("shape"), vectorization="async")
    assert "SystemExit: 0" in raised(collect, spec("exit"), Protection(0), vectorization="async")
    assert "Traceback" not in capfd.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- infos
def test_success_and_chosen_numbers_of_episodes_are_kept() -> None:
    rollouts = play(spec(), infos=("coins",))
    assert rollouts.numbers == [[{"success": float(e % 2 == 0), "coins": 5.0} for e in range(6)]]
    source = collect(spec(), Protection(infos=("coins",)))
    metrics = source.metrics()
    assert metrics["coins"] == 5.0
    # Seeds 3 and 4 in the first two episodes; later ones have none, which is odd.
    assert metrics["success_rate"] == pytest.approx(1 / source.episodes)
    fresh = Collector(source.env, "X", 0)
    fresh.load_state_dict(source.state_dict())
    assert list(fresh.numbers) == list(source.numbers)


def test_numbers_of_every_kind_and_of_vector_environments() -> None:
    info = {
        "success": np.array([True]),
        "a": {"b": np.float32(2.5)},
        "text": "x",
        "nan": float("nan"),
        "many": np.ones(2),
    }
    names = ("a/b", "text", "nan", "many", "missing")
    assert episode_numbers(info, names) == {"success": 1.0, "a/b": 2.5}
    assert episode_numbers({"is_success": 0, "success": 1}) == {"success": 0.0}
    lost = {"success": False, "draw": False, "loss": np.bool_(True)}
    assert episode_numbers(lost) == {"success": 0.0, "draw": 0.0, "loss": 1.0}
    assert episode_numbers({"loss": 0.3}) == {}  # no match
    ended = np.array([False, True, True])
    own = {
        "success": np.array([1, 1, 0]),
        "_success": ended,
        "a": {"b": np.arange(3.0), "_b": np.array([True, True, False])},
    }
    told = {1: {"success": 1.0, "a/b": 1.0}, 2: {"success": 0.0}}
    assert vector_numbers(own, ended, ("a/b",)) == vector_numbers({"final_info": own}, ended, ("a/b",)) == told
    duels = {"success": ended, "draw": ~ended, "loss": np.zeros(3, bool)}
    assert vector_numbers(duels, ended)[1] == {"success": 1.0, "draw": 0.0, "loss": 0.0}
    assert [written(name, 0.25) for name in ("success_rate", "draw", "loss", "coins")] == ["25%"] * 3 + ["0.25"]
    assert mean_numbers([{"success": 1.0, "x": 4.0}, {"success": 1.0}, {}]) == {"success_rate": 2 / 3, "x": 4.0}


def test_success_is_a_share_whatever_an_environment_calls_it() -> None:
    told = [episode_numbers({"success": value}) for value in (2, -1.5, np.float32(0.5), np.array([0]), None)]
    assert told == [{"success": 1.0}, {"success": 0.0}, {"success": 1.0}, {"success": 0.0}, {}]
    assert written("success_rate", mean_numbers(told)["success_rate"]) == "40%"
    for value in (np.inf, float("nan"), "yes", np.ones(2), {}):
        with pytest.warns(UserWarning, match=r"info\['is_success'\] .* neither true nor false"):
            assert episode_numbers({"is_success": value, "success": True}) == {}


def test_the_own_vector_form_is_checked() -> None:
    class Wide(gym.vector.VectorEnv):
        metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
        num_envs, fault = 2, ""
        single_observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        observation_space = gym.spaces.Box(-1, 1, (2, 3), np.float32)
        single_action_space, action_space = gym.spaces.Discrete(2), gym.spaces.MultiDiscrete([2, 2])

        def __init__(self, num_envs: int = 2, fault: str = "") -> None:
            self.fault = fault

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return np.zeros((2, 3), np.float32), {}

        def step(self, actions: Any) -> Any:
            if self.fault == "raise":
                raise KeyError("x")
            seen = np.zeros((2, 1 if self.fault == "shape" else 3), np.float32)
            flags = np.zeros(1 if self.fault == "flags" else 2, bool)
            return seen, np.zeros(2), flags, np.zeros(2, bool), {}

    gym.register("Wide-v1", vector_entry_point=Wide)
    for fault, said in {
        "raise": "failed in step: KeyError",
        "shape": r"of shape \[2, 1\], its space declares \[2, 3\]",
        "flags": "returned terminated as .* its 2 environments need one each",
    }.items():
        with pytest.raises(ValueError, match=f"'Wide-v1'.*{said}"):
            collect(EnvironmentSpec("Wide-v1", {"fault": fault}), vectorization="vector_entry_point")
