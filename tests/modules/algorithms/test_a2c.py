"""A2C: losses against loops, stored probabilities, PopArt in its updates and in Dreamer's, ranks, bad input."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from a2c_agents import SETTINGS, TASKS, make, windows
from dreamer_agents import PUSH, TURN, learned, make_agent, make_sequence, parameters
from runs_in_parts import whole_and_resumed
from torch import Tensor

import reverie
from callbacks.evaluation.rollout import evaluate_policy
from callbacks.popart import PopArt
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.collector import Collector
from datamodules.played.policies import AgentPolicy
from datamodules.played.setting import make_environments
from modules.agent.agent import Agent
from modules.networks.actors import TanhNormalActor
from modules.networks.value_codecs import TwoHot
from modules.networks.value_heads import Head, PopArtHead
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.rssm import State


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_learns_rewards_that_it_has_seen(name: str) -> None:
    agent = make(lr=1e-2, discount=0.0, **SETTINGS[name])
    batch = windows(agent)
    losses = []
    for _ in range(60):
        metrics = agent.update(batch).metrics
        assert all(value.isfinite() for value in metrics.values()), metrics
        losses.append(metrics["critic_loss"])
    assert losses[-1] < 0.7 * losses[0]


# ------------------------------------------------------------------------------------------------- losses against loops
@pytest.mark.parametrize("kind", ["vtrace", "gae"])
def test_losses_equal_the_papers_written_as_loops(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gamma, lam, eta, share = 0.9, 0.8, 0.1, 0.25
    agent = make(discount=gamma, lambda_=lam, entropy=eta, critic_scale=share, advantage=kind)
    batch = windows(agent)
    kept: list[Tensor] = []
    monkeypatch.setattr(
        "modules.algorithms.a2c.descend_clipped", lambda _, loss, *settings: kept.append(loss) or torch.zeros(())
    )
    agent.update(batch)

    rows, steps = batch.shape
    expected = torch.zeros(())
    for b in range(rows):
        features = [agent.torso(agent.perception({"observation": batch["observation"][b : b + 1, t : t + 1]}))[0, 0]
                    for t in range(steps)]  # fmt: skip
        value = [agent.critic.mean(agent.critic(f)).item() for f in features]
        first, terminated = batch["is_first"][b], batch["terminated"][b]
        policy = [torch.distributions.Categorical(logits=agent.actor(f)) for f in features]
        target, following = list(value), value[-1]
        rho = [0.0] * steps
        for t in reversed(range(steps - 1)):
            if first[t + 1]:
                target[t] = value[t]  # nothing is known of what would have followed
                continue
            action = batch["previous_action"][b, t + 1]
            rho[t] = min(1.0, (policy[t].log_prob(action) - batch["stored"][b, t + 1, 0]).exp().item())
            after = 0.0 if terminated[t + 1] else gamma
            delta = rho[t] * (batch["reward"][b, t + 1].item() + after * value[t + 1] - value[t])
            target[t] = value[t] + delta + after * lam * rho[t] * (target[t + 1] - value[t + 1])
        for t in range(steps - 1):
            if first[t + 1]:
                continue
            after = 0.0 if terminated[t + 1] else gamma
            following = target[t + 1]  # the last one is the bootstrap
            advantage = rho[t] * (batch["reward"][b, t + 1].item() + after * following - value[t])
            if kind == "gae":
                advantage = target[t] - value[t]
            loss = -policy[t].log_prob(batch["previous_action"][b, t + 1]) * advantage
            loss = loss + share * 0.5 * (agent.critic(features[t]) - target[t]).square() - eta * policy[t].entropy()
            expected = expected + loss / (rows * (steps - 1))
    torch.testing.assert_close(kept[0], expected)
    parameters = list(agent.parameters())
    grads = [torch.autograd.grad(loss, parameters) for loss in (kept[0], expected)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_each_task_learns_its_own_output_alone() -> None:
    agent = make(**TASKS)
    batch = windows(agent)
    batch["observation", "task"] = torch.tensor([0.0, 1.0]).expand(4, 7, 2).clone()
    before = agent.critic.output.weight.clone()
    agent.update(batch)
    assert torch.equal(agent.critic.output.weight[0], before[0])
    assert not torch.equal(agent.critic.output.weight[1], before[1])


# ------------------------------------------------------------------------------------- probabilities that are stored
@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        ("Pendulum-v1", {"continuous": TanhNormalActor}),
        ("reverie/TwoCatch-v0", TASKS),
    ],
    ids=["discrete", "continuous", "tanh", "tasks"],
)
def test_the_record_of_a_row_is_the_probability_of_the_action_that_led_to_it(environment: str, settings: Any) -> None:
    spec = EnvironmentSpec(environment, {}, ())
    env = spec.make()
    agent = make(**{**settings, "observation": env.observation_space, "action": env.action_space})
    made = make_environments(spec, 3, vectorization="sync", seed=0, protection=Protection(0))
    collector = Collector(made, environment, 0)
    rows = collector.collect(40, AgentPolicy(agent, 3))  # [T, N]
    batch = rows.transpose(0, 1)
    metrics = agent.update(batch).metrics
    assert rows["is_first"][1:].any() or environment == "Pendulum-v1"
    assert metrics["rho"].item() == pytest.approx(1.0, abs=1e-5)
    assert not rows["stored"][rows["is_first"]].any()
    collector.close()


def test_acting_is_reproducible_and_greedy_without_exploration() -> None:
    agent = make()
    seen = torch.randn(50, 3)
    (first, _), (second, probability) = (agent.act(seen, explore=False) for _ in range(2))
    assert torch.equal(first, second)
    policy = agent.actor(agent.torso(agent.perception({"observation": seen.unsqueeze(0)}))[0])
    torch.testing.assert_close(probability, policy.max(-1).values)
    drawn = torch.stack([agent.act(seen, explore=True)[0] for _ in range(20)])
    assert drawn.float().std(0).max() > 0


# -------------------------------------------------------------------------------------------------- values at any scale
SCALE = 2.0**14
"""A power of two, so that nothing but the scale differs, down to the last bit of a product."""


@pytest.mark.parametrize(("adam", "residual"), [("kept", 0.5), ("kept", 0.0), ("scaled", 0.0), ("reset", 0.0)])
def test_with_popart_the_size_of_rewards_does_not_matter(adam: Any, residual: float) -> None:
    """Two agents whose values start at zero, and whose rewards differ by a factor, become the same policy."""
    agents = []
    for size in (1.0, SCALE):
        agent = make(popart=PopArt(0.1, adam), lr=1e-2, residual_weight=residual, **TASKS)
        torch.nn.init.zeros_(agent.critic.output.weight)
        for seed in range(10):
            agent.update(windows(agent, seed=seed, size=size))
        agents.append(agent)
    small, large = agents
    torch.testing.assert_close(SCALE * small.critic.codec.sigma, large.critic.codec.sigma, rtol=1e-4, atol=0.0)
    fresh = make(**TASKS)
    for name, value in small.actor.named_parameters():
        torch.testing.assert_close(large.actor.get_parameter(name), value, rtol=1e-3, atol=1e-4)
        assert not torch.equal(value, fresh.actor.get_parameter(name))


@pytest.mark.parametrize(
    ("gradient", "residual"), [("reinforce", 0.0), ("reinforce", 0.5), ("dynamics", 0.0), ("both", 0.0)]
)
def test_in_imagination_as_well(gradient: Any, residual: float) -> None:
    """Dreamer's actor and critic on a model whose rewards differ by a factor."""
    agents = []
    for size in (1.0, SCALE):
        parts = {"critic": PopArtHead, "actor_gradient": gradient, "residual_weight": residual}
        agent = make_agent(action=PUSH, behaviour=parts)
        learner = agent.behaviour
        popart = PopArt(0.1, "scaled")
        popart.optimizers = [learner.critic_optimizer]
        agent.attach(popart)
        for critic in (learner.critic, learner.slow_critic):
            torch.nn.init.zeros_(critic.output.weight)
        batch = make_sequence(agent)
        with torch.no_grad():
            noise = agent.draw_noise(*batch.reward.shape)
            action = learner.actor.encode(batch.previous_action)
            state = agent.world_model.observe(batch.observation, action, batch.is_first, noise.posterior).state
        start = State(*(x.flatten(0, 1) for x in state))
        ahead = 0.9 * (~batch.terminated).flatten().float()
        for update in range(8):
            torch.manual_seed(update)
            noise = agent.draw_noise(*batch.reward.shape)
            metrics = learner.learn(
                agent.world_model.rssm, start, ahead, lambda f, a, size=size: size * f.sum(-1),
                lambda f: torch.full(f.shape[:-1], 0.9), noise.task, agent.announce,
            )  # fmt: skip
            learner.advance(update)
        assert metrics["popart/sigma"] > 0.05 * size
        agents.append(learner)
    small, large = agents
    for name, value in small.actor.named_parameters():
        torch.testing.assert_close(large.actor.get_parameter(name), value, rtol=1e-3, atol=1e-5)
    fresh = make_agent(action=PUSH, behaviour={"critic": PopArtHead, "actor_gradient": gradient}).behaviour
    assert learned(large.actor, parameters(fresh.actor))
    for mine, slow in zip(large.critic.codec.buffers(), large.slow_critic.codec.buffers(), strict=True):
        assert torch.equal(mine, slow)


