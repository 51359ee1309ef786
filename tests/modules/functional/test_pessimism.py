"""Known answers for the ATAC losses, and what each silent bug would look like."""

import pytest
import torch

from modules.functional.pessimism import bellman_backup, dqra_loss, normalized_sum, relative_pessimism, with_residual


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 3.0), (0.5, 5.5), (1.0, 8.0), (4.0, 5.75)])
def test_normalized_sum_keeps_the_larger_coefficient_at_one(weight: float, expected: float) -> None:
    result = normalized_sum(torch.tensor(3.0), torch.tensor(5.0), weight)
    assert result.item() == pytest.approx(expected)


def test_normalized_sum_is_continuous_at_one_and_takes_one_weight_per_member() -> None:
    x, reg = torch.tensor([3.0, 3.0, 3.0]), torch.tensor([5.0, 5.0, 5.0])
    result = normalized_sum(x, reg, torch.tensor([1.0 - 1e-6, 1.0, 1.0 + 1e-6]))
    torch.testing.assert_close(result, torch.full((3,), 8.0), atol=1e-4, rtol=0)


def test_normalized_sum_takes_its_weight_to_the_terms_type_and_device() -> None:
    terms = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert normalized_sum(terms[0], terms[1], 0.1).item() == 0.1  # not its float32 neighbour
    assert normalized_sum(terms.float(), terms.float(), torch.ones(2, dtype=torch.float64)).dtype == torch.float32
    elsewhere = torch.zeros(2, device="meta")
    assert normalized_sum(elsewhere, elsewhere, torch.ones(2)).device == elsewhere.device


def test_normalized_sum_with_weight_zero_has_no_gradient_to_the_regularizer() -> None:
    reg = torch.tensor(5.0, requires_grad=True)
    normalized_sum(torch.tensor(3.0), reg, 0.0).backward()
    assert reg.grad is not None
    assert reg.grad.item() == 0.0


def test_descending_relative_pessimism_lowers_the_policy_and_raises_the_data() -> None:
    policy, data = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    relative_pessimism(policy, data).sum().backward()
    assert torch.equal(policy.grad, torch.ones(4))
    assert torch.equal(data.grad, -torch.ones(4))


def test_backup_stops_at_a_terminal_state_only() -> None:
    discount = 0.9 * torch.tensor([0.0, 1.0])  # terminated, then timed out
    torch.testing.assert_close(
        bellman_backup(torch.ones(2), discount, torch.full((2,), 10.0)), torch.tensor([1.0, 10.0])
    )


def test_dqra_known_answer() -> None:
    # f(s,a) = 2, f(s',a') = 3, y = 1, r = 0.5, discount = 0.5: td = (2-1)^2 = 1, residual = (2-0.5-1.5)^2 = 0
    loss = dqra_loss(
        torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.5])
    )
    torch.testing.assert_close(loss, torch.tensor([0.5]))
    # With f(s',a') = 5: residual = (2 - 0.5 - 2.5)^2 = 1, weighted 0.25 and 0.75
    loss = dqra_loss(
        torch.tensor([2.0]), torch.tensor([5.0]), torch.tensor([3.0]), torch.tensor([0.5]), torch.tensor([0.5]), 0.25
    )
    torch.testing.assert_close(loss, torch.tensor([0.75 * 1.0 + 0.25 * 1.0]))


def test_dqra_gradient_flows_through_both_places_of_the_critic_and_not_through_the_target() -> None:
    value, following, target = (torch.tensor([x], requires_grad=True) for x in (2.0, 5.0, 3.0))
    dqra_loss(value, following, target, torch.tensor([0.5]), torch.tensor([0.5])).sum().backward()
    # d/df: 0.5*2*(2-3) + 0.5*2*(2-0.5-2.5) = -1 - 1;  d/df': 0.5*2*(-1)*(-0.5) = 0.5
    torch.testing.assert_close(value.grad, torch.tensor([-2.0]))
    torch.testing.assert_close(following.grad, torch.tensor([0.5]))
    assert target.grad is None


def test_a_residual_takes_its_share_of_the_error() -> None:
    found = with_residual(torch.tensor([4.0, 4.0]), torch.tensor([8.0, 8.0]), torch.tensor([0.25, 1.0]))
    assert found.tolist() == [0.75 * 4.0 + 0.25 * 8.0, 8.0]


def test_dqra_weight_zero_is_temporal_difference_learning() -> None:
    value, following = torch.randn(8), torch.randn(8, requires_grad=True)
    loss = dqra_loss(value, following, torch.zeros(8), torch.zeros(8), torch.ones(8), 0.0)
    torch.testing.assert_close(loss, value.square())
    loss.sum().backward()
    assert torch.equal(following.grad, torch.zeros(8))  # type: ignore[arg-type]
