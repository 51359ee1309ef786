"""Steps of optimisers: what the rest of an update sees of the new weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modules.agent.descent import descend, descend_clipped, make_adam, make_rmsprop, reset_adam, weighted_sum


def test_autocast_sees_the_new_weights_in_the_same_update() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    optimizer = make_adam(layer.parameters(), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        descend(optimizer, before.float().square().sum())
        after = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after, layer(x))
    assert not torch.equal(after, before)


# -------------------------------------------------------------------------------------------------------- known answers
def adam_by_hand(values: list[float], gradients: list[list[float]], lr: float, eps: float, keep: float) -> list[float]:
    """Kingma & Ba 2015, algorithm 1, number by number; `keep` is what each step leaves of a parameter beforehand."""
    first, second = [0.0] * len(values), [0.0] * len(values)
    for count, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(gradient):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g * g
            deviation = math.sqrt(second[i] / (1 - 0.999**count))
            values[i] = keep * values[i] - lr * first[i] / (1 - 0.9**count) / (deviation + eps)
    return values


def parts() -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([[0.5]]))]


def linear_loss(parameters: list[nn.Parameter], slopes: list[float]) -> torch.Tensor:
    a, b = parameters
    return slopes[0] * a[0] + slopes[1] * a[1] + slopes[2] * b.sum()


SLOPES = [[3.0, -1.0, 0.02], [0.5, 4.0, -0.3], [-2.0, 1.0, 0.1]]


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_steps_are_those_of_the_paper(decay: float) -> None:
    parameters = parts()
    optimizer = make_adam(parameters, 0.1, eps=0.01)
    for slopes in SLOPES:
        descend(optimizer, linear_loss(parameters, slopes), decay=decay)
    expected = adam_by_hand([1.0, -2.0, 0.5], SLOPES, 0.1, 0.01, 1.0 - decay)
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in parameters]), torch.tensor(expected))
    assert all(p.grad is None for p in parameters)


def test_the_gradient_of_all_parameters_together_is_cut_to_the_largest_norm() -> None:
    parameters = parts()
    optimizer = make_adam(parameters, 0.1)
    norm = descend_clipped(optimizer, linear_loss(parameters, [2.0, 3.0, 6.0]), max_norm=3.5)
    assert float(norm) == 7.0
    found = torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in parameters])
    torch.testing.assert_close(found, 0.1 * torch.tensor([1.0, 1.5, 3.0]))
    norm = descend_clipped(make_adam(parameters, 0.1), linear_loss(parameters, [0.2, 0.3, 0.6]), max_norm=3.5)
    assert float(norm) == pytest.approx(0.7)


def test_a_gradient_below_the_largest_norm_is_whole() -> None:
    parameters = parts()
    optimizer = make_adam(parameters, 0.1)
    descend_clipped(optimizer, linear_loss(parameters, [0.2, 0.3, 0.6]), max_norm=3.5)
    found = torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in parameters])
    torch.testing.assert_close(found, 0.1 * torch.tensor([0.2, 0.3, 0.6]))


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_steps_of_gradients_that_are_cut_are_those_of_the_paper(decay: float) -> None:
    parameters = parts()
    optimizer = make_adam(parameters, 0.1, eps=0.01)
    cut = [[x / max(1.0, math.hypot(*slopes)) for x in slopes] for slopes in SLOPES]
    for slopes in SLOPES:
        given = {"decay": decay} if decay else {}
        descend_clipped(optimizer, linear_loss(parameters, slopes), 1.0, **given)
    expected = adam_by_hand([1.0, -2.0, 0.5], cut, 0.1, 0.01, 1.0 - decay)
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in parameters]), torch.tensor(expected))


def test_groups_of_parameters_step_with_their_own_settings() -> None:
    parameters = parts()
    optimizer = torch.optim.Adam(
        [
            {"params": parameters[:1], "lr": 0.5, "betas": (0.5, 0.5), "eps": 0.0},
            {"params": parameters[1:], "lr": 0.125, "betas": (0.5, 0.5), "eps": 0.0},
        ]
    )
    reset_adam(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    optimizer.param_groups[0]["lr"] = 0.5
    descend(optimizer, linear_loss(parameters, [3.0, -1.0, 2.0]))
    assert parameters[0].tolist() == [0.5, -1.5]
    assert parameters[1].tolist() == [[0.25]]


def test_forgetting_clears_moments_and_counts_and_keeps_the_order_in_memory() -> None:
    parameter = nn.Parameter(torch.ones(2, 3).t())
    optimizer = make_adam([parameter], 0.1)
    descend(optimizer, parameter.sum())
    reset_adam(optimizer, 0.2)
    state = optimizer.state[parameter]
    assert {name: moment.abs().sum().item() for name, moment in state.items()} == {
        "step": 0.0,
        "exp_avg": 0.0,
        "exp_avg_sq": 0.0,
    }
    assert state["step"].shape == ()
    assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_rmsprop_is_that_of_torch_with_its_state_from_the_start() -> None:
    mine, theirs = nn.Parameter(torch.ones(2, 3).t()), nn.Parameter(torch.ones(2, 3).t())
    optimizer, other = make_rmsprop([mine], 0.1, 0.9, 1e-3), torch.optim.RMSprop([theirs], 0.1, 0.9, 1e-3)
    assert optimizer.state[mine]["square_avg"].stride() == mine.stride()
    for step in range(3):
        aim = torch.full_like(mine, float(step))
        descend(optimizer, (mine - aim).square().sum())
        other.zero_grad()
        (theirs - aim).square().sum().backward()
        other.step()
        torch.testing.assert_close(mine, theirs)
    saved = optimizer.state_dict()
    again = make_rmsprop([nn.Parameter(torch.ones(2, 3).t())], 0.7)
    again.load_state_dict(saved)
    assert again.param_groups[0]["lr"] == 0.7  # its own arguments stay
    assert torch.equal(again.state_dict()["state"][0]["square_avg"], saved["state"][0]["square_avg"])


def test_moments_are_made_where_the_parameters_are() -> None:
    parameter = nn.Parameter(torch.ones(2, device="meta"))
    optimizer = torch.optim.Adam([parameter])
    reset_adam(optimizer, 0.1)
    assert {moment.device.type for moment in optimizer.state[parameter].values()} == {"meta"}


def test_weighted_sum_names_terms_and_weights_that_miss_each_other() -> None:
    terms = {"error": torch.tensor([1.0, 2.0]), "load": torch.tensor([10.0, 0.0])}
    assert weighted_sum(terms, {"error": 1.0, "load": 0.1}).tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match=r"^there is no weight named load; known: error, laod$"):
        weighted_sum(terms, {"error": 1.0, "laod": 0.1})
    with pytest.raises(ValueError, match=r"^there is no loss named router_z; known: error, load$"):
        weighted_sum(terms, {"error": 1.0, "load": 0.1, "router_z": 0.1})
    with pytest.raises(ValueError, match=r"^there is no weight named error, load; known: none$"):
        weighted_sum(terms, {})
    with pytest.raises(ValueError, match=r"^there is no loss named b, c; known: error, load$"):
        weighted_sum(terms, {"error": 1.0, "load": 0.1, "b": 0.1, "c": 0.1})


def test_a_step_reads_gradients_of_any_strides() -> None:
    """A gradient that lies transposed in memory; the fused step by itself takes it for another one."""
    weights = torch.randn(3, 4)
    for form in (lambda w: torch.einsum("ij,ij->", w, weights), lambda w: (w.t() * weights.t().contiguous()).sum()):
        parameter = nn.Parameter(torch.zeros(3, 4))
        descend(make_adam([parameter], 0.1), form(parameter))
        torch.testing.assert_close(parameter.detach(), -0.1 * weights.sign())
