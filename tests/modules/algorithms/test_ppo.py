"""PPO: updates against loops, stored probabilities, minibatches, PopArt, ranks, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from a2c_agents import TASKS, windows
from ppo_agents import SETTINGS, make
from ranks import run_on_ranks
from runs_in_parts import whole_and_resumed
from tensordict import TensorDict
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
from modules.algorithms.ppo import PPO
from modules.networks.actors import TanhNormalActor


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_learns_rewards_that_it_has_seen(name: str) -> None:
    agent = make(lr=1e-2, discount=0.0, popart=PopArt(0.5) if name == "tasks" else None, **SETTINGS[name])
    batch = windows(agent)
    losses = []
    for _ in range(30):
        metrics = agent.update(batch).metrics
        assert all(value.isfinite() for value in metrics.values()), metrics
        losses.append(metrics["critic_loss"])
    assert losses[-1] < 0.7 * losses[0]


# --------------------------------------------------------------------------------------------------- updates as loops
def plain_step(agent: PPO, batch: TensorDict, places: list[tuple[int, int]], value: Tensor, target: Tensor) -> Any:
    """Loss and metrics of one minibatch, whose steps are given by time and window; values and targets of before."""
    advantage = torch.stack([target[t, b] - value[t, b] for t, b in places])
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    policy_loss = critic_loss = entropy = kl = torch.zeros(())
    clipped = 0
    for (t, b), a in zip(places, advantage, strict=True):
        seen = {"observation": batch["observation"][b, t].view(1, 1, -1)}
        features = agent.torso(agent.perception(seen))[0, 0]
        policy = torch.distributions.Categorical(logits=agent.actor(features))
        own = features if not agent.separate else agent.value_torso(agent.value_perception(seen))[0, 0]
        change = policy.log_prob(batch["previous_action"][b, t + 1]) - batch["stored"][b, t + 1, 0]
        ratio = change.exp()
        policy_loss = policy_loss - torch.minimum(ratio * a, ratio.clamp(1 - agent.clip, 1 + agent.clip) * a)
        error = 0.5 * (agent.critic(own) - target[t, b]).square()
        if agent.value_clip is not None:
            move = (agent.critic(own) - value[t, b]).clamp(-agent.value_clip, agent.value_clip)
            error = torch.maximum(error, 0.5 * (value[t, b] + move - target[t, b]).square())
        critic_loss = critic_loss + error
        entropy = entropy + policy.entropy()
        kl = kl + (ratio - 1 - change)
        clipped += bool((ratio - 1).abs() > agent.clip)
    numbers = {"policy_loss": policy_loss, "critic_loss": critic_loss, "entropy": entropy, "approximate_kl": kl}
    means = {name: x / len(places) for name, x in numbers.items()} | {
        "clip_fraction": torch.tensor(clipped / len(places))
    }
    scales = agent.scales
    loss = means["policy_loss"] + scales["critic"] * means["critic_loss"] - scales["entropy"] * means["entropy"]
    return loss, {name: float(x.detach()) for name, x in means.items()}


@pytest.mark.parametrize("name", ["discrete", "separate", "value clip"])
def test_an_update_is_the_papers_written_as_loops(name: str) -> None:
    gamma, lam = 0.9, 0.8
    settings = {**SETTINGS[name], "discount": gamma, "lambda_": lam, "entropy": 0.1, "critic_scale": 0.25, "lr": 0.01}
    agent, twin = make(**settings), make(**settings)
    batch = windows(agent)
    rows, length = batch.shape
    first, terminated = batch["is_first"], batch["terminated"]
    # Advantages, once for all passes: what would have followed the last row of an episode is not known.
    with torch.no_grad():
        value = torch.stack([
            twin.critic(twin.value_features({"observation": batch["observation"][:, t].unsqueeze(0)}))[0]
            for t in range(length)
        ])  # fmt: skip
    target = value.clone()
    for b in range(rows):
        advantage = 0.0
        for t in reversed(range(length - 1)):
            after = 0.0 if terminated[b, t + 1] else gamma
            delta = batch["reward"][b, t + 1] + after * value[t + 1, b] - value[t, b]
            advantage = 0.0 if first[b, t + 1] else delta + after * lam * advantage
            target[t, b] = value[t, b] + advantage
    places = [(t, b) for t in range(length - 1) for b in range(rows) if not first[b, t + 1]]
    assert len(places) == 22  # of which 2 minibatches have 11 each
    order = agent.noise_for(agent.read(batch))
    found = agent.update(batch, order).metrics

    told: list[dict[str, float]] = []
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01, eps=1e-5)
    for drawn in order.tolist():
        for part in (drawn[:11], drawn[11:]):
            loss, means = plain_step(twin, batch, [places[i] for i in part], value, target)
            optimizer.zero_grad()
            loss.backward()
            means["norm"] = float(torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5))
            optimizer.step()
            told.append(means)
    for key, weight in twin.named_parameters():
        torch.testing.assert_close(agent.get_parameter(key), weight, rtol=1e-4, atol=1e-5)
    for key in told[0]:
        assert found[key].item() == pytest.approx(sum(means[key] for means in told) / 6, rel=1e-4, abs=1e-6), key
    valued, aims = (torch.stack([x[t, b] for t, b in places]) for x in (value, target))
    assert found["target"].item() == pytest.approx(aims.mean().item(), rel=1e-4)
    explained = 1 - (aims - valued).var() / aims.var()
    assert found["explained_variance"].item() == pytest.approx(explained.item(), rel=1e-3)
    assert found["steps"] == 6


def test_every_pass_deals_every_step_to_one_minibatch_of_a_like_size(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(passes=2, minibatches=4)
    batch = windows(agent)
    dealt: list[Tensor] = []
    monkeypatch.setattr(
        agent, "step", lambda part, share: dealt.append(part.observation["observation"]) or {"norm": share}
    )
    orders = [agent.noise_for(agent.read(batch)) for _ in range(2)]
    assert not torch.equal(*orders)
    assert all(sorted(drawn) == list(range(22)) for order in orders for drawn in order.tolist())
    assert agent.update(batch, orders[0]).metrics["norm"] == 1.0
    assert [len(part) for part in dealt] == [6, 6, 5, 5] * 2
    assert len(torch.cat(dealt[:4]).unique(dim=0)) == 22


def test_the_steps_on_a_batch_end_where_the_policy_has_moved_too_far() -> None:
    far, free = make(lr=0.05, target_kl=0.01), make(lr=0.05)
    batch = fresh(far, windows(far))
    order = far.noise_for(far.read(batch))
    assert free.update(batch, order).metrics["steps"] == 6
    assert 1 <= far.update(batch, order).metrics["steps"] < 6
    near = make(lr=0.0, target_kl=1e-6)
    assert near.update(batch, order).metrics["steps"] == 6


def fresh(agent: PPO, batch: TensorDict) -> TensorDict:
    """The windows, with the agent's own log-probabilities of what was done."""
    rows = agent.read(batch).sequence
    with torch.no_grad():
        log_prob = agent.actor.log_prob(agent.actor(agent.features(rows.observation)[:-1]), agent.steps_of(rows).taken)
    batch["stored"][:, 1:, 0] = log_prob.transpose(0, 1)
    return batch


