"""The trust region around a cloned policy: its distances, its multiplier, its verdict, and that it holds a policy."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from atac_agents import NUMBERED, SPACES, make_agent, make_batch, make_numbered_batch
from pytorch_lightning import Trainer
from ranks import run_on_ranks
from resumed_agents import equal, go_on, resume, saved

from modules.agent.trust_region import SMALLEST_SPREAD, Tether, TrustRegion
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Transition


def in_the_game(radius: float | None, spaces: object = SPACES, **arguments: object) -> ATAC:
    """An agent whose cloned policy is the one that it starts with, one update before the game."""
    settings = {"warm_start": WarmStart(2, patience=1), "trust": TrustRegion(radius, lr=0.1), "actor_lr": 1e-2}
    agent = make_agent(spaces, **{**settings, **arguments})
    batch = make_batch() if spaces is SPACES else make_numbered_batch()
    for _ in range(2):
        agent.update(batch)
        agent.advance()
    assert agent.phase == "training"
    assert agent.cloned_actor is not None
    agent.cloned_actor.load_state_dict(agent.actor.state_dict())
    return agent


def learn(agent: ATAC, updates: int) -> dict[str, torch.Tensor]:
    metrics: dict[str, torch.Tensor] = {}
    for i in range(updates):
        batch = make_batch(seed=i % 5) if agent.units.width == 2 else make_numbered_batch(seed=i % 5)
        metrics = agent.update(batch)[0]
        agent.advance()
    return metrics


def test_distances_are_in_units_of_the_spread() -> None:
    tether = Tether(TrustRegion(), 2)
    tether.measure(torch.tensor([0.04, 0.0]))
    choice = torch.tensor([[[0.1, 0.3]], [[0.0, 0.1]]])
    distance = tether.distance(choice, torch.zeros(2, 1, 2))
    expected = torch.tensor([[0.05 / 0.04], [0.005 / SMALLEST_SPREAD]])
    torch.testing.assert_close(distance, expected)


def test_the_departure_is_what_all_but_one_in_a_hundred_states_keep() -> None:
    tether = Tether(TrustRegion(), 1)
    tether.measure(torch.tensor([0.25]))
    choice = torch.arange(101.0).div(100.0).view(1, 101, 1)  # distances 0, 0.02, ... 2 spreads
    torch.testing.assert_close(tether.departure(choice, torch.zeros(1, 101, 1)), torch.tensor([1.98]))


def test_the_multiplier_grows_outside_and_falls_inside_the_region() -> None:
    tether = Tether(TrustRegion(0.5, lr=0.1), 3)
    choice = torch.tensor([0.2, 0.5, 9.0]).view(3, 1, 1).requires_grad_()
    penalty, distance = tether.pull(choice, torch.zeros(3, 1, 1))
    torch.testing.assert_close(distance, torch.tensor([0.2, 0.5, 9.0]))
    torch.testing.assert_close(penalty, torch.tensor([0.16, 1.0, 324.0]))
    torch.testing.assert_close(tether.log_weight, torch.tensor([-0.084, 0.0, 0.1]))  # 0.1 at most
    (gradient,) = torch.autograd.grad(penalty.sum(), choice)
    torch.testing.assert_close(gradient.flatten(), 2.0 * torch.tensor([0.2, 0.5, 9.0]) / 0.25)
    penalty, _ = tether.pull(choice, torch.zeros(3, 1, 1))
    torch.testing.assert_close(penalty[2], torch.tensor(324.0 * math.exp(0.1)))


def test_a_mean_of_high_order_is_held_against_states_that_moved_most() -> None:
    """Of two states one has moved by 3 spreads and the other not at all; moments of order 2 and 8 by hand."""
    choice = torch.tensor([[[0.0], [3.0]]]).requires_grad_()
    for order, mean in ((2.0, math.sqrt(4.5)), (8.0, (3.0**8 / 2) ** 0.125)):
        penalty, distance = Tether(TrustRegion(2.0, order=order), 1).pull(choice, torch.zeros(1, 2, 1))
        torch.testing.assert_close(distance, torch.tensor([mean]))
        torch.testing.assert_close(penalty, torch.tensor([(mean / 2.0) ** order]))
    (gradient,) = torch.autograd.grad(penalty.sum(), choice)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.0, 8 * 3.0**7 / 2 / 2.0**8]))


def known(returns: list[float]) -> SimpleNamespace:
    """Data with episodes of these returns."""
    return SimpleNamespace(training_returns=torch.tensor(returns))


def in_a_region_for(data: object, **settings: Any) -> ATAC:
    """An agent before its run on these data."""
    trust = TrustRegion(**{"radius": 0.5, "headroom": 0.2, **settings})
    agent = make_agent(warm_start=WarmStart(2, patience=1), trust=trust)
    agent.size_region(data)
    return agent


@pytest.mark.parametrize(
    ("returns", "radius"),
    [
        # Mean 10, above it by 2 in one of four: a headroom of 0.1, half of what allows the whole radius.
        ([10.0, 10.0, 12.0, 8.0], 0.25),
        ([-10.0, -10.0, -12.0, -8.0], 0.25),
        ([0.0, 0.0, 0.0, 8.0], 0.5),
        ([-1.0, 1.0], 0.5),  # a mean of zero
        ([10.0, 10.0, 11.4, 8.6], 0.175),  # little more than a third of what allows all of it
    ],
)
def test_the_region_is_as_large_as_the_returns_of_the_data_allow(returns: list[float], radius: float) -> None:
    agent = in_a_region_for(known(returns))
    assert agent.tether is not None
    assert agent.tether.radius == pytest.approx(radius)
    learn(agent, 1)
    assert agent.phase == "warm start"
    metrics = learn(agent, 3)
    assert metrics["trust_radius"].item() == pytest.approx(radius)


@pytest.mark.parametrize("returns", [[5.0, 5.0, 5.0], [0.0], [10.0, 10.0, 11.3, 8.7]])
def test_data_that_leave_nothing_to_gain_are_worth_no_game(returns: list[float]) -> None:
    agent = in_a_region_for(known(returns))
    assert agent.ended_by is None
    learn(agent, 2)
    assert agent.phase == "training"
    assert agent.ended_by == "trust.headroom"


def test_a_region_without_headroom_is_the_same_for_all_data() -> None:
    agent = in_a_region_for(known([5.0, 5.0]), headroom=None)
    assert agent.tether is not None
    assert agent.tether.radius == 0.5


def test_data_that_know_no_returns_are_refused_and_the_advice_helps() -> None:
    with pytest.raises(ValueError, match=r"set trust\.headroom to null"):
        in_a_region_for(object())
    in_a_region_for(object(), headroom=None)


def test_the_smallest_region_of_the_highest_order_holds_without_overflow() -> None:
    choice = torch.tensor([[[0.01], [0.0]]]).requires_grad_()
    penalty, distance = Tether(TrustRegion(1e-6, order=8.0), 1).pull(choice, torch.zeros(1, 2, 1))
    torch.testing.assert_close(distance, torch.tensor([0.01 / 2**0.125]))
    (gradient,) = torch.autograd.grad(penalty.sum(), choice)
    assert gradient.isfinite().all()


def held_on(rank: int) -> dict[str, torch.Tensor]:
    agent, whole = make_agent(warm_start=WarmStart(1, patience=1), trust=TrustRegion(0.1, lr=0.5)), make_batch()
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(3))
    for _ in range(4):
        rows = slice(16 * rank, 16 * rank + 16) if rank >= 0 else slice(None)
        agent.update(Transition(*(x if x is None else x[rows] for x in whole)), noise[:, :, rows])  # type: ignore[arg-type]
        agent.advance()
    return dict(agent.state_dict())


def test_two_ranks_hold_their_policies_by_one_multiplier(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, held_on)
    alone = held_on(-1)
    assert alone["tether.log_weight"].item() < -0.1
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("spaces", [SPACES, NUMBERED])
def test_a_policy_stays_within_the_region_that_it_leaves_without_one(spaces: object) -> None:
    free, held = (in_the_game(radius, spaces) for radius in (None, 0.1))
    assert free.tether is not None
    assert held.tether is not None
    free.tether.measure(torch.tensor([0.04]))
    held.tether.measure(torch.tensor([0.04]))
    rows = make_batch().observation
    far = []
    for agent in (free, held):
        metrics = learn(agent, 300)
        assert ("distance" in metrics) == (agent is held)
        assert agent.cloned_actor is not None
        assert agent.tether is not None
        choices = [agent.kind.choice(*policy(rows.unsqueeze(0))) for policy in (agent.actor, agent.cloned_actor)]
        far.append(agent.tether.distance(*choices).mean().sqrt().item())
    assert far[0] > 0.4
    assert far[1] < 0.2


def test_without_a_radius_the_game_is_the_same_to_the_bit_with_and_without_a_cloned_policy() -> None:
    with_clone, without = in_the_game(None), make_agent(warm_start=WarmStart(2), actor_lr=1e-2)
    for _ in range(2):
        without.update(make_batch())
        without.advance()
    for agent in (with_clone, without):
        learn(agent, 5)
    pairs = zip(with_clone.actor.parameters(), without.actor.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_spread_is_measured_with_the_best_cloned_policy() -> None:
    agent = make_agent(warm_start=WarmStart(10, patience=1), beta=[1.0, 2.0])
    names = [f"validation/{name}" for name in agent.member_names]
    for loss, spread in ((1.0, 0.04), (2.0, 0.5)):  # the second is worse
        losses = {f"{name}/cloning_loss": torch.tensor(loss) for name in names}
        spreads = {f"{name}/spread": torch.tensor(spread + i) for i, name in enumerate(names)}
        agent.trainer = cast(Trainer, SimpleNamespace(sanity_checking=False, callback_metrics=losses | spreads))
        agent.on_validation_end()
    agent.trainer = None
    assert agent.tether is not None
    torch.testing.assert_close(agent.tether.spread, torch.tensor([0.04, 1.04]))


def test_held_out_distances_follow_the_phases() -> None:
    agent = make_agent(warm_start=WarmStart(10, patience=1))
    losses = agent.evaluate_losses(make_batch())
    mean = torch.tanh(agent.actor(agent.normalize(make_batch().observation).unsqueeze(0))[0])
    torch.testing.assert_close(losses["spread"], (mean - make_batch().action).square().mean().view(1))
    assert "departure" not in losses
    assert "spread" not in make_agent().evaluate_losses(make_batch())
    agent = in_the_game(None)
    assert agent.evaluate_losses(make_batch())["departure"].tolist() == [0.0]
    learn(agent, 20)
    assert agent.evaluate_losses(make_batch())["departure"].item() > 0.01


def test_the_verdict_is_of_the_farthest_living_member() -> None:
    agent = make_agent(warm_start=WarmStart(1, patience=1), beta=[1.0, 2.0], trust=TrustRegion(limit=0.75))
    assert make_agent().judge({}) is None
    verdict = agent.judge({})
    assert verdict is not None
    assert verdict == (True, "the policy is the cloned one")
    agent.update(make_batch())
    agent.advance()
    assert agent.judge({}) is None
    agent.validated_at = agent.updates
    names = [f"validation/{name}/departure" for name in agent.member_names]
    for far, trusted in (((0.75, 0.2), True), ((0.2, 0.8), False), ((0.8, 0.2), False), ((0.2, math.nan), True)):
        verdict = agent.judge(dict(zip(names, torch.tensor(far), strict=True)))
        assert verdict is not None
        assert verdict.trusted == trusted
    agent.update(make_batch())
    agent.advance()
    assert agent.judge(dict(zip(names, torch.zeros(2), strict=True))) is None  # of the policy before
    assert verdict.told == (
        f"member {agent.member_names[0]} is within 0.2 spreads of the cloned one in 99% of held-out states (limit 0.75)"
    )


def test_the_verdict_of_one_policy_names_no_member() -> None:
    agent = in_the_game(None, trust=TrustRegion(limit=2.0))
    agent.validated_at = agent.updates
    verdict = agent.judge({"validation/departure": torch.tensor(3.0)})
    told = "the policy is within 3 spreads of the cloned one in 99% of held-out states (limit 2)"
    assert verdict == (False, told)


def test_the_game_tells_the_distance_of_the_rows_and_the_multiplier() -> None:
    agent, batch = in_the_game(0.5, actor_lr=0.0), make_batch()
    assert agent.cloned_actor is not None
    assert agent.tether is not None
    agent.tether.measure(torch.tensor([0.04]))
    with torch.no_grad():
        for p in agent.cloned_actor.parameters():
            p.mul_(0.5)
        choices = [torch.tanh(policy(batch.observation[None])[0]) for policy in (agent.actor, agent.cloned_actor)]
    mean = ((choices[0] - choices[1]).square().mean() / 0.04).sqrt()
    before = agent.tether.log_weight.clone()
    metrics = agent.update(batch).metrics
    torch.testing.assert_close(metrics["distance"], mean[None])
    step = 0.1 * ((mean / 0.5) ** 2 - 1.0).clamp(max=1.0)
    torch.testing.assert_close(metrics["trust_weight"], (before + step).exp())
    found = agent.evaluate_losses(batch)
    torch.testing.assert_close(found["spread"], (choices[0] - batch.action).square().mean()[None])


def test_a_radius_without_a_cloned_policy_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"set warm_start\.patience, or trust\.radius to null$"):
        make_agent(trust=TrustRegion(0.2))
    with pytest.raises(ValueError, match=r"or trust\.radius and trust\.headroom to null$"):
        make_agent(trust=TrustRegion(0.2, headroom=0.3))
    make_agent(trust=TrustRegion(0.2), warm_start=WarmStart(1, patience=1))


def test_a_headroom_without_a_radius_is_refused_with_two_ways_out() -> None:
    with pytest.raises(
        ValueError, match=r"^trust\.headroom would be .* set trust\.radius, or trust\.headroom to null$"
    ):
        TrustRegion(headroom=0.3)
    assert TrustRegion(0.2, headroom=0.3).headroom == 0.3
    assert TrustRegion().headroom is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("radius", 0.0),
        ("order", 1.9),
        ("radius", math.inf),
        ("lr", -1.0),
        ("limit", math.nan),
        ("limit", "far"),
        ("updates", 0),
        ("headroom", 0.0),
        ("headroom", "much"),
    ],
)
def test_what_is_no_distance_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"trust.{field}"):
        TrustRegion(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"trust.radius": 0.5}, {"trust.order": 8.0}, {"trust.lr": 0.5}, {"trust.radius": None}]
)
def test_a_changed_trust_region_takes_effect(changes: dict[str, Any]) -> None:
    settings = {"warm_start": WarmStart(2, patience=1), "trust.radius": 0.01, "actor_lr": 1e-2}
    agent, batch = make_agent(**settings), make_batch()
    go_on(agent, batch, 6)
    checkpoint = saved(agent)
    whole = go_on(agent, batch, 4)
    assert equal(go_on(resume(make_agent(**settings), checkpoint), batch, 4), whole)
    assert not equal(go_on(resume(make_agent(**{**settings, **changes}), checkpoint), batch, 4), whole)
