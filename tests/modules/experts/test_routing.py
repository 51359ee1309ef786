"""Routing formulas against closed forms, slow loops and counting."""

import math

import pytest
import torch
from torch.distributions import Normal

from modules.experts.routing import (
    Rows,
    bias_step,
    choice_weights,
    count_rows,
    expert_choice,
    expert_share,
    importance,
    limit_rows,
    noise_deviation,
    router_z_loss,
    routing_entropy,
    sort_by_expert,
    switch_loss,
    threshold_rows,
    token_rows,
    top_indices,
    visit_probability,
)
from modules.functional.statistics import squared_variation


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (2, 2), (5, 1), (5, 2), (5, 3), (5, 4), (40, 2), (300, 3)])
def test_top_indices_are_those_of_topk(experts, k):
    scores = torch.randn(97, experts, generator=torch.Generator().manual_seed(experts))
    assert torch.equal(top_indices(scores, k), scores.topk(k, dim=1).indices)


def test_ties_still_give_different_experts():
    assert [sorted(row) for row in top_indices(torch.zeros(4, 6), 2).tolist()] == [[0, 1]] * 4


def test_noise_has_the_softplus_of_its_logits_as_deviation():
    raw = torch.linspace(-30, 60, 1001, requires_grad=True)
    expected = torch.nn.functional.softplus(raw) + 0.01
    torch.testing.assert_close(noise_deviation(raw), expected, atol=1e-6, rtol=1e-6)
    (mine,) = torch.autograd.grad(noise_deviation(raw).sum(), raw)
    torch.testing.assert_close(mine, torch.sigmoid(raw), atol=1e-6, rtol=1e-6)


def test_weights_are_a_softmax_over_the_chosen_only():
    logits = torch.tensor([[0.0, math.log(3.0), 50.0]], dtype=torch.float64)
    torch.testing.assert_close(choice_weights(logits, torch.tensor([[0, 1]])), torch.tensor([[0.25, 0.75]]).double())


def test_a_single_choice_is_weighted_by_its_share_among_all():
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    weight = choice_weights(logits, torch.tensor([[1]]))
    torch.testing.assert_close(weight, torch.tensor([[0.75]]).double())
    (gradient,) = torch.autograd.grad(weight.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-0.1875, 0.1875]]).double())  # p (1 - p)


def test_rows_of_tokens():
    chosen, weights = torch.tensor([[2, 0], [1, 2]]), torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    rows = token_rows(chosen, weights)
    assert rows.token.tolist() == [0, 0, 1, 1]
    assert rows.expert.tolist() == [2, 0, 1, 2]
    assert rows.offsets.tolist() == [0, 2]
    assert rows.complete
    torch.testing.assert_close(importance(rows, 4), torch.tensor([0.1, 0.6, 1.3, 0.0]))
    assert count_rows(rows.expert, 4).tolist() == [1, 1, 2, 0, 0]


@pytest.mark.parametrize("experts", [4, 300])
def test_sorting_keeps_the_order_of_tokens_and_puts_dropped_rows_last(experts):
    expert = torch.tensor([3, experts, 0, 3, 2, 0])
    order, starts = sort_by_expert(expert, experts)
    assert order.tolist() == [2, 5, 4, 0, 3, 1]
    assert starts[:5].tolist() == [0, 2, 2, 3, 5]
    assert starts[-1] == 5
    assert len(starts) == experts + 1


def test_capacity_drops_the_latest_rows_of_a_full_expert():
    rows = token_rows(torch.tensor([[0], [1], [0], [0], [0], [0]]), torch.full((6, 1), 0.5))
    limited = limit_rows(rows, 2, 1.0)  # 6 rows, 2 experts: three each
    assert limited.expert.tolist() == [0, 1, 0, 0, 2, 2]
    assert limited.weight.tolist() == [0.5, 0.5, 0.5, 0.5, 0.0, 0.0]
    assert not limited.complete
    assert count_rows(limited.expert, 2).tolist() == [3, 1, 2]


# --------------------------------------------------------------------------------------------------------- smooth load
def visits(clean, noisy, deviation, k):
    return visit_probability(clean, noisy, deviation, noisy.topk(min(k + 1, noisy.shape[1])).indices, k)


def draw(n=4096, experts=12, spread=0.5):
    g = torch.Generator().manual_seed(3)
    clean = spread * torch.randn(1, experts, generator=g) + 0.3 * torch.randn(n, experts, generator=g)
    deviation = noise_deviation(0.5 * torch.randn(n, experts, generator=g))
    return clean, clean + deviation * torch.randn(n, experts, generator=g), deviation


@pytest.mark.parametrize("k", [1, 2, 4, 11])
def test_smooth_load_sums_to_k_per_token(k):
    clean, noisy, deviation = draw()
    total = visits(clean, noisy, deviation, k).sum()
    assert total == pytest.approx(k * len(clean), rel=0.03)


def test_probabilities_as_thresholds_would_be_noticed():
    """Thresholds behind a softmax against logits before it: the load then adds up to several times too much."""
    clean, noisy, deviation = draw()
    wrong = visits(clean, noisy.softmax(1), deviation, 2).sum()
    assert abs(wrong / (2 * len(clean)) - 1) > 0.5


