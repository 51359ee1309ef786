"""A2C with a memory: it learns from the states that it acted with, window after window; resume, ranks, bad input."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from a2c_agents import make as make_a2c
from a2c_agents import windows
from equal_ranks import check_equal_ranks
from merlin_agents import CUE, PENDULUM, STREAMS, TWO_CATCH, played
from resumed_agents import equal, go_on, resume, saved
from runs_in_parts import whole_and_resumed

import reverie
from callbacks.evaluation.rollout import evaluate_policy
from commands.policy_step import PolicyStep
from datamodules.envs.make import EnvironmentSpec
from modules.agent.agent import Agent
from modules.agent.remembering import Past, start_and_noise
from modules.algorithms.a2c import A2C
from modules.contracts import ReplayOffer
from modules.networks.memory import MemoryLSTM
from modules.networks.recurrent import LSTM
from modules.networks.two_timescale import TwoTimescale

MEMORIES: dict[str, Any] = {
    "LSTM": partial(LSTM, width=5),
    "external": partial(MemoryLSTM, width=4, rows=12, moment=3),
    "two timescales": partial(TwoTimescale, width=4, latents=3, tau=2),
}


def make(memory: Any = MEMORIES["two timescales"], environment: EnvironmentSpec = CUE, **settings: Any) -> A2C:
    env = environment.make()
    return make_a2c(env.observation_space, env.action_space, memory=memory, lr=1e-2, **settings)


@pytest.mark.parametrize("environment", [CUE, PENDULUM, TWO_CATCH], ids=["numbered", "continuous", "pictures"])
@pytest.mark.parametrize("name", MEMORIES)
def test_the_learner_comes_to_the_states_of_who_acted(name: str, environment: EnvironmentSpec) -> None:
    agent = make(MEMORIES[name], environment)
    before = [p.detach().clone() for p in agent.parameters()]
    stream, compared = played(agent, environment), 0
    for _ in range(4):
        batch, policy = next(stream)
        windows = agent.read(batch)
        rows = windows.sequence
        with torch.no_grad():
            start, noise = start_and_noise(agent.memory, windows, None)
            past = Past(rows.previous_action, rows.reward, rows.is_first)
            body = Past(*(x[:-1] for x in past))
            _, state = agent.recall(agent.perception(rows.between(0, -1).observation), body, start, noise[:-1])
        within = ~rows.is_first[-1]  # the state behind a row that no action followed is forgotten
        compared += int(within.sum())
        torch.testing.assert_close(state[within], policy.recurrent.memory[within], rtol=1e-4, atol=1e-5)
        metrics = agent.update(batch).metrics
        assert all(value.isfinite() for value in metrics.values()), metrics
        assert metrics["rho"].item() == pytest.approx(1.0, abs=1e-4)
    assert compared > STREAMS
    for old, new in zip(before, agent.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_the_losses_of_the_memory_are_among_those_of_the_update() -> None:
    metrics = {}
    for scale in (0.0, 10.0):
        agent = make(partial(TwoTimescale, width=4, latents=3, tau=2, kl_scale=scale))
        stream = played(agent)
        batch, _ = next(stream)
        for _ in range(30):
            metrics[scale] = agent.update(batch).metrics
    assert metrics[10.0]["memory/kl"] < 0.5 * metrics[0.0]["memory/kl"]


def test_noise_of_a_row_that_no_action_followed_is_drawn_and_that_of_others_is_stored() -> None:
    agent = make()
    batch = agent.read(windows(agent, 3, 5).set("stored", torch.randn(3, 5, agent.stored_width)))
    drawn = agent.noise_for(batch)
    start, noise = start_and_noise(agent.memory, batch, drawn)
    assert torch.equal(start, batch.stored[0, :, 4:])
    first = batch.sequence.is_first[1:].unsqueeze(-1)
    assert torch.equal(noise[-1], drawn[-1])
    assert torch.equal(noise[:-1], torch.where(first, drawn[:-1], batch.stored[1:, :, 1:4]))
    assert first.any()
    _, unknown = start_and_noise(agent.memory, batch, None)
    assert torch.equal(unknown[:-1], torch.where(first, 0.0, batch.stored[1:, :, 1:4]))
    assert not unknown[-1].any()


def test_without_exploration_nothing_is_drawn_and_what_led_to_an_observation_counts() -> None:
    agent = make()
    seen = torch.randn(4, *agent.spaces.observation.shape)
    _, state = agent.act(seen, None, explore=False)
    found = [agent.act(seen, changed, explore=False)[1].memory for changed in (
        state, state, agent.rewarded(state, torch.ones(4)), agent.acted(state, (state.action + 1) % 3))]  # fmt: skip
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])
    drawn = [agent.act(seen, state, explore=True)[1].memory for _ in range(2)]
    assert not torch.equal(*drawn)


def test_what_is_exported_carries_the_memory() -> None:
    agent = make()
    step = PolicyStep(agent)
    seen = torch.randn(6, *agent.spaces.observation.shape)
    state, carried = None, step.started(1)
    for row in seen.unsqueeze(1):
        if state is not None:
            state = agent.rewarded(state, torch.zeros(1))
        action, state = agent.act(row, state, explore=False)
        found = step.step({"observation": row, **carried})
        assert torch.equal(found["action"], action)
        carried = {"reward": torch.zeros(1)} | {k.removeprefix("next_"): v for k, v in found.items() if k != "action"}
    assert PolicyStep(make(None)).states == []  # a probability is no memory


# -------------------------------------------------------------------------------------------------------- resume, ranks
def test_an_update_goes_on_exactly() -> None:
    agent = make()
    stream = played(agent)
    agent.update(next(stream)[0])
    batch, _ = next(stream)
    checkpoint = saved(agent)
    assert equal(go_on(agent, batch, 2), go_on(resume(make(), checkpoint), batch, 2))


def test_two_ranks_learn_equal_parameters(tmp_path: Path) -> None:
    check_equal_ranks(tmp_path, make)


REMEMBERING = (
    "--data.environment", "reverie/DelayedCue-v0", "--data.environment_arguments", "{cues: 2, delay: 4, bits: 1}",
    "--model.memory", "TwoTimescale", "--model.memory.width", "16", "--model.memory.latents", "8",
    "--model.memory.tau", "3", "--trainer.logger", "false",
)  # fmt: skip
SMALL = (
    "--data.environments", "2", "--data.batch_size", "2", "--data.prefill", "22", "--data.updates_per_step", "0.05",
    "--data.steps_per_epoch", "60", "--trainer.log_every_n_steps", "1",
    "--evaluation.episodes", "2", "--evaluation.final_episodes", "2", "--evaluation.parallel", "2",
)  # fmt: skip


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    agents = whole_and_resumed(["fit", "--config", "a2c/catch", *REMEMBERING, *SMALL], tmp_path)
    assert agents[0].updates == agents[1].updates > 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TwoTimescale", "Memoryless"])
def test_it_learns_what_none_without_a_memory_can(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = REMEMBERING if kind == "TwoTimescale" else REMEMBERING[:4] + REMEMBERING[-2:]
    reverie.main(["fit", "--config", "a2c/catch", *told])
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    cue = EnvironmentSpec("reverie/DelayedCue-v0", {"cues": 2, "delay": 4, "bits": 1})
    mean = evaluate_policy(Agent.from_checkpoint(checkpoint), cue, 100, 0, parallel=100).returns.mean()
    assert mean > 0.9 if kind == "TwoTimescale" else abs(mean) < 0.5


# ----------------------------------------------------------------------------------------------------------- bad input
def test_windows_that_the_memory_cannot_take_are_refused_with_the_way_out() -> None:
    agent = make(MEMORIES["external"])
    message = r"up to 14 rows, and the agent's memory holds 12: set the rows of model.memory to 14 or more, or shorten"
    with pytest.raises(ValueError, match=message):
        agent.meet(ReplayOffer(7, fresh=True))
    agent.meet(ReplayOffer(6, fresh=True))
    agent.meet(ReplayOffer(12))
    make().meet(ReplayOffer(1000, fresh=True))
    with pytest.raises(
        ValueError, match=r"width of 1, and the agent stores \d+: windows of an agent with another memory"
    ):
        agent.update(windows(agent))
