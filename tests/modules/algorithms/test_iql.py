"""IQL: d3rlpy's update, losses by plain loops, members alone, resume, ranks, numbered actions, bad arguments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from atac_agents import SPACES, make_batch, same, snapshot
from equal import assert_equal
from ranks import run_on_ranks
from recorded_updates import Recorded
from runs_in_parts import train
from tiny_dataset import make_arrays, write_hdf5

from datamodules.offline import OfflineDataModule
from modules.agent.actor_critic_updates import CriticUpdates
from modules.algorithms.iql import IQL
from modules.batch import Spaces, Transition

NUMBERED = Spaces(SPACES.observation, gym.spaces.Discrete(3, start=1))


def critics(**fields: Any) -> CriticUpdates:
    return CriticUpdates(**{"residual_weight": 0.0, "projection_radius": None, **fields})


def make(spaces: Spaces = SPACES, **arguments: Any) -> IQL:
    return IQL(spaces, **{"hidden": [16], "actor_lr": 1e-3, "critic_lr": 1e-3, **arguments})


def numbered(rows: int = 32, seed: int = 0) -> Transition:
    batch = make_batch(rows, seed)
    return batch._replace(action=1 + torch.randint(3, (rows,), generator=torch.Generator().manual_seed(seed)))


def batch_of(spaces: Spaces, seed: int = 0) -> Transition:
    return make_batch(seed=seed) if spaces is SPACES else numbered(seed=seed)


# ------------------------------------------------------------------------------------------------------------- d3rlpy
@pytest.mark.parametrize("name", ["iql", "iql_clipped"])
def test_two_updates_equal_those_of_d3rlpy(name: str) -> None:
    recorded = Recorded(name)
    theirs = recorded.settings
    agent = IQL(
        recorded.spaces, expectile=theirs["expectile"], discount=theirs["gamma"], hidden=recorded.hidden,
        actor_lr=theirs["actor_learning_rate"], critic_lr=theirs["critic_learning_rate"],
        inverse_temperature=theirs["weight_temp"], max_weight=theirs["max_weight"],
        critic=critics(target_rate=theirs["tau"]),
    )  # fmt: skip
    networks = {
        ("policy",): agent.actor,
        ("q_funcs.0", "q_funcs.1"): agent.critic,
        ("targ_q_funcs.0", "targ_q_funcs.1"): agent.target_critic,
        ("value_func",): agent.state_value,
    }
    for names, network in networks.items():
        recorded.fill(network, "initial", *names)
    with torch.no_grad():
        agent.actor.deviation.copy_(recorded.parameter("initial", "policy._logstd")[None])
    for update in (1, 2):
        metrics = agent.update(recorded.batch(update)).metrics
        losses, when = recorded.losses[update - 1], f"after_{update}"
        assert 2 * metrics["bellman_error"].item() == pytest.approx(losses["q_loss"], rel=recorded.share)
        assert metrics["expectile_loss"].item() == pytest.approx(losses["v_loss"], rel=recorded.share)
        assert metrics["weighted_cloning_loss"].item() == pytest.approx(losses["actor_loss"], rel=recorded.share)
        for names, network in networks.items():
            assert recorded.distance(network, when, *names) < recorded.near, names
        deviation = recorded.parameter(when, "policy._logstd")
        torch.testing.assert_close(agent.actor.deviation[0], deviation, rtol=0, atol=recorded.near)
        assert (metrics["at_max_weight"].item() > 0) == (name == "iql_clipped")


# ------------------------------------------------------------------------------------------------------ known answers
def expected_metrics(agent: IQL, batch: Transition, member: int) -> dict[str, float]:
    """The metrics of an update of one member whose value network stands still, row by row."""
    count, members, discrete = len(batch.reward), len(agent.population), agent.units.discrete
    numbers: dict[str, float] = {}
    nets, targets = ([x.member(c * members + member) for c in range(2)] for x in (agent.critic, agent.target_critic))
    state_value, policy = agent.state_value.member(member), agent.actor.network.member(member)
    high = agent.expectile[member].item()

    def add(name: str, x: float) -> None:
        numbers[name] = numbers.get(name, 0.0) + x / count

    for i in range(count):
        s, a, following = batch.observation[i], batch.action[i], batch.next_observation[i]

        def q(net: torch.nn.Module, s: torch.Tensor = s, a: torch.Tensor = a) -> float:
            return net(s)[int(a) - 1].item() if discrete else net(torch.cat([s, a])).item()

        v, ahead = state_value(s).item(), state_value(following).item()
        target = batch.reward[i].item() + (0.0 if batch.terminated[i] else agent.discount * ahead)
        u = min(q(net) for net in targets) - v
        weight = min(math.exp(3.0 * u), 1.1)
        if discrete:
            log_prob = torch.log_softmax(policy(s), -1)[int(a) - 1].item()
        else:  # deviations start at 1
            log_prob = torch.distributions.Normal(torch.tanh(policy(s)), 1.0).log_prob(a).sum().item()
        add("bellman_error", sum((q(net) - target) ** 2 for net in nets) / 2)
        add("expectile_loss", (high if u > 0 else 1.0 - high) * u * u)
        add("value", sum(q(net) for net in nets) / 2)
        add("state_value", v)
        add("target", target)
        add("weighted_cloning_loss", -weight * log_prob)
        add("advantage", u)
        add("weight", weight)
        add("at_max_weight", float(weight == 1.1))
    return numbers


@pytest.mark.parametrize("spaces", [SPACES, NUMBERED], ids=["box", "numbered"])
def test_metrics_are_those_of_a_plain_loop_over_rows(spaces: Spaces, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, batch = make(spaces, critic_lr=0.0, max_weight=1.1, expectile=[0.6, 0.9]), batch_of(spaces)
    with torch.no_grad():
        for p in agent.target_critic.parameters():  # targets differ from their critics, and members from each other
            p.mul_(torch.tensor([1.3, 0.7, 1.3, 0.7]).view(-1, 1, 1))
        for p in agent.state_value.parameters():
            p[1] *= 0.5
    weights: list[dict[str, float]] = []

    def add(terms: dict[str, torch.Tensor], scales: dict[str, float]) -> torch.Tensor:
        assert all(x.shape == (2,) for x in terms.values())  # of each member
        weights.append(scales)
        return torch.stack(list(terms.values())).sum(0)

    monkeypatch.setattr("modules.algorithms.iql.weighted_sum", add)
    expected = [expected_metrics(agent, batch, member) for member in range(2)]
    held_out = agent.evaluate_losses(batch)
    metrics = agent.update(batch).metrics
    assert weights == [{"error": 1.0, "expectile": 1.0}, {"cloning": 1.0}]
    assert all(x.shape == (2,) for x in metrics.values())
    for member in range(2):
        found = {name: x[member].item() for name, x in metrics.items()}
        assert found == pytest.approx(expected[member], rel=1e-4, abs=1e-6)
        assert 0 < found["at_max_weight"] < 1
    torch.testing.assert_close(held_out["td_error"], metrics["bellman_error"])
    torch.testing.assert_close(held_out["expectile_loss"], metrics["expectile_loss"])


def test_a_clipped_backup_is_clipped_in_target_and_residual() -> None:
    agent = make(critic=critics(residual_weight=0.5, value_range=(-0.2, 0.3), clip="backup"))
    batch = make_batch()
    with torch.no_grad():
        ahead = agent.state_value.member(0)(batch.next_observation).squeeze(-1)
        backup = (batch.reward + 0.99 * (~batch.terminated).float() * ahead).clamp(-0.2, 0.3)
        pairs = torch.cat([batch.observation, batch.action], -1)
        error = sum((agent.critic.member(c)(pairs).squeeze(-1) - backup).square().mean() for c in range(2)) / 2
    torch.testing.assert_close(agent.update(batch).metrics["bellman_error"][0], error)


@pytest.mark.parametrize("spaces", [SPACES, NUMBERED], ids=["box", "numbered"])
def test_held_out_losses_are_of_the_likeliest_action_and_change_nothing(spaces: Spaces) -> None:
    agent, batch = make(spaces, expectile=[0.5, 0.9]), batch_of(spaces)
    before = snapshot(agent)
    found = agent.evaluate_losses(batch)
    assert same(before, agent)
    for member in range(2):
        action = agent.policy(member)(batch.observation)
        if spaces is NUMBERED:
            log_prob = torch.log_softmax(agent.actor.network.member(member)(batch.observation), -1)
            chosen = log_prob[torch.arange(len(action)), batch.action - 1]
            assert found["accuracy"][member].item() == pytest.approx((action == batch.action).float().mean().item())
        else:
            chosen = torch.distributions.Normal(action, 1.0).log_prob(batch.action).sum(-1)
            error = (action - batch.action).square().sum(-1).mean().item()
            assert found["action_error"][member].item() == pytest.approx(error, rel=1e-5)
        likelihood = found["negative_log_likelihood"][member].item()
        assert likelihood == pytest.approx(-chosen.mean().item(), rel=1e-5)
        gains = []
        for c in range(2):
            q = agent.critic.member(2 * c + member)
            if spaces is NUMBERED:
                rows, values = torch.arange(len(action)), q(batch.observation)
                gains.append((values[rows, action - 1] - values[rows, batch.action - 1]).mean().item())
            else:
                mine, theirs = (q(torch.cat([batch.observation, a], -1)) for a in (action, batch.action))
                gains.append((mine - theirs).mean().item())
        assert found["pessimism"][member].item() == pytest.approx(sum(gains) / 2, abs=1e-5)


@pytest.mark.parametrize("spaces", [SPACES, NUMBERED], ids=["box", "numbered"])
def test_the_better_of_two_recorded_actions_is_learned(spaces: Spaces) -> None:
    """In episodes of one step values become expectiles of the rewards, and the policy the action with the reward."""
    rates = {"actor_lr": 0.01, "critic_lr": 0.01, "critic": critics(target_rate=0.1)}
    agent = make(spaces, expectile=[0.5, 0.9], inverse_temperature=10.0, **rates)
    batch, rows = batch_of(spaces), 32
    good = torch.arange(rows) % 2 == 0
    action = torch.where(good, 3, 1) if spaces is NUMBERED else torch.where(good[:, None], 0.8, -0.6).expand(rows, 2)
    batch = batch._replace(
        observation=torch.zeros(rows, 4), action=action, reward=good.float(), terminated=torch.ones(rows).bool()
    )
    for _ in range(400):
        metrics = agent.update(batch).metrics
    torch.testing.assert_close(metrics["state_value"], torch.tensor([0.5, 0.9]), rtol=0, atol=0.1)
    played = agent.policy(1)(torch.zeros(1, 4))
    wanted = torch.tensor([3]) if spaces is NUMBERED else torch.tensor([[0.8, 0.8]])
    torch.testing.assert_close(played, wanted, rtol=0, atol=0.1)


def test_the_residual_is_a_switch_whose_gradient_reaches_the_value_network() -> None:
    batch = make_batch()
    whole = make(critic=critics(residual_weight=1.0))
    # The target critics still equal the critics.
    value = [whole.critic.member(c)(torch.cat([batch.observation, batch.action], -1)).squeeze(-1) for c in range(2)]
    now, ahead = (whole.state_value.member(0) for _ in range(2))
    state_value, next_value = now(batch.observation).squeeze(-1), ahead(batch.next_observation).squeeze(-1)
    backup = batch.reward + 0.99 * (~batch.terminated).float() * next_value
    u = torch.minimum(*value).detach() - state_value
    loss = sum((v - backup).square().mean() for v in value) + (torch.where(u > 0, 0.7, 0.3) * u.square()).mean()
    by_value, by_residual = (torch.autograd.grad(loss, net[0].weight, retain_graph=True)[0] for net in (now, ahead))
    before = whole.state_value.layers[0].weight.detach().clone()
    assert by_residual.abs().max() > 0
    whole.update(batch)
    moved = (whole.state_value.layers[0].weight.detach() - before)[0].T
    gradient = by_value + by_residual
    strong = gradient.abs() > 1e-4
    assert torch.equal(moved[strong].sign(), -gradient[strong].sign())  # Adam's first step


def test_settings_of_the_critics_bind_the_critics_alone() -> None:
    agent = make(critic=critics(projection_radius=0.5, value_range=(-0.01, 0.01), layer_norm=True, target_rate=1.0))
    batch = make_batch()
    metrics = agent.update(batch).metrics
    norms = [torch.linalg.matrix_norm(layer.weight).max().item() for layer in agent.critic.layers]
    assert max(norms) == pytest.approx(0.5, rel=1e-5)
    assert torch.linalg.matrix_norm(agent.state_value.layers[0].weight).max().item() > 0.6
    assert abs(metrics["target"].item() - batch.reward.mean().item()) <= 0.01
    for slow, fast in zip(agent.target_critic.parameters(), agent.critic.parameters(), strict=True):
        torch.testing.assert_close(slow, fast)
    assert agent.state_value.layer_norm


# ------------------------------------------------------------------------------------------- members, resume, ranks
@pytest.mark.parametrize("spaces", [SPACES, NUMBERED], ids=["box", "numbered"])
def test_a_member_equals_the_same_run_done_alone(spaces: Spaces) -> None:
    four, alone = make(spaces, expectile=[0.6, 0.9], seeds=2), make(spaces, expectile=0.9, seed=1)
    for i in range(10):
        other, mine = batch_of(spaces, 2 * i), batch_of(spaces, 2 * i + 1)
        four.update(Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True))))  # type: ignore[arg-type]
        alone.update(mine)
    assert four.member_names[3] == "expectile=0.9/seed=1"
    for p, q in zip(four.actor.parameters(), alone.actor.parameters(), strict=True):
        torch.testing.assert_close(p[3:], q, rtol=0, atol=1e-6)
    for p, q in zip(four.critic.parameters(), alone.critic.parameters(), strict=True):
        torch.testing.assert_close(p[3::4], q, rtol=0, atol=1e-6)
    for p, q in zip(four.state_value.parameters(), alone.state_value.parameters(), strict=True):
        torch.testing.assert_close(p[3:], q, rtol=0, atol=1e-6)
    observation = torch.randn(5, 4)
    action, _ = four.act(observation.repeat(4, 1), explore=False)
    torch.testing.assert_close(four.policy(3)(observation), action[15:])
    drawn, _ = four.act(observation.repeat(4, 1), explore=True)
    assert all(spaces.action.contains(x.detach().numpy() if spaces is SPACES else int(x)) for x in drawn)


def fit(folder: Path, epochs: int, checkpoint: Path | None = None) -> IQL:
    module = OfflineDataModule(
        str(folder / "tiny.h5"), cache_dir=str(folder / "cache"), validation_batches=1, updates_per_epoch=2,
        batch_size=4, validation_fraction=0.4, normalize_observation=True,
    )  # fmt: skip
    agent = IQL(module.spaces, expectile=[0.6, 0.9], hidden=[8], actor_lr=0.03)
    train(agent, module, folder, epochs, checkpoint)
    return agent


@pytest.mark.filterwarnings("ignore")
def test_a_run_in_two_parts_is_the_whole_run(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "tiny.h5", make_arrays())
    whole = fit(tmp_path, 4)
    fit(tmp_path, 2)
    parts = fit(tmp_path, 4, tmp_path / "2.ckpt")
    assert_equal(dict(parts.state_dict()), dict(whole.state_dict()))
    assert_equal(parts.critic_optimizer.state_dict(), whole.critic_optimizer.state_dict())
    restored = IQL.from_checkpoint(tmp_path / "4.ckpt")
    observation = torch.randn(5, 3)
    assert torch.equal(restored.policy(1)(observation), whole.policy(1)(observation))


def learned_on(rank: int) -> list[torch.Tensor]:
    agent, whole = make(), make_batch()
    for _ in range(3):
        agent.update(Transition(*(x if x is None else x[16 * rank : 16 * rank + 16] for x in whole)))  # type: ignore[arg-type]
    return [p.detach() for p in agent.parameters()]


def test_two_ranks_learn_what_one_learns_from_both_halves(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, learned_on)
    alone = make()
    for _ in range(3):
        alone.update(make_batch())
    for p, q, r in zip(first, second, alone.parameters(), strict=True):
        assert torch.equal(p, q)
        torch.testing.assert_close(p, r.detach(), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ bad arguments
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"expectile": 1.0}, "expectile"),
        ({"expectile": [0.7, 0.0]}, "expectile"),
        ({"expectile": [0.7, 0.7]}, "expectile must hold distinct"),
        ({"expectile": []}, "expectile must hold at least one"),
        ({"inverse_temperature": -1.0}, "inverse_temperature"),
        ({"max_weight": 0.0}, "max_weight"),
        ({"discount": 1.1}, "discount"),
        ({"actor_lr": math.nan}, "actor_lr"),
        ({"hidden": [0]}, "hidden"),
        ({"initializer": "orthogonal"}, "initializer"),
        ({"critic": critics(roles="split")}, r"critic\.roles must be twin"),
        ({"spaces": Spaces(gym.spaces.Discrete(3), SPACES.action)}, "flat Box of observations"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make(**arguments)
