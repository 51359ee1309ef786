"""Planning in models: known optima, sums of rewards, records, and searches made anew."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch
from planning_models import GAMMA, Corridor, best_values, seen, two_steps
from torch import Tensor

from modules.agent.planning import Planner, Record, record_width, renewed, rows_of, unpack
from modules.networks.action_slots import ActionSlots, DistinctSlots, NumberedSlots, SampledSlots
from modules.networks.actors import DiscreteActor, TanhNormalActor
from modules.networks.blocks import DenseStack
from modules.search.interface import Noise
from modules.search.rules import PUCT, Gumbel
from modules.search.settings import SearchSettings

LEFT, RIGHT = 0, 1
EVERYWHERE = [0, 1, 2, 3, 4]
RULES = {"gumbel": Gumbel(), "puct": PUCT()}


def planner(model: Any = None, slots: ActionSlots | None = None, discount: float = GAMMA) -> Planner:
    return Planner(Corridor() if model is None else model, slots or NumberedSlots(two_steps()), discount)


def settings(rule: str = "gumbel", simulations: int = 16) -> SearchSettings:
    return SearchSettings(simulations, rule=RULES[rule])


# ---------------------------------------------------------------------------------------------------------------- plans
@pytest.mark.parametrize("rule", RULES)
def test_the_best_action_is_found_against_the_policy_and_its_value_is_known(rule: str) -> None:
    model = Corridor(steepness=1.0)
    action, record, found = planner(model).plan(seen(EVERYWHERE), settings(rule, 64), explore=False)
    assert action.argmax(-1).tolist() == [RIGHT] * 5
    assert (record.policy[:, RIGHT] > 0.8).all()
    best = best_values()
    assert (record.value < best + 1e-4).all()
    assert (record.value > 0.7 * best).all()
    assert (found.q[:, RIGHT] > found.q[:, LEFT]).all()


def test_without_values_a_search_sees_as_far_as_it_goes() -> None:
    action, _, found = planner(Corridor(knowing=False)).plan(seen([4, 3, 0]), settings("gumbel", 32), explore=False)
    assert action.argmax(-1).tolist()[:2] == [RIGHT, RIGHT]
    assert (found.q[0] > found.q[1]).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("horizon", [1, 3])
def test_sums_of_rewards_plan_as_rewards_one_by_one_do(rule: str, horizon: int) -> None:
    torch.manual_seed(0)
    noise = Noise(torch.rand(5, 2).softmax(-1), torch.randn(5, 2))
    found = [
        planner(Corridor(horizon, knowing=False)).plan(seen(EVERYWHERE), settings(rule, 20), explore=True, noise=noise)
        for horizon in (None, horizon)
    ]
    (_, single, plain), (_, summed, by_sums) = found
    assert (plain.depth > 3).all()  # so that memories were emptied
    assert torch.equal(plain.visits, by_sums.visits)
    torch.testing.assert_close(summed.pack(), single.pack(), rtol=1e-5, atol=1e-5)


def test_the_other_players_gains_are_losses() -> None:
    step = planner(discount=-GAMMA).step(
        {"latent": torch.zeros(2, 1), "memory": torch.zeros(2, 0)}, torch.tensor([LEFT, RIGHT]), None
    )
    assert step.discount.tolist() == pytest.approx([-GAMMA] * 2)


def test_masked_actions_are_not_taken_and_rows_without_a_future_or_numbers_have_an_empty_record() -> None:
    model = Corridor()
    model.broken = 0
    valid = torch.tensor([[True, False], [True, True], [True, True], [False, False]])
    finished = torch.tensor([False, False, False, True])
    action, record, found = planner(model).plan(
        seen([4, 4, 0, 4]), settings(simulations=3), explore=True, valid=valid, finished=finished
    )
    assert action[0].tolist() == [1.0, 0.0]
    assert record.policy[0].tolist() == [1.0, 0.0]
    assert found.failed.tolist() == [False, False, True, False]
    assert record.known.tolist() == [True, True, False, False]
    assert record.value[2:].tolist() == [0.0, 0.0]
    assert record.pack().isfinite().all()
    with pytest.raises(ValueError, match="row 3 of the root has no valid slot"):
        planner(model).plan(seen([4, 4, 0, 4]), settings(simulations=3), explore=True, valid=valid)


# -------------------------------------------------------------------------------------------------------------- records
BOX = gym.spaces.Box(-1.0, 1.0, (2,))


def trunk(width: int, units: int) -> DenseStack:
    return DenseStack(width, units, 1)


def kinds_of_slots() -> dict[str, ActionSlots]:
    box, many = TanhNormalActor(BOX, 1, trunk, 2), DiscreteActor(gym.spaces.Discrete(5), 1, trunk, 2)
    thin = TanhNormalActor(gym.spaces.Box(-1.0, 1.0, (1,)), 1, trunk, 2)
    return {
        "numbered": NumberedSlots(two_steps()),
        "distinct": DistinctSlots(many, 3),
        "drawn": SampledSlots(box, 4),
        "drawn thin": SampledSlots(thin, 4),
    }


@pytest.mark.parametrize(
    ("kind", "width", "shape"),
    [("numbered", 4, None), ("distinct", 8, (3,)), ("drawn", 14, (4, 2)), ("drawn thin", 10, (4, 1))],
)
def test_a_record_that_is_stored_comes_back(kind: str, width: int, shape: tuple[int, ...] | None) -> None:
    slots = kinds_of_slots()[kind]
    torch.manual_seed(0)
    made = Record(
        torch.rand(6, 2, slots.count), torch.randn(6, 2), torch.randn(6, 2),
        None if shape is None else torch.randint(5, (6, 2, *shape)).float(),
    )  # fmt: skip
    stored = made.pack()
    assert stored.shape == (6, 2, width) == (6, 2, record_width(slots))
    for found, expected in zip(unpack(stored, slots), made, strict=True):
        assert found is expected is None or torch.equal(found, expected)
    nothing = unpack(torch.zeros(3, width), slots)
    assert not nothing.known.any()


def test_records_are_those_of_the_row_before_and_what_is_found_anew_takes_their_place() -> None:
    torch.manual_seed(0)
    slots = kinds_of_slots()["drawn"]
    stored = torch.rand(5, 3, 14)
    by_row = rows_of(unpack(stored, slots))
    assert torch.equal(by_row.pack()[:-1], stored[1:])
    assert not by_row.pack()[-1].any()
    again = unpack(torch.rand(2, 2, 14), slots)
    again.policy[1, 0] = 0.0  # this search failed
    packed, fresh = renewed(by_row, again).pack(), again.pack()
    expected = by_row.pack()
    for row, sequence in ((0, 0), (0, 1), (1, 1)):
        expected[row, sequence, :5] = fresh[row, sequence, :5]
        expected[row, sequence, 6:] = fresh[row, sequence, 6:]  # but for the log-probability of what was done
    assert torch.equal(packed, expected)


class Drawn(Corridor):
    """The corridor, walked by drawn numbers: right where the first one is positive."""

    actor: Any

    def step(self, latent: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        number = (action[:, 0] > 0).long()
        return super().step(latent, memory, torch.nn.functional.one_hot(number, 2))

    def predict(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        mean_and_std = torch.tensor([0.1, -0.2, 0.5, 0.7])
        return mean_and_std.expand(len(latent), 4), super().predict(latent)[1]


def test_the_log_probability_is_that_of_the_chosen_action() -> None:
    noise = Noise(torch.zeros(5, 2), torch.zeros(5, 2))
    action, record, _ = planner(Corridor(steepness=0.3)).plan(seen(EVERYWHERE), settings(), explore=True, noise=noise)
    torch.testing.assert_close(record.log_prob, (record.policy * action).sum(-1).log())
    slots = kinds_of_slots()["drawn"]
    action, record, found = planner(Drawn(), slots).plan(seen(EVERYWHERE), settings(), explore=True)
    stats = torch.tensor([0.1, -0.2, 0.5, 0.7])
    chosen = record.policy[torch.arange(5), found.slot]
    expected = slots.actor.log_prob(stats, action) + (4 * chosen).log()  # each of four draws counts a quarter
    torch.testing.assert_close(record.log_prob, expected)


def test_of_drawn_actions_it_is_that_among_those_that_may_be_taken() -> None:
    """A slot for each action is drawn for certain, so that only the search's choice is left."""
    valid = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    finished = torch.tensor([False, False, False, True])
    made = planner(Corridor(steepness=2.0), DistinctSlots(two_steps(), 2))
    _, record, found = made.plan(seen([1, 2, 3, 4]), settings(), explore=True, valid=valid, finished=finished)
    chosen = record.policy.gather(1, found.slot.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(record.log_prob[:3], chosen[:3].log())
    assert record.log_prob[1:].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


# -------------------------------------------------------------------------------------------------------- searched anew
@pytest.mark.parametrize("kind", ["numbered", "drawn"])
@pytest.mark.parametrize("rule", RULES)
def test_rows_of_sequences_are_searched_as_each_by_itself(
    rule: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    slots = kinds_of_slots()[kind]
    made = planner(Corridor(knowing=False) if kind == "numbered" else Drawn(knowing=False), slots)
    places = torch.tensor([[0, 3], [1, 4], [2, 4]])  # three rows of two sequences
    noise = Noise(torch.rand(6, slots.count).softmax(-1), torch.randn(6, slots.count))
    drawn = torch.randn(11, 6, 4, 2)  # of the root and of ten simulations
    calls: list[Tensor] = []

    def same_draws(rows: int, *_: Any) -> Tensor | None:
        calls.append(drawn[len(calls)])
        return calls[-1] if rows == 6 else calls[-1][single : single + 1]

    if kind == "drawn":
        monkeypatch.setattr(slots, "noise", same_draws)
    finished = torch.tensor([[False, False], [False, False], [False, True]])
    together = made.plan_rows(seen(places), settings(rule, 10), None, finished, noise)
    assert together.policy.shape == (3, 2, slots.count)
    for single, place in enumerate(places.flatten().tolist()):
        calls.clear()
        own = Noise(*(x if x is None else x[single : single + 1] for x in noise))
        _, record, _ = made.plan(
            seen([place]), settings(rule, 10), explore=True, finished=finished.flatten()[single : single + 1], noise=own
        )
        torch.testing.assert_close(together.pack().flatten(0, 1)[single], record.pack()[0], rtol=0, atol=1e-6)
    assert together.known.tolist() == (~finished).tolist()
