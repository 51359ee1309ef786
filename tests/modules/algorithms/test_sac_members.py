"""SAC's members, which learn what they would alone, how it acts, its processes, and its compiled updates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from atac_agents import NUMBERED, SPACES, make_batch, make_numbered_batch, same, snapshot
from ranks import run_on_ranks
from sac_agents import GRADIENTS, make_agent
from torch import Tensor

from modules.batch import Spaces, Transition
from modules.experts.layer import SparseMoE

QUICK = ("expectation", "straight_through_gumbel")
"""Gradients whose graphs are made in all tests: the second one draws as `gumbel_softmax` and `straight_through` do."""
SLOW = tuple(gradient for gradient in GRADIENTS if gradient not in QUICK)
MIXTURE = functools.partial(SparseMoE, num_experts=4, hidden=8, noise=False)


# ------------------------------------------------------------------------------------------------------------- members
@pytest.mark.parametrize(("spaces", "settings"), [
    (SPACES, {}), (SPACES, {"trunk": MIXTURE}), (NUMBERED, {}), (NUMBERED, {"gradient": "gumbel_softmax"}),
])  # fmt: skip
def test_a_member_equals_the_same_run_done_alone(spaces: Spaces, settings: dict[str, Any]) -> None:
    """Weights, temperatures and metrics, those of balancing losses too."""
    make_rows = make_numbered_batch if spaces is NUMBERED else make_batch
    three, alone = make_agent(spaces, seeds=3, **settings), make_agent(spaces, seed=1, **settings)
    assert three.member_names == ("seed=0", "seed=1", "seed=2")
    for i in range(5):
        batches = [make_rows(seed=3 * i + s) for s in range(3)]
        joined = Transition(*(torch.cat(parts) for parts in zip(*batches, strict=True)))  # type: ignore[arg-type]
        metrics, expected = three.update(joined).metrics, alone.update(batches[1]).metrics
        for agent in (three, alone):
            agent.advance()
        found = {name: x[1].item() for name, x in metrics.items()}
        assert found == pytest.approx({name: x.item() for name, x in expected.items()}, rel=1e-3, abs=1e-5)
    assert ("critic/load" in found) == ("actor/load" in found) == ("trunk" in settings)
    assert three.log_temperature[1].item() == pytest.approx(alone.log_temperature.item(), abs=1e-6)
    pairs = [(three.actor.network, 1, alone.actor.network, 0)]
    pairs += [(three.target_critic, 3 * c + 1, alone.target_critic, c) for c in range(2)]
    for stacked, row, plain, own in pairs:
        for p, expected_p in zip(stacked.member(row).parameters(), plain.member(own).parameters(), strict=True):
            torch.testing.assert_close(p, expected_p, rtol=0, atol=1e-5)


def test_seeds_may_share_a_minibatch() -> None:
    agent, batch = make_agent(seeds=2, shared_batch=True), make_batch()
    assert agent.noise_for(batch).shape == (2, 32, 4)
    metrics = agent.update(batch).metrics
    assert metrics["value"][0] != metrics["value"][1]


def test_balancing_losses_enter_the_loss_of_their_own_network() -> None:
    trunks = [functools.partial(MIXTURE, loss_weights={"importance": 0.0, "load": x}) for x in (0.0, 10.0)]
    noise = torch.randn(1, 32, 4)
    both = [make_agent(trunk=trunk) for trunk in trunks]
    still = [make_agent(trunk=trunk, critic_lr=0.0) for trunk in trunks]
    for agent in both + still:
        agent.update(make_batch(), noise)
    assert not same(snapshot(both[0].critic), both[1].critic)
    assert same(snapshot(still[0].critic), still[1].critic)
    assert not same(snapshot(still[0].actor), still[1].actor)


@pytest.mark.parametrize("spaces", [SPACES, NUMBERED])
def test_it_explores_by_its_policy_and_its_most_likely_action_is_the_exported_one(spaces: Spaces) -> None:
    agent, observation = make_agent(spaces, seeds=2), torch.randn(50, 4)
    action, _ = agent.act(observation.repeat(2, 1), explore=False)
    for member in range(2):
        torch.testing.assert_close(agent.policy(member)(observation), action[50 * member : 50 * member + 50])
    torch.manual_seed(0)
    drawn = [agent.act(observation.repeat(2, 1), explore=True)[0] for _ in range(2)]
    assert not torch.equal(*drawn)
    assert all(spaces.action.contains(x.detach().numpy()) for x in drawn[0])


# ------------------------------------------------------------------------------------------------------- ranks, graph
def learned_on(rank: int) -> dict[str, Tensor]:
    return learned(lambda x, axis: x.chunk(2, axis)[rank])


def learned(part: Callable[[Tensor, int], Tensor]) -> dict[str, Tensor]:
    """Weights after three updates from a part of the rows, with continuous actions and with numbered ones."""
    found = {}
    for spaces, make_rows in ((SPACES, make_batch), (NUMBERED, make_numbered_batch)):
        agent = make_agent(spaces, actor_lr=1e-3, critic_lr=1e-3, temperature_lr=1e-2)
        for i in range(3):
            rows = make_rows(seed=i)
            noise = torch.randn(agent.noise_for(rows).shape, generator=torch.Generator().manual_seed(i))
            agent.update(Transition(*(part(x, 0) for x in rows)), part(noise, 1))  # type: ignore[arg-type]
        found |= {f"{agent.units.discrete}/{name}": x for name, x in agent.state_dict().items()}
    return found


@pytest.mark.long
def test_two_ranks_equal_each_other_and_one_on_the_joined_batches(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path / "ranks", learned_on)
    for name, value in learned(lambda x, axis: x).items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-7)
        torch.testing.assert_close(first[name], value, rtol=0, atol=2e-5)


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("gradient", ["continuous", *QUICK, *(pytest.param(g, marks=pytest.mark.slow) for g in SLOW)])
def test_compiled_updates_are_graphs_and_equal_eager(gradient: str) -> None:
    settings = {} if gradient == "continuous" else {"spaces": NUMBERED, "gradient": gradient}
    make_rows = make_batch if gradient == "continuous" else make_numbered_batch
    eager, compiled = (make_agent(compile=c, **settings) for c in (False, True))
    for i in range(2):
        for agent in (eager, compiled):
            agent.update(make_rows(seed=i))
            agent.advance()
    for p, expected in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=0, atol=1e-5)
