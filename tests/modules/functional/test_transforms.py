import math

import pytest
import torch

from modules.functional.transforms import (
    clip_straight_through,
    from_two_hot,
    from_unit,
    plain_project,
    project,
    signed_hyperbolic,
    signed_parabolic,
    soft_clamp,
    symexp,
    symlog,
    to_two_hot,
    to_unit,
    to_unit_range,
    value_transform,
)

UNEVEN = torch.tensor([-3.0, -1.0, 0.0, 0.5, 10.0])


def test_straight_through_clip_clamps_forward_and_passes_gradient() -> None:
    x = torch.tensor([-5.0, 0.5, 7.0], requires_grad=True)
    y = clip_straight_through(x, -1.0, 2.0)
    y.sum().backward()
    assert torch.equal(y.detach(), torch.tensor([-1.0, 0.5, 2.0]))
    assert torch.equal(x.grad, torch.ones(3))  # type: ignore[arg-type]


def test_soft_clamp_is_the_identity_inside_and_has_gradients_at_both_bounds() -> None:
    low, high = torch.tensor(-10.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    x = torch.tensor([-100.0, -5.0, 100.0])
    y = soft_clamp(x, low, high)
    inside = -10.0 + math.log1p(math.exp(0.5 - math.log1p(math.exp(5.5)) + 10.0))
    torch.testing.assert_close(y.detach(), torch.tensor([-10.0, inside, 0.5]), rtol=1e-4, atol=1e-4)
    assert inside == pytest.approx(-5.0, abs=0.02)
    assert torch.autograd.grad(y[0], low, retain_graph=True)[0].item() == pytest.approx(1.0, abs=1e-3)
    assert torch.autograd.grad(y[2], high)[0].item() == pytest.approx(1.0, abs=1e-3)


def test_unit_action_round_trip_and_corners() -> None:
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])
    assert torch.equal(to_unit(torch.stack([low, high]), low, high), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    action = torch.tensor([[0.3, 7.0]])
    torch.testing.assert_close(from_unit(to_unit(action, low, high), low, high), action)


def test_symlog_of_known_numbers_and_its_inverse() -> None:
    x = torch.tensor([-(math.e**3) + 1, -1.0, 0.0, 1e-6, math.e - 1, 1e6])
    torch.testing.assert_close(symlog(x), torch.tensor([-3.0, -math.log(2), 0.0, 1e-6, 1.0, math.log1p(1e6)]))
    torch.testing.assert_close(symexp(symlog(x)), x)


def test_signed_hyperbolic_of_known_numbers() -> None:
    x = torch.tensor([-99.0, -3.0, 0.0, 8.0, 1e6 - 1])
    torch.testing.assert_close(signed_hyperbolic(x), torch.tensor([-9.099, -1.003, 0.0, 2.008, 1999.0 - 1e-3]))
    torch.testing.assert_close(signed_hyperbolic(x, eps=1e-2)[:4], torch.tensor([-9.99, -1.03, 0.0, 2.08]))


@pytest.mark.parametrize("eps", [1e-3, 1e-2])
def test_signed_hyperbolic_and_back_in_float32(eps: float) -> None:
    size = torch.logspace(-6, 6, 2001, dtype=torch.float64)
    exact = torch.cat([-size, torch.zeros(1), size])
    x = exact.float()
    torch.testing.assert_close(signed_parabolic(signed_hyperbolic(x, eps), eps), x, rtol=1e-6, atol=0.0)
    textbook = exact.sign() * ((exact.abs() + 1.0).sqrt() - 1.0) + eps * exact
    torch.testing.assert_close(signed_hyperbolic(exact, eps), textbook, rtol=1e-9, atol=0.0)


def test_both_parts_of_a_named_transform_take_its_eps() -> None:
    # h(8) = 2 + 8 eps
    assert float(signed_parabolic(torch.tensor(2.008, dtype=torch.float64))) == pytest.approx(8.0, rel=1e-12)
    transform = value_transform("signed_hyperbolic", 0.5)
    assert float(transform.forward(torch.tensor(8.0))) == 6.0
    assert float(transform.inverse(torch.tensor(6.0))) == pytest.approx(8.0)


@pytest.mark.parametrize("eps", [1e-3, 1e-2])
def test_slopes_of_signed_hyperbolic(eps: float) -> None:
    x = torch.tensor([-50.0, -1e-3, 0.0, 0.3, 200.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(signed_hyperbolic(x, eps).sum(), x)
    torch.testing.assert_close(slope, 0.5 / (x.detach().abs() + 1.0).sqrt() + eps)
    (back,) = torch.autograd.grad(
        signed_parabolic(y := signed_hyperbolic(x, eps).detach().requires_grad_(), eps).sum(), y
    )
    torch.testing.assert_close(back, 1.0 / slope)


@pytest.mark.compile
def test_transforms_compile_into_one_graph() -> None:
    pair = value_transform("signed_hyperbolic", 1e-2)
    x = torch.linspace(-9.0, 9.0, 7)
    compiled = torch.compile(lambda x: pair.inverse(pair.forward(x)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), x)


@pytest.mark.parametrize("name", ["identity", "signed_hyperbolic", "symlog"])
def test_transforms_by_name_increase_and_come_back(name) -> None:
    pair = value_transform(name)
    x = torch.linspace(-1e3, 1e3, 4001)
    assert (pair.forward(x).diff() > 0.0).all()
    torch.testing.assert_close(pair.inverse(pair.forward(x)), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("signed_hyperbolic", 0.0), "eps must be positive"),
        (("symlog", 1e-2), "eps would be ignored"),
        (("sqrt",), "transform must be one of signed_hyperbolic, identity, symlog, got 'sqrt'"),
    ],
)
def test_mistakes_in_transforms_are_named(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        value_transform(*arguments)


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


def test_two_hot_over_601_integer_atoms() -> None:
    bins = torch.linspace(-300.0, 300.0, 601)
    weights = to_two_hot(torch.tensor([-300.0, 0.0, 12.25, 1e4]), bins)
    expected = torch.zeros(4, 601)
    expected[0, 0] = expected[1, 300] = expected[3, 600] = 1.0
    expected[2, 312], expected[2, 313] = 0.75, 0.25
    torch.testing.assert_close(weights, expected)
    assert from_two_hot(weights, bins).tolist() == [-300.0, 0.0, 12.25, 300.0]


def test_projection_of_known_numbers() -> None:
    values = torch.tensor([[-2.0, -2.0, 20.0], [0.5, 0.0, 2.4]])
    probability = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.25, 0.25]])
    expected = torch.tensor([[0.3, 0.3, 0.0, 0.0, 0.4], [0.0, 0.0, 0.25, 0.7, 0.05]])
    for projected in (project, plain_project):
        torch.testing.assert_close(projected(values, probability, UNEVEN), expected)