def test_smooth_load_is_the_chance_of_a_visit_when_the_own_noise_is_drawn_again():
    g = torch.Generator().manual_seed(0)
    clean, deviation = torch.randn(1, 5, generator=g), torch.rand(1, 5, generator=g) + 0.3
    noisy = clean + deviation * torch.randn(1, 5, generator=g)
    for i in range(5):
        redrawn = noisy.repeat(200_000, 1)
        redrawn[:, i] = clean[0, i] + deviation[0, i] * torch.randn(200_000, generator=g)
        share = (redrawn.topk(2, dim=1).indices == i).any(1).float().mean()
        assert visits(clean, noisy, deviation, 2)[0, i] == pytest.approx(share.item(), abs=0.005)


def test_smooth_load_of_one_token_by_hand():
    clean, noisy = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.5, 1.0, 2.5]])
    deviation = torch.tensor([[1.0, 2.0, 0.5]])
    # k = 1: the best, expert 2, must beat 1.0; the others must beat 2.5.
    expected = Normal(0.0, 1.0).cdf(torch.tensor([[-2.5, (1.0 - 2.5) / 2.0, (2.0 - 1.0) / 0.5]]))
    torch.testing.assert_close(visits(clean, noisy, deviation, 1), expected)


def test_everything_is_visited_when_k_is_all():
    clean, noisy, deviation = draw(8, 3)
    assert visits(clean, noisy, deviation, 3).eq(1).all()


def test_smooth_load_has_a_gradient():
    clean, noisy, deviation = draw(64, 6)
    clean.requires_grad_()
    (gradient,) = torch.autograd.grad(squared_variation(visits(clean, noisy, deviation, 2).sum(0)), clean)
    assert gradient.abs().sum() > 0


# -------------------------------------------------------------------------------------------------------------- losses
def test_switch_loss_is_one_when_even_and_counts_full_probabilities():
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 3.0, -2.0], [1.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(switch_loss(logits, torch.tensor([5, 5, 5, 5])), torch.tensor(1.0))
    collapsed = switch_loss(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([2, 0]))
    assert collapsed == pytest.approx(2 * torch.sigmoid(torch.tensor(9.0)).item())


def test_z_loss():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    expected = (math.log(2.0) ** 2 + math.log(4.0) ** 2) / 2
    torch.testing.assert_close(router_z_loss(logits), torch.tensor(expected))


def test_bias_step_lifts_the_underused_without_drift():
    step = bias_step(torch.tensor([10, 0, 5, 5]), 0.1)
    torch.testing.assert_close(step, torch.tensor([-0.1, 0.1, 0.0, 0.0]))
    assert bias_step(torch.tensor([9, 1, 1, 1]), 0.1).sum().abs() < 1e-7


def test_entropy():
    assert routing_entropy(torch.zeros(3, 8)) == pytest.approx(math.log(8))
    assert routing_entropy(torch.tensor([[80.0, 0.0]])) == pytest.approx(0.0, abs=1e-6)


def test_losses_of_no_tokens_are_finite():
    empty = torch.zeros(0, 4)
    assert switch_loss(empty, torch.zeros(4, dtype=torch.int64)) == 0
    assert router_z_loss(empty) == 0
    assert squared_variation(torch.zeros(4)) == 0


# ------------------------------------------------------------------------------------------------------- expert choice
def test_experts_take_their_best_tokens():
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    rows, lowest = expert_choice(scores, 2)
    pairs = sorted(zip(rows.token.tolist(), rows.expert.tolist(), strict=True))
    assert pairs == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert rows.token.tolist() == sorted(rows.token.tolist())
    torch.testing.assert_close(rows.weight, scores[rows.token, rows.expert])
    torch.testing.assert_close(lowest, torch.tensor([0.8, 0.4]))


def test_experts_may_share_or_leave_tokens():
    scores = torch.tensor([[0.5, 0.5], [0.1, 0.1], [0.4, 0.4]])
    rows, _ = expert_choice(scores, 2)
    assert rows.token.tolist() == [0, 0, 2, 2]
    assert rows.offsets.tolist() == [0, 2, 2]
    assert count_rows(rows.expert, 2).tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "share"), [(10, 4, 2, 5), (10, 3, 1, 4), (1, 8, 2, 1), (3, 8, 8, 3)]
)
def test_share_of_each_expert(tokens, experts, k, share):
    assert expert_share(tokens, experts, k) == share


def test_thresholds_take_each_token_by_itself():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.45, 0.4]])
    rows = threshold_rows(scores, torch.tensor([0.4, 0.4]))
    assert rows.expert.view(3, 2).tolist() == [[0, 2], [2, 1], [0, 1]]
    assert not rows.complete
    assert isinstance(rows, Rows)
    alone = threshold_rows(scores[1:2], torch.tensor([0.4, 0.4]))
    assert alone.expert.tolist() == rows.expert.view(3, 2)[1].tolist()
