"""The temperature of an entropy floor, by numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch

from modules.agent.action_kinds import ActionKind, ContinuousActions, NumberedActions
from modules.agent.entropy_floor import EntropyFloor, Temperature


def make(lr: float = 0.125, **changes: Any) -> Temperature:
    """Of two policies with three action dimensions."""
    settings: dict[str, Any] = {"target": 1.0, "initial_temperature": 2.0, "log_temperature_range": (-5.0, 5.0)}
    return Temperature(EntropyFloor(**(settings | changes)), 2, ContinuousActions(3), lr)


def test_each_members_temperature_moves_against_its_own_distance_from_the_floor() -> None:
    """Adam's first step is the learning rate against the sign of the gradient, here the entropy less the floor."""
    temperature = make()
    found = temperature.update(torch.tensor([0.5, 3.0]))
    log = math.log(2.0)
    torch.testing.assert_close(found, torch.tensor([log + 0.125, log - 0.125]).exp())
    assert not found.requires_grad
    # The gradients, which Adam's averages keep a tenth and a thousandth of.
    state = temperature.optimizer.state[temperature.log_temperature]
    torch.testing.assert_close(state["exp_avg"], torch.tensor([-0.05, 0.2]))


def test_the_automatic_floor_is_minus_the_number_of_actions() -> None:
    for reduction in ("sum", "mean"):
        assert make(target="auto", reduction=reduction).target == -3.0
    assert make(target=0.25).target == 0.25


def test_the_log_temperature_stays_in_its_range() -> None:
    temperature = make(log_temperature_range=(0.6, 0.7), lr=10.0)
    torch.testing.assert_close(temperature.update(torch.tensor([0.0, 9.0])), torch.tensor([0.7, 0.6]).exp())


def test_without_a_floor_entropy_weighs_nothing_and_nothing_is_learned() -> None:
    temperature = make(target=None)
    assert temperature.update(torch.tensor([0.5, -3.0])).tolist() == [0.0, 0.0]
    torch.testing.assert_close(temperature.log_temperature.detach(), torch.full((2,), math.log(2.0)))


@pytest.mark.parametrize(("reduction", "expected"), [("sum", [[6.0], [15.0]]), ("mean", [[2.0], [5.0]])])
def test_the_dimensions_of_an_action_are_reduced(reduction: str, expected: list[list[float]]) -> None:
    log_prob = torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]])
    assert make(target=0.5, reduction=reduction).reduce(log_prob).tolist() == expected


def test_the_value_is_that_of_the_last_step() -> None:
    temperature = make()
    assert temperature.value().tolist() == [2.0, 2.0]
    found = temperature.update(torch.tensor([0.5, 3.0]))
    assert torch.equal(temperature.value(), found)
    assert not temperature.value().requires_grad


@pytest.mark.parametrize(
    ("kind", "reduction", "largest"),
    [
        (NumberedActions(5), "sum", math.log(5.0)),
        (NumberedActions(5), "mean", math.log(5.0)),
        (ContinuousActions(3), "sum", 3.0 * math.log(2.0)),
        (ContinuousActions(3), "mean", math.log(2.0)),
    ],
)
def test_no_floor_is_above_the_entropy_of_even_draws(
    kind: ActionKind, reduction: Literal["sum", "mean"], largest: float
) -> None:
    """The temperature would grow for ever; the automatic floor of all actions alike is the largest one."""
    assert Temperature(EntropyFloor(largest - 1e-6, reduction=reduction), 1, kind, 0.1).target == largest - 1e-6
    with pytest.raises(ValueError, match=r"entropy\.target: no policy of these actions has more than .* nats"):
        Temperature(EntropyFloor(largest + 1e-3, reduction=reduction), 1, kind, 0.1)
    if isinstance(kind, NumberedActions):
        assert Temperature(EntropyFloor(share=1.0), 1, kind, 0.1).target == largest


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_lies_between_none_and_all(share: float) -> None:
    with pytest.raises(ValueError, match=r"entropy\.share must lie in \[0, 1\]"):
        EntropyFloor(share=share)


def test_a_restart_forgets_temperature_moments_and_the_learning_rate_of_the_optimizer() -> None:
    temperature = make()
    temperature.update(torch.tensor([0.5, 3.0]))
    temperature.optimizer.param_groups[0]["lr"] = 7.0
    temperature.restart()
    torch.testing.assert_close(temperature.log_temperature.detach(), torch.full((2,), math.log(2.0)))
    assert temperature.optimizer.param_groups[0]["lr"] == 0.125
    assert not any(moment.any() for moment in temperature.optimizer.state[temperature.log_temperature].values())
