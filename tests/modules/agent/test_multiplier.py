from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from modules.agent.multiplier import LARGEST, Constraint, Multiplier


def test_each_multiplier_grows_where_its_own_constraint_is_violated_and_falls_where_not() -> None:
    """Adam's first step is the learning rate against the sign of the gradient, which is multiplier times slack."""
    multiplier = Multiplier([2.0, 2.0], 0.125)
    found = multiplier.update(torch.tensor([-0.5, 3.0]))
    log = math.log(2.0)
    torch.testing.assert_close(found, torch.tensor([log + 0.125, log - 0.125]).exp())
    assert not found.requires_grad
    state = multiplier.optimizer.state[multiplier.log_value]
    torch.testing.assert_close(state["exp_avg"], torch.tensor([-0.1, 0.6]))


def test_no_multiplier_grows_beyond_the_largest() -> None:
    multiplier = Multiplier([1.0, 1.0], 100.0)
    torch.testing.assert_close(multiplier.update(torch.tensor([-1.0, 1.0])), torch.tensor([LARGEST, 0.0]))


def test_no_multiplier_falls_below_the_least_and_each_starts_by_itself() -> None:
    multiplier = Multiplier([0.5, 3.0], 1.0, least=0.25)
    torch.testing.assert_close(multiplier.log_value.detach().exp(), torch.tensor([0.5, 3.0]))
    found = multiplier.update(torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.25, 3.0 / math.e]))


def test_without_a_learning_rate_it_stays() -> None:
    multiplier = Multiplier([0.25], 0.0)
    torch.testing.assert_close(multiplier.update(torch.tensor([-7.0])), torch.tensor([0.25]))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr", -1e-4, r"multiplier\.lr must lie in \[0, 1000\], got -0.0001"),
        ("lr", math.nan, r"multiplier\.lr must lie in"),
        ("lr", "fast", r"multiplier\.lr must be float, got 'fast'"),
        ("threshold", math.inf, r"multiplier\.threshold must lie in"),
        ("threshold", "auto", r"multiplier\.threshold must be float or None, got 'auto'"),
    ],
)
def test_what_is_no_constraint_is_refused_by_its_name(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        Constraint(**{name: value})