def test_projection_is_the_weighted_sum_of_two_hots_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    values, probability = 12.0 * torch.rand(6, 4, 9) - 3.0, torch.randn(6, 4, 9).softmax(-1)
    weights = project(values, probability, UNEVEN)
    torch.testing.assert_close(weights, plain_project(values, probability, UNEVEN))
    mean = (probability * values.clamp(max=10.0)).sum(-1)
    torch.testing.assert_close(from_two_hot(weights, UNEVEN), mean)


def test_mean_of_huge_symmetric_bins_under_equal_probabilities_is_zero() -> None:
    half = symexp(torch.linspace(0.1, 20, 127))
    bins = torch.cat([-half.flip(0), torch.zeros(1), half])
    assert from_two_hot(torch.zeros(255).softmax(-1), bins).item() == 0.0
    assert from_two_hot(torch.tensor([0.5, 0.0, 0.0, 0.0, 0.5]), UNEVEN).item() == 3.5


def test_the_unit_range_of_a_row_is_its_own_and_no_row_breaks_it() -> None:
    x = torch.tensor([[-2.0, 0.0, 6.0], [3.0, 3.0, 3.0], [0.0, 1e-7, 0.0]], requires_grad=True)
    y = to_unit_range(x)
    torch.testing.assert_close(y, torch.tensor([[0.0, 0.25, 1.0], [0.0, 0.0, 0.0], [0.0, 0.01, 0.0]]))
    (slope,) = torch.autograd.grad(y[:, 1].sum(), x)
    # (b - a) / (c - a): 1 / 8 by b, (b - c) / 64 by a, (a - b) / 64 by c.
    torch.testing.assert_close(slope[0], torch.tensor([-6.0 / 64.0, 1.0 / 8.0, -2.0 / 64.0]))
    assert slope.isfinite().all()
