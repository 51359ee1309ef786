"""Gradients through a memory that many steps read and write, without a copy of it for each step.

Automatic differentiation keeps the matrix of every step that reads it. But each write changes it by products of two
vectors alone, which can be taken back: only one matrix is kept, with the vectors of each step, and the backward pass
undoes write after write, so that it has the matrix that each step read, and one gradient of it beside.

The operations of a window hang together by a token that each takes and gives on, in the place of the matrix: automatic
differentiation then goes through them in the reverse of their order, and the token's gradient is the matrix's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from modules.functional.external_memory import plain_write, read_weights


class Change(ABC):
    """A change of the matrix `[B, R, D]`, in place, that can be taken back."""

    @abstractmethod
    def do(self, matrix: Tensor) -> None:
        """Change the matrix."""

    @abstractmethod
    def undo(self, matrix: Tensor) -> None:
        """Take the change back."""

    @abstractmethod
    def pull(self, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """From the gradient by the matrix after the change, those by the matrix before it and by what was written."""


class Reset(Change):
    """Zeros in the memories of some rows of the batch; what they held is kept, as nothing else can tell it.

    Args:
        first: `[B]` bool.
    """

    def __init__(self, first: Tensor) -> None:
        self.index = first.nonzero().squeeze(-1)

    def do(self, matrix: Tensor) -> None:
        """Change the matrix, and keep what was in its place."""
        self.held = matrix[self.index]
        matrix[self.index] = 0.0

    def undo(self, matrix: Tensor) -> None:
        """Put back what was kept."""
        matrix[self.index] = self.held

    def pull(self, gradient: Tensor) -> tuple[Tensor, None]:
        """Nothing before a reset matters after it."""
        return gradient.index_fill(0, self.index, 0.0), None


class Write(Change):
    """A write, see `modules.functional.external_memory.plain_write`; the row that it replaces is kept.

    Args:
        moment: `[B, d]`.
        written: `[B, R]` one-hot.
        retroactive: `[B, R]` weights, or None.
    """

    def __init__(self, moment: Tensor, written: Tensor, retroactive: Tensor | None) -> None:
        self.moment = moment
        self.retroactive = retroactive
        self.rows = torch.arange(len(moment), device=moment.device), written.argmax(-1)

    def do(self, matrix: Tensor) -> None:
        """Change the matrix, and keep what was in its place."""
        self.held = matrix[self.rows]
        if self.retroactive is not None:
            # In place and without a product of its own: `baddbmm` adds it to half of each row.
            self._behind(matrix).baddbmm_(self.retroactive.unsqueeze(-1), self.moment.unsqueeze(1))
            matrix[self.rows] = torch.cat([self.moment, torch.zeros_like(self.moment)], -1)
        else:
            matrix[self.rows] = self.moment

    def undo(self, matrix: Tensor) -> None:
        """Put back what was kept."""
        if self.retroactive is not None:
            self._behind(matrix).baddbmm_(self.retroactive.unsqueeze(-1), self.moment.unsqueeze(1), alpha=-1.0)
        matrix[self.rows] = self.held

    def pull(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The moment has the gradient of its row and, by their weights, of the rows that it was added to."""
        moment = gradient[self.rows][:, : self.moment.shape[-1]]
        if self.retroactive is not None:
            moment = moment + torch.bmm(self.retroactive.unsqueeze(1), self._behind(gradient)).squeeze(1)
        before = gradient.clone()
        before[self.rows] = 0.0
        return before, moment

    def _behind(self, matrix: Tensor) -> Tensor:
        """The half of each row that holds what came after its moment, as a view."""
        return matrix[:, :, self.moment.shape[-1] :]


class Tape:
    """The changes of one window, and the one matrix that they are done to.

    Args:
        matrix: `[B, R, D]` before the window; it stays as it is.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.detach().clone()
        self.changes: list[Change] = []
        self.place = 0  # changes that are done in the matrix

    def token(self) -> Tensor:
        """A tensor of the matrix's shape and of one number in memory, which stands for it in the graph."""
        return self.matrix.new_zeros(()).expand_as(self.matrix)

    def do(self, change: Change) -> None:
        """Append a change."""
        change.do(self.matrix)
        self.changes.append(change)
        self.place += 1

    def go_to(self, place: int) -> None:
        """Bring the matrix to what it was after so many changes; forward where a backward pass begins anew."""
        while self.place < place:
            self.changes[self.place].do(self.matrix)
            self.place += 1
        while self.place > place:
            self.place -= 1
            self.changes[self.place].undo(self.matrix)