def test_the_learning_rate_follows_its_schedule(tmp_path: Path) -> None:
    agent = make(lr="linear(0.01, 0, 4)")
    batch, before = windows(agent), agent.actor.output.weight.clone()
    agent.updates = 4
    agent.update(batch)
    assert torch.equal(agent.actor.output.weight, before)
    agent.updates = 1
    agent.update(batch)
    assert agent.optimizer.param_groups[0]["lr"] == pytest.approx(0.0075)


# ------------------------------------------------------------------------------------------------- stored probabilities
@pytest.mark.parametrize(
    ("environment", "settings"),
    [("CartPole-v1", {}), ("Pendulum-v1", {}), ("Pendulum-v1", {"continuous": TanhNormalActor})],
    ids=["discrete", "normal", "tanh"],
)
def test_the_first_step_on_fresh_data_has_ratios_of_one(environment: str, settings: Any) -> None:
    spec = EnvironmentSpec(environment, {}, ())
    env = spec.make()
    agent = make(passes=1, minibatches=1, **settings, observation=env.observation_space, action=env.action_space)
    made = make_environments(spec, 3, vectorization="sync", seed=0, protection=Protection(0))
    collector = Collector(made, environment, 0)
    batch = collector.collect(40, AgentPolicy(agent, 3)).transpose(0, 1)
    metrics = agent.update(batch).metrics
    assert metrics["approximate_kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert metrics["clip_fraction"] == 0.0
    assert metrics["policy_loss"].item() == pytest.approx(0.0, abs=1e-5)  # advantages have a mean of 0
    collector.close()


# -------------------------------------------------------------------------------------------------- values at any scale
@pytest.mark.parametrize("clip", [None, 0.5])
def test_with_popart_the_size_of_rewards_does_not_matter(clip: float | None) -> None:
    """Two agents whose values start at zero, and whose rewards differ by a factor, become the same policy."""
    agents = []
    for size in (1.0, 2.0**14):
        agent = make(popart=PopArt(0.1), lr=1e-2, **TASKS, value_clip=clip)
        torch.nn.init.zeros_(agent.critic.output.weight)
        for seed in range(3):
            batch = windows(agent, seed=seed, size=size)
            torch.manual_seed(seed)
            metrics = agent.update(batch).metrics
        agents.append(agent)
    assert metrics["popart/sigma/0"] > 1e3
    small, large = agents
    for name, value in small.actor.named_parameters():
        torch.testing.assert_close(large.actor.get_parameter(name), value, rtol=1e-3, atol=1e-4)
        assert not torch.equal(value, make(**TASKS).actor.get_parameter(name))


def test_targets_are_announced_once_for_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(**TASKS)
    agent.critic.codec.sigma[:] = torch.tensor([2.0, 5.0])
    heard: list[Any] = []
    monkeypatch.setattr(agent, "announce", lambda *arguments: heard.append(arguments) or {"told": torch.tensor(7.0)})
    batch = windows(agent)
    assert agent.update(batch).metrics["told"] == 7.0
    ((event, heads, targets, mask, tasks),) = heard
    assert (event, heads) == ("on_targets", (agent.critic,))
    assert targets.shape == mask.shape == tasks.shape == (6, 4)
    assert torch.equal(tasks, batch["observation", "task"].argmax(-1).transpose(0, 1)[:-1])


# ----------------------------------------------------------------------------------------------------- compiled, ranks
@pytest.mark.long
@pytest.mark.compile
@pytest.mark.parametrize(("name", "most"), [("discrete", 2), ("tasks", 3)])
def test_a_step_is_one_graph_for_minibatches_of_any_size(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []
    compile_graph = torch.compile
    monkeypatch.setattr(
        torch, "compile",
        lambda f, **options: compile_graph(f, backend=lambda graph, _: graphs.append(graph) or graph, **options),
    )  # fmt: skip
    plain, compiled = (make(**SETTINGS[name], compile=form) for form in ("off", "step"))
    for steps in (6, 8, 9):
        batch = windows(plain, steps=steps)
        order = plain.noise_for(plain.read(batch))
        expected, found = (agent.update(batch, order).metrics for agent in (plain, compiled))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=key)
    assert 1 <= len(graphs) <= most


RANK_SETTINGS: dict[str, Any] = {"lr": 0.01, "separate": True, "target_kl": 0.5}


def of_rank(batch: TensorDict, rank: int) -> TensorDict:
    """Two windows of four; the second rank has the ends, and so fewer steps."""
    return batch[[0, 3]] if rank else batch[[1, 2]]


def learned_on(rank: int) -> dict[str, Tensor]:
    agent = make(**RANK_SETTINGS)
    batch = of_rank(windows(agent), rank)
    torch.manual_seed(rank)
    order = agent.noise_for(agent.read(batch))
    metrics = agent.update(batch, order).metrics
    return agent.state_dict() | {"order": order, "steps": metrics["steps"]}


@pytest.mark.long
def test_two_ranks_with_different_numbers_of_steps_are_one_process(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, learned_on)
    agent = make(**RANK_SETTINGS)
    whole = windows(agent)
    # The steps of both ranks, as one process counts them: row by row, the first rank's windows left of the other's.
    batch = torch.cat([of_rank(whole, 0), of_rank(whole, 1)])
    valid = ~batch["is_first"][:, 1:].T
    number = torch.full(valid.shape, -1)
    number[valid] = torch.arange(int(valid.sum()))
    mine = [number[:, columns][valid[:, columns]] for columns in (slice(0, 2), slice(2, 4))]
    assert [len(x) for x in mine] == [10, 12]
    orders = [rows[found["order"]] for rows, found in zip(mine, (first, second), strict=True)]
    joined = []
    for one, other in zip(*orders, strict=True):
        halves = zip(one.tensor_split(2), other.tensor_split(2), strict=True)
        joined.append(torch.cat([torch.cat(half) for half in halves]))
    metrics = agent.update(batch, torch.stack(joined)).metrics
    assert metrics["steps"] == first["steps"] == second["steps"]
    for name, value in agent.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(first["actor.output.weight"], make(**RANK_SETTINGS).actor.output.weight)


# --------------------------------------------------------------------------------------------------------------- runs
SMALL = (
    "--data.environments", "2", "--data.batch_size", "2", "--data.sequence_length", "17", "--data.prefill", "34",
    "--data.updates_per_step", "0.03125", "--data.steps_per_epoch", "96", "--trainer.logger", "false",
    "--trainer.log_every_n_steps", "1", "--evaluation.episodes", "2", "--evaluation.final_episodes", "2",
    "--evaluation.parallel", "2", "--model.minibatches", "2", "--model.passes", "2",
)  # fmt: skip


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", "ppo/pendulum", *SMALL, "--model.lr", "linear(0.01, 0, 12)"]
    agents = whole_and_resumed(fit, tmp_path)
    assert [agent.updates for agent in agents] == [9, 9]


def test_the_advice_about_the_pace_of_a_run_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", "ppo/cartpole", *SMALL, "--trainer.max_epochs", "1"]
    with pytest.raises(SystemExit):
        reverie.main([*fit, "--data.updates_per_step", "0.02"])
    reverie.main([*fit, "--data.updates_per_step", "0.03125"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("task", "environment", "goal"),
                         [("cartpole", "CartPole-v1", 490.0), ("pendulum", "Pendulum-v1", -200.0)])  # fmt: skip
def test_presets_learn(
    task: str, environment: str, goal: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", "--config", f"ppo/{task}", "--trainer.logger", "false"])
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    agent = Agent.from_checkpoint(checkpoint)
    assert evaluate_policy(agent, environment, 100, 0, parallel=100).returns.mean() >= goal