@pytest.mark.long
@pytest.mark.compile
def test_dreamer_learns_with_popart_in_one_graph() -> None:
    plain, traced = (make_agent(action=PUSH, behaviour={"critic": PopArtHead, "horizon": 2}) for _ in range(2))
    for agent in (plain, traced):
        agent.attach(PopArt(0.1))
    batch = make_sequence(plain, steps=5)
    step = torch.compile(traced.learn, fullgraph=True, backend="eager")
    for _ in range(3):
        noise = plain.draw_noise(*batch.reward.shape)
        expected, found = plain.update(batch, noise).metrics, step(batch, noise).metrics
        plain.advance()
        traced.advance()
        assert expected["popart/mu"] != 0
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4, msg=key)


def test_returns_are_not_scaled_twice() -> None:
    with pytest.raises(ValueError, match="return_scale: percentiles scales returns that a Normalized critic scales"):
        ActorCritic(TURN, 2, units=4, critic=PopArtHead, return_scale="percentiles")


# ---------------------------------------------------------------------------------------------------- compiled, ranks
@pytest.mark.compile
@pytest.mark.parametrize("name", ["continuous", "tasks", "residual"])  # that of discrete actions is the next test's
def test_the_update_is_one_graph(name: str) -> None:
    plain, traced = (make(popart=PopArt(0.1) if name == "tasks" else None, **SETTINGS[name]) for _ in range(2))
    traced.learn = torch.compile(traced.learn, fullgraph=True, backend="eager")  # type: ignore[method-assign]
    for seed in range(3):
        batch = windows(plain, seed=seed)
        expected, found = plain.update(batch).metrics, traced.update(batch).metrics
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.long
@pytest.mark.compile
def test_a_compiled_update_takes_windows_of_any_number_of_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend=lambda graph, _: graphs.append(graph) or graph)
    )
    plain, compiled = make(), make(compile="update")
    # Torch's own way of setting them: what pytest sets there, it takes away afterwards.
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2):
        for steps in range(5, 8):
            batch = windows(plain, steps=steps)
            expected, found = plain.update(batch).metrics, compiled.update(batch).metrics
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4, msg=key)
    assert len(graphs) == 3