class _Open(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, tape: Tape) -> Tensor:
        return tape.token()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, moment: Tensor | None, tape: Tape, change: Change) -> Tensor:
        tape.do(change)
        ctx.change = change
        return tape.token()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.change.pull(grads[0]), None, None


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, key: Tensor, sharpness: Tensor, tape: Tape) -> tuple[Tensor, Tensor, Tensor]:
        ctx.tape, ctx.place = tape, tape.place
        ctx.save_for_backward(key, sharpness)
        weights = read_weights(key, sharpness, tape.matrix)
        ctx.mark_non_differentiable(weights)
        return tape.token(), torch.bmm(weights, tape.matrix), weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.tape.go_to(ctx.place)
        with torch.enable_grad():
            key, sharpness = (x.detach().requires_grad_() for x in ctx.saved_tensors)
            matrix = ctx.tape.matrix.detach().requires_grad_()
            again = torch.bmm(read_weights(key, sharpness, matrix), matrix)
            by_key, by_sharpness, by_matrix = torch.autograd.grad(again, (key, sharpness, matrix), grads[1])
        return by_matrix.add_(grads[0]), by_key, by_sharpness, None


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, sharpness: Tensor, tape: Tape) -> tuple[Tensor, Tensor]:
        ctx.tape, ctx.place = tape, tape.place
        ctx.save_for_backward(key, sharpness)
        weights = read_weights(key, sharpness, tape.matrix)
        ctx.mark_non_differentiable(weights)
        return torch.bmm(weights, tape.matrix), weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.tape.go_to(ctx.place)
        with torch.enable_grad():
            key, sharpness = (x.detach().requires_grad_() for x in ctx.saved_tensors)
            again = torch.bmm(read_weights(key, sharpness, ctx.tape.matrix), ctx.tape.matrix)
            return *torch.autograd.grad(again, (key, sharpness), grads[0]), None


class _Close(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, tape: Tape) -> Tensor:
        return tape.matrix.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class RebuiltMatrix:
    """The matrix of a memory over a window, of which only the last is kept; its gradients are those of the plain graph.

    Args:
        matrix: `[B, R, D]` before the window.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._tape = Tape(matrix)
        self._token = _Open.apply(matrix, self._tape)

    def reset(self, first: Tensor) -> None:
        """Zeros where an episode begins, `[B]` bool."""
        if first.any():
            self._token = _Apply.apply(self._token, None, self._tape, Reset(first))

    def read(self, key: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, K, D]` read by keys, and the weights `[B, K, R]`, which have no gradient."""
        self._token, read, weights = _Read.apply(self._token, key, sharpness, self._tape)
        return read, weights

    def look(self, key: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """As `read`, with gradients by key and sharpness alone."""
        return _Look.apply(key, sharpness, self._tape)

    def write(self, moment: Tensor, written: Tensor, retroactive: Tensor | None) -> None:
        """See `modules.functional.external_memory.plain_write`; the weights have no gradient."""
        self._token = _Apply.apply(self._token, moment, self._tape, Write(moment.detach(), written, retroactive))

    def close(self) -> Tensor:
        """The matrix after the window."""
        return _Close.apply(self._token, self._tape)


class PlainMatrix:
    """The definition of `RebuiltMatrix`, in plain tensors: a matrix for each step.

    Args:
        matrix: `[B, R, D]` before the window.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix

    def reset(self, first: Tensor) -> None:
        """Zeros where an episode begins, `[B]` bool."""
        self._matrix = self._matrix * (~first).to(self._matrix.dtype).view(-1, 1, 1)

    def read(self, key: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, K, D]` read by keys, and the weights `[B, K, R]`, detached."""
        weights = read_weights(key, sharpness, self._matrix)
        return torch.bmm(weights, self._matrix), weights.detach()

    def look(self, key: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """As `read`, with gradients by key and sharpness alone."""
        matrix = self._matrix.detach()
        weights = read_weights(key, sharpness, matrix)
        return torch.bmm(weights, matrix), weights.detach()

    def write(self, moment: Tensor, written: Tensor, retroactive: Tensor | None) -> None:
        """See `modules.functional.external_memory.plain_write`."""
        self._matrix = plain_write(self._matrix, moment, written, retroactive)

    def close(self) -> Tensor:
        """The matrix after the window."""
        return self._matrix
