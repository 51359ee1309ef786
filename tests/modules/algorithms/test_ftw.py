"""For The Win: losses against loops, tasks beside the game, rewards of events, resume, ranks, bad input."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from equal_ranks import check_equal_ranks
from ftw_agents import PICTURES, make
from merlin_agents import CUE, PENDULUM, ROWS, STREAMS, played
from resumed_agents import equal, go_on, resume, saved
from runs_in_parts import whole_and_resumed
from torch import Tensor

import reverie
from callbacks.evaluation.rollout import evaluate_policy
from callbacks.popart import PopArt
from datamodules.envs.make import EnvironmentSpec
from modules.agent.agent import Agent
from modules.agent.event_rewards import EventRewards
from modules.algorithms.ftw import FTW
from modules.networks.memory import MemoryLSTM
from modules.networks.recurrent import LSTM
from modules.networks.value_heads import PopArtHead

KEY_DOOR = EnvironmentSpec("reverie/KeyDoor-v0")
SETTINGS: dict[str, dict[str, Any]] = {
    "pictures": {},
    "numbered": {"environment": CUE},
    "continuous": {"environment": PENDULUM},
    "no tasks": {"pixel_control": 0.0, "reward_prediction": 0.0},
    "LSTM": {"memory": partial(LSTM, width=6)},
    "external": {"memory": partial(MemoryLSTM, width=4, rows=12, moment=3)},
    "popart": {"critic": PopArtHead},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_learns_from_what_it_plays(name: str) -> None:
    agent = make(**SETTINGS[name])
    if name == "popart":
        agent.attach(PopArt(0.1))
    before = [p.detach().clone() for p in agent.parameters()]
    stream = played(agent, SETTINGS[name].get("environment", PICTURES))
    for _ in range(3):
        metrics = agent.update(next(stream)[0]).metrics
        assert all(value.isfinite() for value in metrics.values()), metrics
        assert metrics["rho"].item() == pytest.approx(1.0, abs=1e-4)
    for old, new in zip(before, agent.parameters(), strict=True):
        assert not torch.equal(old, new)
    assert ("pixel_control_loss" in metrics) == (agent.control is not None)
    assert ("reward_prediction_loss" in metrics) == (agent.foresight is not None)


# ------------------------------------------------------------------------------------------------- losses against loops
def game_loss(agent: FTW, rows: Any, stored: Tensor, features: Tensor) -> Tensor:
    """Of policy, value and entropy, transition by transition, from the last one back."""
    total = torch.zeros(())
    value = agent.critic.mean(agent.critic(features)).detach()
    for b in range(STREAMS):
        target = value[-1, b]
        for t in reversed(range(ROWS - 1)):
            if rows.is_first[t + 1, b]:
                target = value[t, b]
                continue
            policy = torch.distributions.Categorical(logits=agent.actor(features[t, b]))
            action = rows.previous_action[t + 1, b]
            rho = (policy.log_prob(action) - stored[t + 1, b, 0]).exp().clamp_max(1.0).detach()
            ahead = 0.0 if rows.terminated[t + 1, b] else agent.discount
            advantage = rho * (rows.reward[t + 1, b] + ahead * target - value[t, b])
            after = 0.0 if ahead == 0.0 else ahead * rho * (target - value[t + 1, b])
            target = value[t, b] + rho * (rows.reward[t + 1, b] + ahead * value[t + 1, b] - value[t, b]) + after
            total = total - policy.log_prob(action) * advantage - agent.scales["entropy"] * policy.entropy()
            total = total + agent.scales["critic"] * 0.5 * (agent.critic(features[t, b]) - target).square()
    return total / ((ROWS - 1) * STREAMS)


def foresight_loss(agent: FTW, rows: Any, seen: Tensor) -> Tensor:
    """Cross-entropy of the class of the next reward, whose steps are half of the weight, from three rows."""
    assert agent.foresight is not None
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for b in range(STREAMS):
        for t in range(ROWS - 1):
            if rows.is_first[t + 1, b]:
                continue
            parts, episode = [], True
            for back in range(3):
                episode = episode and t - back >= 0
                parts.append(seen[t - back, b] if episode else torch.zeros_like(seen[0, 0]))
                episode = episode and not rows.is_first[t - back, b]
            reward = rows.reward[t + 1, b].item()
            answer = 0 if reward == 0 else 1 if reward > 0 else 2
            found[reward != 0].append(-agent.foresight(torch.cat(parts)).log_softmax(-1)[answer])
    return sum((0.5 * torch.stack(losses).mean() for losses in found.values() if losses), torch.zeros(()))


def control_loss(agent: FTW, rows: Any, features: Tensor) -> Tensor:
    """Half squared errors of the values of the actions taken, cell by cell."""
    assert agent.control is not None
    total, values = torch.zeros(()), agent.control(features)
    best = values.max(-2).values.detach()
    images = rows.observation["observation"].double().squeeze(-1)
    for b in range(STREAMS):
        target = best[-1, b]
        for t in reversed(range(ROWS - 1)):
            if rows.is_first[t + 1, b]:
                target = best[t, b]
                continue
            change = (images[t + 1, b] - images[t, b]).abs() / 255.0
            cells = [change[i : i + 2, j : j + 2].mean() for i in range(0, change.shape[0], 2)
                     for j in range(0, change.shape[1], 2)]  # fmt: skip
            ahead = 0.0 if rows.terminated[t + 1, b] else agent.pixel_discount
            target = torch.stack(cells).float() + ahead * target
            error = values[t, b, int(rows.previous_action[t + 1, b])] - target
            total = total + 0.5 * error.square().sum()
    return total / ((ROWS - 1) * STREAMS)


def test_losses_equal_the_papers_written_as_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(discount=0.9, entropy=0.1, critic_scale=0.25, reward_prediction=0.7, pixel_control=0.3)
    stream = played(agent, PICTURES)
    agent.update(next(stream)[0])
    batch = agent.read(next(played(agent, PICTURES))[0])
    noise = agent.noise_for(batch)
    kept: list[Tensor] = []
    monkeypatch.setattr(
        "modules.algorithms.ftw.descend_clipped", lambda _, loss, *settings: kept.append(loss) or torch.zeros(())
    )
    metrics = agent.update(batch, noise).metrics

    rows, stored = batch
    assert rows.reward.any()
    seen = agent.perception(rows.observation)
    features = agent.features_of(seen, batch, noise)
    expected = game_loss(agent, rows, stored, features)
    expected = expected + 0.7 * foresight_loss(agent, rows, seen) + 0.3 * control_loss(agent, rows, features)
    divergence = sum(agent.memory.scales[name] * metrics[f"memory/{name}"] for name in ("kl", "slow_kl"))
    torch.testing.assert_close(kept[0], expected + divergence, rtol=1e-4, atol=1e-5)
    parameters = [*agent.actor.parameters(), *agent.critic.parameters(), *agent.foresight.parameters(),
                  *agent.control.parameters()]  # fmt: skip
    for mine, theirs in zip(*(torch.autograd.grad(loss, parameters) for loss in (kept[0], expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_the_step_is_that_of_torchs_own_rmsprop() -> None:
    agent, other = make(), make()
    batch = agent.read(next(played(agent, PICTURES))[0])
    noise = agent.noise_for(batch)
    theirs = torch.optim.RMSprop(other.parameters(), lr=1e-2, alpha=0.99, eps=1e-5)
    other.optimizer = theirs
    kept: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modules.algorithms.ftw.descend_clipped", lambda _, loss, *rest: kept.append(loss) or loss)
        other.update(batch, noise)
    kept[0].backward()
    torch.nn.utils.clip_grad_norm_(other.parameters(), agent.clip_norm)
    theirs.step()
    agent.update(batch, noise)
    for mine, expected in zip(agent.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_tasks_are_learned() -> None:
    agent = make(pixel_control=1.0, reward_prediction=1.0)
    batch = next(played(agent, PICTURES))[0]
    metrics = [agent.update(batch).metrics for _ in range(150)]
    assert metrics[-1]["pixel_control_loss"] < 0.5 * metrics[0]["pixel_control_loss"]
    assert metrics[-1]["reward_prediction_loss"] < 0.5 * metrics[0]["reward_prediction_loss"]
    assert metrics[-1]["reward_accuracy"].item() == pytest.approx(1.0)


def test_rewards_of_events_are_learned_from() -> None:
    found = []
    for weights in ((0.0, 0.0, 0.0), (1.0, 1.0, 5.0)):
        agent = make(KEY_DOOR, internal=EventRewards(weights))
        batch = next(played(agent, KEY_DOOR))[0]
        batch["observation", "events"][:, 3] = 1
        found.append(agent.update(batch).metrics["target"].item())
    assert found[1] > found[0] + 0.5


# -------------------------------------------------------------------------------------------------------- resume, ranks
def test_an_update_goes_on_exactly() -> None:
    agent = make()
    stream = played(agent, PICTURES)
    agent.update(next(stream)[0])
    batch, _ = next(stream)
    checkpoint = saved(agent)
    assert equal(go_on(agent, batch, 2), go_on(resume(make(), checkpoint), batch, 2))


def test_two_ranks_learn_equal_parameters(tmp_path: Path) -> None:
    check_equal_ranks(tmp_path, make, PICTURES)


SMALL = (
    "--data.environments", "2", "--data.batch_size", "2", "--data.prefill", "22", "--data.updates_per_step", "0.05",
    "--data.sequence_length", "11", "--data.steps_per_epoch", "60", "--trainer.logger", "false",
    "--trainer.log_every_n_steps", "1",
    "--evaluation.episodes", "2", "--evaluation.final_episodes", "2", "--evaluation.parallel", "2",
)  # fmt: skip


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    agents = whole_and_resumed(["fit", "--config", "ftw/catch", *SMALL], tmp_path)
    assert agents[0].updates == agents[1].updates > 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ("ftw/catch", EnvironmentSpec("reverie/Catch-v0")),
        ("ftw/delayed_cue", EnvironmentSpec("reverie/DelayedCue-v0", {"cues": 4, "delay": 10})),
    ],
)
def test_presets_learn(
    config: str, environment: EnvironmentSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", "--config", config, "--trainer.logger", "false"])
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    agent = Agent.from_checkpoint(checkpoint)
    assert evaluate_policy(agent, environment, 100, 0, parallel=100).returns.mean() >= 0.9


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"environment": CUE, "pixel_control": 0.1},
            r"needs images, and the observations are Box\(.*set model",
        ),
        ({"environment": PENDULUM, "pixel_control": 0.1}, r"needs images"),
        ({"memory.tau": 0}, "tau must be at least 1, got 0"),
        ({"cell": 0}, "cell must be at least 1, got 0"),
        ({"rms_decay": 1.5}, r"rms_decay must lie in \[0, 1\], got 1.5"),
        ({"reward_prediction": -1.0}, "reward_prediction must lie in"),
        ({"pixel_discount": 2.0}, "pixel_discount must lie in"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
