"""The rule that ends what has stopped getting better."""

from __future__ import annotations

import math

import pytest
import torch

from modules.agent.plateau import Plateau, held_out_mean


def test_it_is_reached_after_so_many_looks_in_a_row_without_a_new_best_one() -> None:
    plateau = Plateau(2)
    losses = [3.0, 2.0, 2.5, 1.0, 1.0, math.nan]
    assert [plateau.look(loss, 10 * i) for i, loss in enumerate(losses)] == [
        (True, False), (True, False), (False, False), (True, False), (False, False), (False, True)
    ]  # fmt: skip
    assert plateau.reached_at == 50
    assert plateau.look(0.5, 60) == (True, True)
    assert plateau.reached_at == 50  # once reached, for good


@pytest.mark.parametrize("loss", [0.1, 1 / 3, 0.7, -2.3])
def test_an_equal_loss_is_no_improvement_whatever_float32_makes_of_it(loss: float) -> None:
    plateau = Plateau(2)
    assert [plateau.look(loss, i) for i in range(3)] == [(True, False), (False, False), (False, True)]


def test_a_copy_goes_on_where_it_was() -> None:
    plateau, other, third = Plateau(2), Plateau(2), Plateau(2)
    plateau.look(1.0, 0)
    plateau.look(2.0, 1)
    other.load_state_dict(plateau.state_dict())
    third.take_over({f"rule.{name}": x for name, x in plateau.state_dict().items()}, "rule")
    for each in (plateau, other, third):
        assert each.look(1.5, 2) == (False, True)
        assert each.reached_at == 2
    again = Plateau(2)
    again.load_state_dict(plateau.state_dict())
    assert again.reached_at == 2


def test_no_number_at_all_is_no_improvement() -> None:
    plateau = Plateau(1)
    assert plateau.look(math.nan, 4) == (False, True)
    assert torch.isinf(plateau.best)


def test_the_held_out_loss_is_the_mean_over_living_members() -> None:
    values = {"seed=0": 1.0, "seed=1": math.nan, "seed=2": 4.0}
    metrics = {f"validation/{member}/loss": torch.tensor(x) for member, x in values.items()}
    others = {"validation/seed=0/other_loss": torch.tensor(9.0), "test/seed=0/loss": torch.tensor(9.0)}
    assert held_out_mean(metrics | others, "loss") == 2.5
    assert held_out_mean({"validation/loss": torch.tensor(3.0)}, "loss") == 3.0
    assert math.isnan(held_out_mean({"validation/loss": torch.tensor(math.nan)}, "loss"))
