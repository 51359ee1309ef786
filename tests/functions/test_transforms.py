import math

import pytest
import torch

from modules.functional.transforms import (
    clip_straight_through,
    from_two_hot,
    from_unit,
    symexp,
    symlog,
    to_two_hot,
    to_unit,
)

UNEVEN = torch.tensor([-3.0, -1.0, 0.0, 0.5, 10.0])


def test_straight_through_clip_clamps_forward_and_passes_gradient() -> None:
    x = torch.tensor([-5.0, 0.5, 7.0], requires_grad=True)
    y = clip_straight_through(x, -1.0, 2.0)
    y.sum().backward()
    assert torch.equal(y.detach(), torch.tensor([-1.0, 0.5, 2.0]))
    assert torch.equal(x.grad, torch.ones(3))  # type: ignore[arg-type]


def test_unit_action_round_trip_and_corners() -> None:
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])
    assert torch.equal(to_unit(torch.stack([low, high]), low, high), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    action = torch.tensor([[0.3, 7.0]])
    torch.testing.assert_close(from_unit(to_unit(action, low, high), low, high), action)


def test_symlog_of_known_numbers_and_its_inverse() -> None:
    x = torch.tensor([-(math.e**3) + 1, -1.0, 0.0, 1e-6, math.e - 1, 1e6])
    torch.testing.assert_close(symlog(x), torch.tensor([-3.0, -math.log(2), 0.0, 1e-6, 1.0, math.log1p(1e6)]))
    torch.testing.assert_close(symexp(symlog(x)), x)


@pytest.mark.parametrize("function", [symlog, symexp])
def test_slope_at_zero_is_one(function) -> None:
    x = torch.zeros(1, requires_grad=True)
    function(x).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 1.0
    inputs = torch.tensor([-2.0, -0.3, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, inputs)


def test_two_hot_of_known_numbers() -> None:
    weights = to_two_hot(torch.tensor([[-3.0, -1.5], [0.5, 2.4], [10.0, 0.0]]), UNEVEN)
    expected = torch.tensor(
        [
            [[1.0, 0, 0, 0, 0], [0.25, 0.75, 0, 0, 0]],
            [[0, 0, 0, 1.0, 0], [0, 0, 0, 0.8, 0.2]],
            [[0, 0, 0, 0, 1.0], [0, 0, 1.0, 0, 0]],
        ]
    )
    torch.testing.assert_close(weights, expected)


def test_two_hot_has_the_number_as_its_mean_and_clips_beyond_the_bins() -> None:
    x = torch.linspace(-5, 12, 101)
    weights = to_two_hot(x, UNEVEN)
    torch.testing.assert_close(weights.sum(-1), torch.ones(101))
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(from_two_hot(weights, UNEVEN), x.clamp(-3, 10))


def test_mean_of_huge_symmetric_bins_under_equal_probabilities_is_zero() -> None:
    half = symexp(torch.linspace(0.1, 20, 127))
    bins = torch.cat([-half.flip(0), torch.zeros(1), half])
    assert from_two_hot(torch.zeros(255).softmax(-1), bins).item() == 0.0
    assert from_two_hot(torch.tensor([0.5, 0.0, 0.0, 0.0, 0.5]), UNEVEN).item() == 3.5
