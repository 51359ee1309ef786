"""MERLIN: losses against loops, the state from window to window, gradients that stay apart, events, resume, ranks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from equal_ranks import check_equal_ranks
from merlin_agents import CUE, PENDULUM, ROWS, SETTINGS, STREAMS, make, memory, played
from resumed_agents import equal, go_on, resume, saved
from runs_in_parts import whole_and_resumed
from torch import Tensor

import reverie
from callbacks.evaluation.rollout import evaluate_policy
from callbacks.kl_balancing import KLBalancing
from callbacks.popart import PopArt
from datamodules.envs.make import EnvironmentSpec
from modules.agent.agent import Agent
from modules.contracts import ReplayOffer
from modules.functional.recurrent_state import leaves_of
from modules.networks.auxiliary_losses import collecting
from modules.networks.memory import ExternalMemory


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_learns_and_acts_as_it_learns(name: str) -> None:
    """The learner comes to the same state as the policy that acted, window after window."""
    agent = make(**SETTINGS[name])
    before = [p.detach().clone() for p in agent.parameters()]
    stream, compared = played(agent, SETTINGS[name].get("environment", CUE)), 0
    for update in range(4):
        batch, policy = next(stream)
        metrics = agent.update(batch).metrics
        assert all(value.isfinite() for value in metrics.values()), metrics
        assert metrics["rho"].item() == pytest.approx(1.0, abs=1e-4)
        assert metrics["continued"].item() == 1.0, update
        assert agent.ended is not None
        mine, theirs = leaves_of(agent.ended[0]), leaves_of(policy.recurrent.recalled)
        within = ~batch["is_first"][:, -1]  # a latent that no action follows is drawn anew, and forgotten
        compared += int(within.sum())
        for one, other in zip(mine, theirs, strict=True):
            if isinstance(one, Tensor):
                torch.testing.assert_close(one[within], other[within], rtol=1e-4, atol=1e-5)
    assert compared > STREAMS
    for old, new in zip(before, agent.parameters(), strict=True):
        assert new.requires_grad != torch.equal(old, new)


def test_a_window_whose_past_is_not_known_begins_with_an_empty_memory() -> None:
    agent = make()
    stream = played(agent)
    agent.update(next(stream)[0])
    next(stream)  # played, and not learned from
    batch, _ = next(stream)
    first = batch["is_first"][:, 0]
    metrics = agent.update(batch).metrics
    assert metrics["continued"].item() == pytest.approx(first.float().mean().item())


# ------------------------------------------------------------------------------------------------- losses against loops


def row_by_row(agent: Any, batch: Any, noise: Tensor, state: Any) -> tuple[list[Any], list[Tensor], list[Tensor]]:
    """Each row of a window seen by itself, what its value is of, and its policy."""
    rows, stored = agent.read(batch).sequence, agent.read(batch).stored
    seen, given, policy = [], [], []
    for t in range(ROWS):
        drawn = noise[t]
        if t + 1 < ROWS:
            drawn = torch.where(rows.is_first[t + 1].unsqueeze(-1), drawn, stored[t + 1, :, 1:])
        seen.append(agent.predictor.unroll(rows.between(t, t + 1), drawn.unsqueeze(0), state))
        state = seen[-1].state
        policy.append(agent.actor(seen[-1].features[0]))
        given.append(torch.cat([seen[-1].z[0], policy[-1].detach()], -1))
    return seen, given, policy


def prediction_loss(agent: Any, batch: Any, seen: list[Any], scales: dict[str, float]) -> Tensor:
    """Of what is predicted of all rows but the last, one by one."""
    rows, predictor, total = agent.read(batch).sequence, agent.predictor, torch.zeros(())
    for t in range(ROWS - 1):
        halves = [raw[0].chunk(2, -1) for raw in (seen[t].posterior, seen[t].prior)]
        normals = [torch.distributions.Normal(mean, 2.0 * torch.sigmoid(s / 2.0) + 0.1) for mean, s in halves]
        total = total + scales["kl"] * torch.distributions.kl_divergence(*normals).sum()
        means, target = predictor.decoder(seen[t].z[0])["observation"], rows.observation["observation"][t].float()
        error = torch.nn.functional.binary_cross_entropy_with_logits(means, target, reduction="sum")
        total = total + scales["observation"] * error
        for b in (~rows.is_first[t]).nonzero().flatten().tolist():
            total = total - scales["action"] * predictor.action(seen[t].z[0])[b, int(rows.previous_action[t, b])]
            gap = predictor.reward(seen[t].z[0])[b] - rows.reward[t, b]
            total = total + scales["reward"] * 0.5 * gap.square()
    return total / ((ROWS - 1) * STREAMS)


def return_loss(
    agent: Any, batch: Any, seen: list[Any], given: list[Tensor], policy: list[Tensor], scales: dict[str, float],
    lam: float, eta: float,
) -> Tensor:  # fmt: skip
    """Of policy and returns, transition by transition, from the last one back."""
    rows, total = agent.read(batch).sequence, torch.zeros(())
    value = [agent.critic.mean(agent.critic(x)).tolist() for x in given]
    for b in range(STREAMS):
        returns = target = value[-1][b]
        for t in reversed(range(ROWS - 1)):
            now, following, reward = value[t][b], value[t + 1][b], float(rows.reward[t + 1, b])
            if rows.is_first[t + 1, b]:
                returns = target = now
                continue
            ahead = 0.0 if rows.terminated[t + 1, b] else agent.discount
            returns = reward + ahead * returns
            target = reward + ahead * ((1.0 - lam) * following + lam * target)
            action, chances = int(rows.previous_action[t + 1, b]), policy[t][b]
            total = total - chances[action] * (target - now) + eta * (chances.exp() * chances).sum()
            gain = agent.gain(torch.cat([seen[t].z[0][b], torch.eye(3)[action]]))
            errors = (agent.critic(given[t])[b] - returns).square() + (returns - now - gain).square()
            total = total + scales["return"] * 0.5 * errors
    return total / ((ROWS - 1) * STREAMS)


def test_losses_equal_the_papers_written_as_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    gamma, lam, eta = 0.9, 0.8, 0.1
    scales = {"kl": 0.3, "observation": 0.7, "action": 0.5, "reward": 2.0, "return": 1.5}
    agent = make(discount=gamma, lambda_=lam, entropy=eta, **{f"{name}_scale": x for name, x in scales.items()})
    stream = played(agent)
    agent.update(next(stream)[0])
    batch, _ = next(stream)
    kept: list[Tensor] = []
    monkeypatch.setattr(
        "modules.algorithms.merlin.descend_clipped", lambda _, loss, *settings: kept.append(loss) or torch.zeros(())
    )
    assert agent.ended is not None
    state, noise = agent.ended[0], agent.noise_for(agent.read(batch))
    monkeypatch.setattr(agent, "ended", (state, agent.ended[1]))
    agent.update(batch, noise.clone())

    seen, given, policy = row_by_row(agent, batch, noise, state)
    expected = prediction_loss(agent, batch, seen, scales) + return_loss(
        agent, batch, seen, given, policy, scales, lam, eta
    )
    torch.testing.assert_close(kept[0], expected, rtol=1e-4, atol=1e-4)
    parameters = list(agent.parameters())
    for mine, theirs in zip(*(torch.autograd.grad(loss, parameters) for loss in (kept[0], expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("apart", [True, False])
def test_no_gradient_of_the_policy_reaches_the_predictor(apart: bool) -> None:
    agent = make(prediction=apart)
    batch = agent.read(next(played(agent))[0])
    noise = agent.noise_for(batch)
    with collecting(agent):
        seen = agent.predictor.unroll(batch.sequence, noise, agent.predictor.initial(STREAMS), apart=apart)
    loss = agent.actor(seen.features).square().sum()
    inside = {id(p) for p in agent.predictor.policy.parameters()}
    for name, p in agent.predictor.named_parameters():
        (gradient,) = (
            torch.autograd.grad(loss, [p], retain_graph=True, allow_unused=True) if p.requires_grad else (None,)
        )
        reached = gradient is not None and bool(gradient.any())
        learns_by_prediction = name.split(".")[0] in ("decoder", "reward", "action")
        assert reached == (id(p) in inside or (not apart and not learns_by_prediction)), name


# ---------------------------------------------------------------------------------------------------------- callbacks
def test_callbacks_mix_the_divergence_and_scale_the_values() -> None:
    agent = make(critic=SETTINGS["popart"]["critic"])
    agent.attach(KLBalancing(alpha=0.8, scale=0.5), PopArt(0.1))
    metrics = agent.update(next(played(agent))[0]).metrics
    assert metrics["kl_loss"].item() == pytest.approx(0.5 * metrics["kl"].item(), rel=1e-5)
    assert metrics["kl_balancing/dynamic"].item() == pytest.approx(metrics["kl"].item(), rel=1e-5)
    assert metrics["popart/sigma"].item() != 1.0


# -------------------------------------------------------------------------------------------------------- resume, ranks
def test_it_goes_on_exactly_with_the_memories_of_its_windows() -> None:
    agent = make()
    stream = played(agent)
    for _ in range(2):
        agent.update(next(stream)[0])
    batch, _ = next(stream)
    checkpoint = saved(agent)
    other = resume(make(), checkpoint)
    assert other.ended is not None
    assert equal(go_on(agent, batch, 2), go_on(other, batch, 2))
    empty = resume(make(), {**checkpoint, "rank": {}})
    assert not equal(go_on(resume(make(), checkpoint), batch, 1), go_on(empty, batch, 1))


@pytest.mark.long
def test_two_ranks_learn_equal_parameters(tmp_path: Path) -> None:
    check_equal_ranks(tmp_path, make)


SMALL = (
    "--data.environments", "2", "--data.batch_size", "2", "--data.prefill", "40", "--data.updates_per_step", "0.026",
    "--data.steps_per_epoch", "80", "--trainer.logger", "false", "--trainer.log_every_n_steps", "1",
    "--evaluation.episodes", "2", "--evaluation.final_episodes", "2", "--evaluation.parallel", "2",
)  # fmt: skip


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", "merlin/pairs", *SMALL]
    agents = whole_and_resumed(fit, tmp_path)
    assert agents[0].updates == agents[1].updates > 5


# ------------------------------------------------------------------------------------------------------------ learning
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("config", "extra", "environment", "goal"),
    [
        ("merlin/delayed_cue", (), EnvironmentSpec("reverie/DelayedCue-v0"), 0.9),
        ("merlin/pairs", (), EnvironmentSpec("reverie/Pairs-v0", {"cards": 4}), 0.0),
    ],
)
def test_presets_learn(
    config: str, extra: tuple[str, ...], environment: EnvironmentSpec, goal: float, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", "--config", config, "--trainer.logger", "false", *extra])
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    agent = Agent.from_checkpoint(checkpoint)
    assert evaluate_policy(agent, environment, 100, 0, parallel=100).returns.mean() >= goal


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 1.5}, r"discount must lie in \[0, 1\], got 1.5"),
        ({"kl_scale": -1.0}, r"kl_scale must lie in"),
        ({"predictor": {"heads": 0}}, "heads must be at least 1, got 0"),
        ({"predictor": {"policy_heads": 0}}, "policy_heads must be at least 1, got 0"),
        ({"predictor": {"memory": partial(ExternalMemory, rows=0)}}, r"rows must lie in \[1, .*\], got 0"),
        ({"predictor": {"layers": 0}}, "layers must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_windows_that_it_cannot_learn_from_are_refused_with_the_way_out() -> None:
    agent = make()
    with pytest.raises(ValueError, match=r"in their order.*data.replay: datamodules.replay.sequences.LatestWindows"):
        agent.meet(ReplayOffer(6))
    with pytest.raises(ValueError, match=r"in their order"):
        agent.meet(None)
    message = r"the memory has 8 rows, and 9 steps.*set its rows to 9 or more, or shorten data.sequence_length"
    with pytest.raises(ValueError, match=message):
        agent.meet(ReplayOffer(9, fresh=True))
    agent.meet(ReplayOffer(8, fresh=True))
    make(predictor={"memory": partial(memory, rows=9)}).meet(ReplayOffer(9, fresh=True))
    make(predictor={"memory": None}, environment=PENDULUM).meet(ReplayOffer(100, fresh=True))
