"""A matrix that is rebuilt in the backward pass: values and gradients of the plain graph, and what the graph keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modules.functional.rank_one_tape import PlainMatrix, RebuiltMatrix

STEPS, BATCH, ROWS, HALF = 7, 3, 5, 2
Kind = type[PlainMatrix] | type[RebuiltMatrix]


def leaves(width: int) -> tuple[Tensor, ...]:
    """Matrix, moments, keys and sharpness of a window."""
    torch.manual_seed(0)
    shapes = (BATCH, ROWS, width), (STEPS, BATCH, HALF), (STEPS, BATCH, 2, width), (STEPS, BATCH, 2)
    drawn = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    return *(x.requires_grad_() for x in drawn[:3]), drawn[3].abs().requires_grad_()


def window(kind: Kind, matrix: Tensor, moments: Tensor, keys: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """Reads `[T, B, 2, D]` and the last matrix; each read also turns the next key, as a network would."""
    torch.manual_seed(1)
    held, reads, last = kind(matrix), [], torch.zeros_like(keys[0])
    for t in range(STEPS):
        first = torch.tensor([t == 3, False, t in (0, 4)])
        held.reset(first)
        last, weights = held.read(keys[t] + last, sharpness[t])
        assert not weights.requires_grad
        reads.append(last)
        if t == 2:
            last = held.read(keys[t] - last, sharpness[t])[0]  # twice between two writes
        if t in (1, 5):
            last = last + held.look(keys[t] + last, sharpness[t])[0]
        written = torch.eye(ROWS, dtype=torch.float64)[torch.randint(ROWS, (BATCH,))]
        retroactive = torch.rand(BATCH, ROWS, dtype=torch.float64) * (1.0 - written)
        held.write(moments[t], written, retroactive if matrix.shape[-1] > HALF else None)
    return torch.stack(reads), held.close()


@pytest.mark.parametrize("width", [2 * HALF, HALF], ids=["retroactive", "plain rows"])
def test_values_and_gradients_are_those_of_the_plain_graph_in_every_pass(width: int) -> None:
    given = leaves(width)
    results = [window(kind, *given) for kind in (PlainMatrix, RebuiltMatrix)]
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-12)

    def gradients(of: Callable[[Tensor, Tensor], Tensor], wanted: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        return [torch.autograd.grad(of(*result), wanted, retain_graph=True) for result in results]

    torch.manual_seed(2)
    aim, last = torch.randn_like(results[0][0]), torch.randn_like(results[0][1])
    # The second pass over one graph is as the first; what is asked of a part of the window does not change the others.
    for of, wanted in (
        (lambda reads, matrix: (reads * aim).sum() + (matrix * last).sum(), given),
        (lambda reads, matrix: (reads[-1] * aim[-1]).sum(), given[2:]),
        (lambda reads, matrix: (matrix * last).sum(), given[:2]),
        (lambda reads, matrix: (reads[3] * aim[3]).sum(), given),
        (lambda reads, matrix: (reads * aim).sum() + (matrix * last).sum(), given),
    ):
        for theirs, mine in zip(*gradients(of, wanted), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-10)
            assert mine.abs().sum() > 0.0


def saved(kind: Kind, steps: int) -> int:
    """Numbers that the graph of a window keeps for its backward pass, and those that the window itself holds."""
    matrix = torch.zeros(1, 50, 40, requires_grad=True)
    key, moment = torch.randn(1, 1, 40, requires_grad=True), torch.randn(1, 20, requires_grad=True)
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held, reads = kind(matrix), []
        for t in range(steps):
            reads.append(held.read(key, torch.ones(1, 1))[0])
            held.write(moment, torch.eye(50)[t : t + 1], torch.zeros(1, 50))
    return sum(found.values())


def test_the_graph_keeps_no_matrix_for_a_step() -> None:
    each = (saved(RebuiltMatrix, 20) - saved(RebuiltMatrix, 10)) / 10
    plain = (saved(PlainMatrix, 20) - saved(PlainMatrix, 10)) / 10
    assert each < 200  # keys and sharpness, of a matrix of 2000 numbers
    assert plain > 2000
