"""ATAC of numbered actions: an update in plain loops, phases, members, resume, ranks, and what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import NUMBERED, make_agent, make_numbered_batch, same, snapshot
from equal import assert_equal
from ranks import run_on_ranks
from runs_in_parts import train
from torch import Tensor

from datamodules.offline import OfflineDataModule
from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.entropy_floor import EntropyFloor
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces, Transition


def make(**arguments: Any) -> ATAC:
    return make_agent(NUMBERED, **arguments)


# ------------------------------------------------------------------------------------------------- one update, by hand
def expected_update(agent: ATAC, batch: Transition, pessimism: str) -> dict[str, Any]:
    """Losses and new weights of one update of a member, row by row and action by action."""
    rows, count = range(len(batch.reward)), len(batch.reward)
    actor, actions = agent.actor.network.member(0), range(3)
    critics, targets = ([x.member(c) for c in range(2)] for x in (agent.critic, agent.target_critic))
    reference = agent.reference[0] if agent.reference else None

    def policy(state: Tensor) -> Tensor:
        return torch.softmax(actor(state), -1)

    def expectation(values: list[Tensor], state: Tensor) -> Tensor:
        p = policy(state).detach()
        return sum((p[a] * values[a] for a in actions), torch.zeros(()))

    found: dict[str, Any] = {"bellman_error": 0.0, "pessimism": 0.0}
    for critic, target in zip(critics, targets, strict=True):
        bellman, relative = torch.zeros(()), torch.zeros(())
        for i in rows:
            s, a, following = batch.observation[i], int(batch.action[i]) - 1, batch.next_observation[i]
            discount = 0.0 if batch.terminated[i] else 0.99
            ahead = [net(following).detach() for net in targets]
            y = batch.reward[i] + discount * expectation([min(ahead[0][b], ahead[1][b]) for b in actions], following)
            value, own = critic(s), critic(following)
            residual = value[a] - batch.reward[i] - discount * expectation(list(own), following)
            bellman = bellman + (0.5 * (value[a] - y).square() + 0.5 * residual.square()) / count
            if pessimism == "initial":
                start = batch.initial_observation[i]  # type: ignore[index]
                relative = relative + expectation(list(critic(start)), start) / count
            else:
                compared = a if reference is None else int(reference(s[None])[0]) - 1
                relative = relative + (expectation(list(value), s) - value[compared]) / count
        optimizer = torch.optim.Adam(critic.parameters(), lr=5e-4)
        optimizer.zero_grad()
        (relative / 4.0 + bellman).backward()
        optimizer.step()
        found["bellman_error"] += bellman.item() / 2
        found["pessimism"] += relative.item() / 2
        with torch.no_grad():
            for p, t in zip(critic.parameters(), target.parameters(), strict=True):
                t.lerp_(p, 0.005)
    # The temperature learns from the exact entropy, and the policy from the exact expectation under the new critic.
    entropy, value = torch.zeros(()), torch.zeros(())
    for i in rows:
        p = policy(batch.observation[i])
        entropy = entropy - sum(p[a] * p[a].log() for a in actions) / count
        q = critics[0](batch.observation[i]).detach()
        value = value + sum(p[a] * q[a] for a in actions) / count
    log_alpha = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([log_alpha], lr=5e-4)
    (log_alpha * (entropy.detach() - 0.1 * np.log(3))).backward()
    optimizer.step()
    alpha = log_alpha.detach().exp()
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    optimizer.zero_grad()
    (-value / alpha - entropy if alpha > 1 else -value - alpha * entropy).backward()
    optimizer.step()
    numbers = {"entropy": entropy.item(), "negative_value": -value.item(), "temperature": alpha.item()}
    return found | numbers | {"networks": [actor, *critics, *targets]}


def reference_policy(raw: Tensor) -> Tensor:
    return 1 + (raw[..., 0] > 0).long()


@pytest.mark.parametrize("pessimism", ["relative", "reference", "initial"])
def test_one_update_equals_plain_loops_over_rows_and_actions(pessimism: str) -> None:
    agent, batch = make(pessimism="initial" if pessimism == "initial" else "relative"), make_numbered_batch(12)
    if pessimism == "reference":
        agent.reference = [reference_policy]  # type: ignore[list-item]
    with torch.no_grad():
        for p in agent.target_critic.parameters():  # targets differ from their critics
            p.mul_(1.3)
    expected = expected_update(agent, batch, pessimism)
    metrics = agent.update(batch).metrics
    for name in ("bellman_error", "pessimism", "entropy", "negative_value", "temperature"):
        assert metrics[name].item() == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    stacks = [
        (agent.actor.network, 0),
        *((agent.critic, c) for c in range(2)),
        *((agent.target_critic, c) for c in range(2)),
    ]
    for (stack, index), plain in zip(stacks, expected["networks"], strict=True):
        for p, q in zip(stack.member(index).parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=2e-6)


def test_nothing_is_drawn() -> None:
    agent, batch = make(seeds=2, shared_batch=True), make_numbered_batch()
    assert agent.noise_for(batch).shape == (3, 2, 32, 0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    agent.update(batch)
    assert torch.equal(before, torch.get_rng_state())


def test_held_out_losses_are_of_the_likeliest_action_and_change_nothing() -> None:
    agent, batch = make(), make_numbered_batch()
    before, found = snapshot(agent), agent.evaluate_losses(batch)
    assert same(before, agent)
    rows, likeliest = torch.arange(32), agent.policy()(batch.observation) - 1
    ahead = agent.policy()(batch.next_observation) - 1
    gains, errors = [], []
    targets = torch.stack([agent.target_critic.member(c)(batch.next_observation)[rows, ahead] for c in range(2)])
    target = batch.reward + 0.99 * (~batch.terminated).float() * targets.amin(0)
    for c in range(2):
        q = agent.critic.member(c)(batch.observation)
        value = q[rows, batch.action - 1]
        gains.append((q[rows, likeliest] - value).mean().item())
        errors.append((value - target).square().mean().item())
    assert found["pessimism"].item() == pytest.approx(sum(gains) / 2, abs=1e-5)
    assert found["td_error"].item() == pytest.approx(sum(errors) / 2, rel=1e-4)
    assert found["accuracy"].item() == pytest.approx((likeliest == batch.action - 1).float().mean().item())
    assert found["cloning_loss"].item() == pytest.approx(found["negative_log_likelihood"].item())


# -------------------------------------------------------------------------------------------------------------- phases
def test_warm_start_clones_by_cross_entropy_and_the_game_follows() -> None:
    agent = make(warm_start=WarmStart(200), critic_lr=0.01, entropy=EntropyFloor(0.0))
    batch = make_numbered_batch(64)
    batch = batch._replace(action=1 + (batch.observation[:, 0] > 0).long() + (batch.observation[:, 1] > 0).long())
    for _ in range(200):
        metrics = agent.update(batch).metrics
        agent.advance()
    assert metrics["pessimism"].item() == 0.0
    assert agent.evaluate_losses(batch)["accuracy"].item() > 0.9
    assert agent.phase == "training"
    assert agent.log_temperature.item() == 0.0
    assert "negative_value" in agent.update(batch).metrics


def test_the_floor_keeps_the_policy_random_enough() -> None:
    """All actions recorded are the first: without the floor the clone would be sure of it."""
    entropies = []
    for floor in (EntropyFloor("auto"), EntropyFloor(None)):
        agent = make(warm_start=WarmStart(10_000), critic_lr=0.02, entropy=floor)
        batch = make_numbered_batch()._replace(action=torch.ones(32, dtype=torch.int64))
        for _ in range(300):
            entropies.append(agent.update(batch).metrics["entropy"].item())
    target = 0.1 * np.log(3)
    assert entropies[299] == pytest.approx(target, rel=0.5)
    assert entropies[-1] < 0.3 * target


def test_the_average_policy_acts() -> None:
    agent = make(actor=ActorUpdates(average_rate=0.25), actor_lr=0.05)
    expected = agent.actor.network.layers[0].weight.detach().clone()  # type: ignore[union-attr]
    for i in range(5):
        agent.update(make_numbered_batch(seed=i))
        expected += 0.25 * (agent.actor.network.layers[0].weight.detach() - expected)  # type: ignore[union-attr]
    torch.testing.assert_close(agent.acting.network.layers[0].weight, expected)  # type: ignore[union-attr]


def test_settings_that_numbered_actions_lack_are_named() -> None:
    with pytest.raises(ValueError, match=r"set warm_start\.loss to likelihood"):
        make(warm_start=WarmStart(5, loss="squared_error"))
    with pytest.raises(ValueError, match=r"warm_start\.saturation to 0"):
        make(warm_start=WarmStart(5, saturation=0.1))


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.parametrize("updates", [0, 100])
@pytest.mark.usefixtures("backend")
def test_compiled_update_is_one_graph_and_equals_eager(updates: int) -> None:
    eager, compiled = (make(warm_start=WarmStart(updates), compile=c) for c in (False, True))
    for i in range(3):
        eager.update(make_numbered_batch(seed=i))
        compiled.update(make_numbered_batch(seed=i))
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------------- members, resume, ranks
def test_a_member_equals_the_same_run_done_alone() -> None:
    four, alone = make(beta=[0.5, 4.0], seeds=2, warm_start=WarmStart(4)), make(seed=1, warm_start=WarmStart(4))
    for i in range(10):
        other, mine = make_numbered_batch(seed=2 * i), make_numbered_batch(seed=2 * i + 1)
        four.update(Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True))))  # type: ignore[arg-type]
        alone.update(mine)
        for agent in (four, alone):
            agent.advance()
    for p, q in zip(four.actor.parameters(), alone.actor.parameters(), strict=True):
        torch.testing.assert_close(p[3:], q, rtol=0, atol=1e-6)
    for p, q in zip(four.critic.parameters(), alone.critic.parameters(), strict=True):
        torch.testing.assert_close(p[3::4], q, rtol=0, atol=1e-6)
    observation = torch.randn(5, 4)
    action, _ = four.act(observation.repeat(4, 1), explore=False)
    assert torch.equal(four.policy(3)(observation), action[15:])
    drawn, _ = four.act(observation.repeat(4, 1), explore=True)
    assert all(NUMBERED.action.contains(int(x)) for x in drawn)


def record(path: Path) -> Path:
    """Ten short episodes of three actions."""
    rng, length = np.random.default_rng(0), 6
    rows = 10 * length
    end = np.arange(rows) % length == length - 1
    np.savez(
        path, observations=rng.normal(size=(rows, 3)).astype(np.float32), actions=rng.integers(3, size=rows),
        rewards=rng.normal(size=rows), terminals=end, timeouts=np.zeros(rows, bool),
        final_observations=rng.normal(size=(10, 3)).astype(np.float32),
        episode_lengths=np.full(10, length, np.int32),
    )  # fmt: skip
    return path


def fit(folder: Path, epochs: int, checkpoint: Path | None = None) -> ATAC:
    module = OfflineDataModule(
        str(folder / "tiny.npz"), cache_dir=str(folder / "cache"), validation_batches=1, updates_per_epoch=2,
        batch_size=4, validation_fraction=0.4, normalize_observation=True,
    )  # fmt: skip
    agent = ATAC(
        module.spaces, beta=[0.5, 4.0], hidden=[8], actor_lr=0.03, critic_lr=0.03,
        warm_start=WarmStart(100, patience=1), critic=CriticUpdates(target_rate=0.5), discount=0.5,
        actor=ActorUpdates(average_rate=0.5),
    )  # fmt: skip
    train(agent, module, folder, epochs, checkpoint)
    return agent


@pytest.mark.filterwarnings("ignore")
def test_a_run_in_two_parts_is_the_whole_run(tmp_path: Path) -> None:
    record(tmp_path / "tiny.npz")
    whole = fit(tmp_path, 30)
    assert whole.plateau is not None
    assert whole.plateau.reached_at is not None
    assert whole.phase == "training"
    fit(tmp_path, 4)
    parts = fit(tmp_path, 30, tmp_path / "4.ckpt")
    assert_equal(dict(parts.state_dict()), dict(whole.state_dict()))
    assert_equal(parts.critic_optimizer.state_dict(), whole.critic_optimizer.state_dict())
    restored = ATAC.from_checkpoint(tmp_path / "30.ckpt")
    observation = torch.randn(5, 3)
    assert torch.equal(restored.policy(1)(observation), whole.policy(1)(observation))


def learned_on(rank: int) -> list[Tensor]:
    agent, whole = make(warm_start=WarmStart(2)), make_numbered_batch()
    for _ in range(4):
        agent.update(Transition(*(x if x is None else x[16 * rank : 16 * rank + 16] for x in whole)))  # type: ignore[arg-type]
        agent.advance()
    return [p.detach() for p in agent.parameters()]


def test_two_ranks_learn_what_one_learns_from_both_halves(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, learned_on)
    alone = make(warm_start=WarmStart(2))
    for _ in range(4):
        alone.update(make_numbered_batch())
        alone.advance()
    for p, q, r in zip(first, second, alone.parameters(), strict=True):
        assert torch.equal(p, q)
        torch.testing.assert_close(p, r.detach(), rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- it learns
@pytest.mark.parametrize("shuffled", [False, True])
def test_one_step_problem_is_solved_and_the_rewards_are_the_reason(shuffled: bool) -> None:
    """The reward is 1 for the one of four actions that the state calls for; the data act at random."""
    g = torch.Generator().manual_seed(0)
    observation, action = 2 * torch.rand(4096, 1, generator=g) - 1, torch.randint(4, (4096,), generator=g)
    reward = (action == (2 * observation[:, 0] + 2).long()).float()
    if shuffled:
        reward = reward[torch.randperm(4096, generator=g)]
    done = torch.ones(4096, dtype=torch.bool)
    data = Transition(observation, action, reward, observation, done, ~done)
    spaces = Spaces(gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(4))
    agent = ATAC(spaces, beta=64.0, hidden=[32, 32], critic_lr=3e-3, actor_lr=3e-3, warm_start=WarmStart(50))
    for _ in range(400):
        rows = torch.randint(4096, (128,), generator=g)
        agent.update(Transition(*(x[rows] for x in data[:6])))  # type: ignore[index]
        agent.advance()
    states = torch.linspace(-0.99, 0.99, 100)[:, None]
    acted, _ = agent.act(states, explore=False)
    right = (acted == (2 * states[:, 0] + 2).long()).float().mean().item()
    assert right < 0.6 if shuffled else right > 0.9