# --------------------------------------------------------------------------------------------------------------- runs
SMALL = (
    "--data.environments", "2", "--data.batch_size", "2", "--data.prefill", "22", "--data.updates_per_step", "0.05",
    "--data.steps_per_epoch", "100", "--trainer.logger", "false", "--trainer.log_every_n_steps", "1",
    "--evaluation.episodes", "2", "--evaluation.final_episodes", "2", "--evaluation.parallel", "2",
)  # fmt: skip


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", "a2c/two_catch", *SMALL]
    agents = whole_and_resumed(fit, tmp_path)
    assert [agent.updates for agent in agents] == [15, 15]
    assert agents[0].critic.codec.sigma[1] > 10.0  # type: ignore[union-attr]
    (whole,) = (tmp_path / "whole").iterdir()
    assert (whole / "popart.png").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("task", "goal"), [("cartpole", 450.0), ("catch", 0.9)])
def test_presets_learn(task: str, goal: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", "--config", f"a2c/{task}", "--trainer.logger", "false"])
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    agent = Agent.from_checkpoint(checkpoint)
    environment = {"cartpole": "CartPole-v1", "catch": "reverie/Catch-v0"}[task]
    assert evaluate_policy(agent, environment, 100, 0, parallel=100).returns.mean() >= goal


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_popart_lets_the_small_game_be_learned_beside_the_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {}
    for name, callbacks in (("with", ()), ("without", ("--trainer.callbacks", "[]"))):
        reverie.main(["fit", "--config", "a2c/two_catch", "--trainer.logger", "false", "--run_dir", name, *callbacks])
        (checkpoint,) = (tmp_path / name).glob("**/last.ckpt")
        agent = Agent.from_checkpoint(checkpoint)
        for game, size in enumerate((1.0, 1e4)):
            spec = EnvironmentSpec("reverie/TwoCatch-v0", {"game": game})
            scores[name, game] = evaluate_policy(agent, spec, 100, 0, parallel=100).returns.mean() / size
    assert scores["with", 0] >= 0.9
    assert scores["with", 1] >= 0.9
    assert scores["without", 0] < 0.0


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 1.5}, r"discount must lie in \[0, 1\], got 1.5"),
        ({"lambda_": -0.1}, "lambda_ must lie in"),
        ({"residual_weight": -0.1}, r"residual_weight must lie in \[0, 1\]"),
        ({"residual_weight": 0.5, "critic": partial(Head, codec=TwoHot)}, "codec Scalar or Normalized, not TwoHot"),
        ({"units": 0}, "units must lie in"),
        ({"action": gym.spaces.Tuple([TURN])}, "actions must be"),
        ({"observation": gym.spaces.Discrete(4)}, "neither a vector nor an image"),
        ({**TASKS, "task_key": None}, "an output for each of 2 tasks: name the task_key"),
        ({**TASKS, "task_key": "game"}, "task_key 'game' must be an observation .* the observations are image, task"),
        ({**TASKS, "critic": partial(PopArtHead, tasks=3)}, "one number for each of the value head's 3 tasks, got Box"),
        ({**TASKS, "critic": Head}, "task_key would be ignored: the codec Scalar has no outputs for tasks"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


def test_data_without_stored_probabilities_are_refused() -> None:
    agent = make()
    with pytest.raises(ValueError, match="StoredWindows of OnlineDataModule, for A2C learns from what it did itself"):
        agent.update(windows(agent).exclude("stored"))
