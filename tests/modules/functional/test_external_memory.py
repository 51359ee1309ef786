"""Reading by content, the least used row, and writing, against loops over single numbers."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.external_memory import (
    add_reads,
    least_used,
    next_trace,
    plain_write,
    read_weights,
    retroactive_weights,
    use_after_write,
)


def test_weights_are_a_softmax_of_cosines_written_as_loops() -> None:
    torch.manual_seed(0)
    key, sharpness, matrix = torch.randn(2, 3, 4), 3.0 * torch.rand(2, 3), torch.randn(2, 5, 4)
    found = read_weights(key, sharpness, matrix)
    for b in range(2):
        for head in range(3):
            scores = []
            for row in matrix[b]:
                product = sum(float(a * c) for a, c in zip(key[b, head], row, strict=True))
                scores.append(math.exp(float(sharpness[b, head]) * product / float(key[b, head].norm() * row.norm())))
            expected = [score / sum(scores) for score in scores]
            assert found[b, head].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_row_of_zeros_is_at_right_angles_to_every_key_and_has_a_finite_gradient() -> None:
    key, matrix = torch.tensor([[[2.0, 0.0]]], requires_grad=True), torch.zeros(1, 3, 2)
    matrix[0, 1] = torch.tensor([5.0, 0.0])
    matrix.requires_grad_()
    weights = read_weights(key, torch.ones(1, 1), matrix)
    e = math.e
    assert weights[0, 0].tolist() == pytest.approx([1 / (2 + e), e / (2 + e), 1 / (2 + e)], abs=1e-5)
    for gradient in torch.autograd.grad(weights[0, 0, 1], (key, matrix)):
        assert gradient.isfinite().all()


def test_rows_are_filled_in_their_order_and_then_the_least_used_is_written_again() -> None:
    usage = torch.zeros(1, 3)
    reads = torch.tensor([[[0.2, 0.5, 0.3], [0.0, 0.6, 0.4]]])
    written = []
    for _ in range(5):
        usage = add_reads(usage, reads)
        where = least_used(usage)
        written.append(int(where.argmax()))
        usage = use_after_write(usage, where)
    # Row 0 has 1 + 0.2 n, row 1 1 + 1.1 n, row 2 1 + 0.7 n reads; one that was written anew begins at 1 again.
    assert written == [0, 1, 2, 0, 0]
    assert usage[0].tolist() == pytest.approx([1.0, 1.0 + 3 * 1.1, 1.0 + 2 * 0.7])


def test_the_weights_of_a_retroactive_write_are_a_geometric_row_and_forget_what_is_overwritten() -> None:
    gamma, trace = 0.8, torch.zeros(1, 4)
    for n in range(3):
        written = torch.eye(4)[n : n + 1]
        trace = next_trace(retroactive_weights(trace, written), written, gamma)
    assert trace[0].tolist() == pytest.approx([0.2 * 0.8**2, 0.2 * 0.8, 0.2, 0.0])
    assert retroactive_weights(trace, torch.eye(4)[1:2])[0].tolist() == pytest.approx([0.2 * 0.8**2, 0.0, 0.2, 0.0])


@pytest.mark.parametrize("retroactive", [True, False])
def test_a_write_replaces_a_row_and_adds_to_others(retroactive: bool) -> None:
    torch.manual_seed(0)
    moment, width = torch.randn(2, 3), 6 if retroactive else 3
    matrix, weights = torch.randn(2, 4, width), torch.rand(2, 4)
    written = torch.eye(4)[[2, 0]]
    weights = weights * (1.0 - written)
    found = plain_write(matrix, moment, written, weights if retroactive else None)
    for b, row in ((0, 2), (1, 0)):
        for i in range(4):
            expected = torch.zeros(width) if i == row else matrix[b, i].clone()
            if i == row:
                expected[:3] = moment[b]
            elif retroactive:
                expected[3:] += weights[b, i] * moment[b]
            torch.testing.assert_close(found[b, i], expected)
