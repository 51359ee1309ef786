"""External memory: a matrix of rows that is read by content, and that each step writes a row of.

Source: Wayne et al. 2018, "Unsupervised Predictive Memory in a Goal-Directed Agent" (https://arxiv.org/abs/1803.10760),
methods. Where an episode has more steps than the memory has rows, the least used row is cleared before it is written
again, with what was counted and what was traced of it; the paper's rows are enough for every episode.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import check_ranges, check_sizes, check_widths
from modules.functional.external_memory import (
    add_reads,
    least_used,
    next_trace,
    retroactive_weights,
    use_after_write,
)
from modules.functional.rank_one_tape import PlainMatrix, RebuiltMatrix
from modules.networks.blocks import glorot_uniform
from modules.networks.recurrent import LSTM, Memory

SMALL = 1 << 20
"""Bytes of the matrices of a batch below which one of them for each step costs less than their rebuilding."""

SHARPNESS = 10.0
"""Where the sharpness of a head starts."""


class MemoryState(NamedTuple):
    """Rows and counts of the memories of a batch.

    Attributes:
        matrix: `[B, R, D]` rows.
        usage: `[B, R]` how often each was written and read since it was last filled; 0 where it never was.
        trace: `[B, R]` weights of the next retroactive write; zeros where there is none.
    """

    matrix: Tensor
    usage: Tensor
    trace: Tensor


class ExternalMemory(nn.Module):
    """Rows of moments, and of what came after each.

    With a retroactive decay `gamma` a row is twice as wide as a moment: its first half is the moment itself, the second
    one `(1 - gamma) sum_n gamma^(n - 1) z_{t + n}` of the moments that were written later.

    Args:
        moment: width `d` of a moment.
        rows: number of rows `R`.
        retroactive: decay of the retroactive write; None for none, and rows as wide as a moment.

    Attributes:
        width: width `D` of a row.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, moment: int, rows: int = 64, retroactive: float | None = 0.96) -> None:
        super().__init__()
        check_widths(rows=rows, moment=moment)
        if retroactive is not None:
            check_ranges(("retroactive", retroactive, 0.0, 1.0))
        self.rows = rows
        self.moment = moment
        self.retroactive = retroactive
        self.width = moment if retroactive is None else 2 * moment

    def initial(self, batch: int, like: Tensor) -> MemoryState:
        """Empty memories of a batch, of the kind and on the device of a tensor."""
        usage = like.new_zeros(batch, self.rows)
        return MemoryState(like.new_zeros(batch, self.rows, self.width), usage, usage.clone())

    def check_length(self, steps: int) -> None:
        """Refuse a window of which a memory cannot hold all steps.

        Raises:
            ValueError: it has more steps than there are rows.
        """
        if steps > self.rows:
            raise ValueError(
                f"the memory has {self.rows} rows, and {steps} steps in one window write one each: set its rows to "
                f"{steps} or more, or shorten data.sequence_length"
            )

    def open(self, state: MemoryState, plain: bool | None = None) -> OpenMemory:
        """Begin a window.

        Args:
            state: state before it.
            plain: keep the matrix of every step, as automatic differentiation does by itself; None does so where they
                are small.
        """
        return OpenMemory(self.retroactive, state, plain)


class OpenMemory:
    """The memories of a batch within one window, step by step; `close` gives the state after it.

    Where gradients are asked for, what is kept for them is linear in the number of steps and does not grow with steps
    times rows times width, see `modules.functional.rank_one_tape`. In a graph that is compiled it is the plain form.

    Args:
        retroactive: decay of the retroactive write, or None.
        state: state before the window.
        plain: see `ExternalMemory.open`.
    """

    def __init__(self, retroactive: float | None, state: MemoryState, plain: bool | None = None) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            plain = True
        elif plain is None:  # a graph that is exported knows no sizes
            plain = state.matrix.nbytes < SMALL
        self._matrix = PlainMatrix(state.matrix) if plain else RebuiltMatrix(state.matrix)
        self._decay = retroactive
        self._usage = state.usage.detach()  # counts and weights have no gradient
        self._trace = state.trace.detach()

    def reset(self, first: Tensor) -> None:
        """Empty the memories of those rows of the batch, `[B]` bool, whose episode begins."""
        self._matrix.reset(first)
        keep = (~first).to(self._usage.dtype).unsqueeze(-1)
        self._usage = self._usage * keep
        self._trace = self._trace * keep

    def read(self, key: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """Read by content, and count it.

        Args:
            key: `[B, K, D]`.
            sharpness: `[B, K]`, not negative.

        Returns:
            `[B, K, D]`, and the weights of the rows `[B, K, R]`, which have no gradient.
        """
        read, weights = self._matrix.read(key, sharpness)
        self._usage = add_reads(self._usage, weights)
        return read, weights

    def look(self, key: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """As `read`, with gradients by key and sharpness alone: none reaches what was written."""
        read, weights = self._matrix.look(key, sharpness)
        self._usage = add_reads(self._usage, weights)
        return read, weights

    def write(self, moment: Tensor) -> None:
        """Put a moment `[B, d]` into the least used row, and add it to those of the moments before it."""
        written = least_used(self._usage)
        retroactive = None if self._decay is None else retroactive_weights(self._trace, written)
        self._matrix.write(moment, written, retroactive)
        self._usage = use_after_write(self._usage, written)
        if self._decay is not None and retroactive is not None:
            self._trace = next_trace(retroactive, written, self._decay)

    def close(self) -> MemoryState:
        """The state after the window."""
        return MemoryState(self._matrix.close(), self._usage, self._trace)


class ReadHeads(nn.Module):
    """Keys and their sharpness from the state of a network: `[B, d_in]` to `[B, K, D]` and `[B, K]`.

    The sharpness is a softplus, so that it is learned and never negative. It starts at 10: a key that points halfway at
    one row of hundreds then reads mostly that one, and the more of a single row is read, the more is learned from it.

    Args:
        d_in: width of the network's state.
        heads: number of heads `K`.
        memory: the memory that they read.

    Raises:
        ValueError: no heads.
    """

    def __init__(self, d_in: int, heads: int, memory: ExternalMemory) -> None:
        super().__init__()
        check_sizes(heads=heads)
        self.heads = heads
        self.output = glorot_uniform(nn.Linear(d_in, heads * (memory.width + 1)))
        self.output.bias.detach().unflatten(0, (heads, -1))[:, -1] = SHARPNESS

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, d_in]` to keys `[B, K, D]` and sharpness `[B, K]`."""
        each = self.output(x).unflatten(-1, (self.heads, -1))
        return each[..., :-1], F.softplus(each[..., -1])


class MemoryLSTM(Memory):
    """A long short-term memory that reads and writes an external one: it stands wherever an `LSTM` does.

    At each row `h_t = LSTM([x_t, m_{t-1}], h_{t-1})`; `h_t` says what to read, `m_t`; then `x_t`, through a linear
    layer, is written. The output is `[h_t, m_t]`. The state is `[h, c, m]` and the external memory, flat: a replay that
    stores states with its rows stores all of it.

    Args:
        d_in: width of its input.
        width: width of the LSTM.
        rows: number of rows `R` of the external memory.
        moment: width `d` of what is written.
        heads: number of heads `K` that read it.
        retroactive: decay of the retroactive write; None for none, see `ExternalMemory`.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        d_in: int,
        width: int = 512,
        rows: int = 64,
        moment: int = 16,
        heads: int = 1,
        retroactive: float | None = 0.96,
    ) -> None:
        check_sizes(heads=heads)
        external = ExternalMemory(moment, rows, retroactive)
        super().__init__(d_in, width + heads * external.width)
        self.external = external
        self.longest = rows
        self.lstm = LSTM(d_in + heads * external.width, width)
        self.write = glorot_uniform(nn.Linear(d_in, moment))
        self.heads = ReadHeads(width, heads, external)
        fresh = external.initial(1, torch.empty(0))
        self._sizes = [self.lstm.state_width, heads * external.width, *(part[0].numel() for part in fresh)]
        self._shapes = [part.shape[1:] for part in fresh]
        self.state_width = sum(self._sizes)

    def forward(self, x: Tensor, is_first: Tensor, state: Tensor, plain: bool | None = None) -> tuple[Tensor, Tensor]:
        """`[T, B, d_in]` to `[T, B, width]`, and the state after the last row; see `ExternalMemory.open` for `plain`.

        Raises:
            ValueError: there are more rows than the external memory has.
        """
        self.external.check_length(len(x))
        lstm, reads, *parts = state.split(self._sizes, -1)
        held = (part.unflatten(-1, shape) for part, shape in zip(parts, self._shapes, strict=True))
        memory = self.external.open(MemoryState(*held), plain)
        moments = self.write(x)
        outputs = []
        for row, moment, first in zip(x, moments, is_first, strict=True):
            memory.reset(first)
            reads = reads * (~first).to(reads.dtype).unsqueeze(-1)
            seen = torch.cat([row, reads], -1).unsqueeze(0)
            output, lstm = self.lstm(seen, first.unsqueeze(0), lstm)
            read, _ = memory.read(*self.heads(output[0]))
            memory.write(moment)
            reads = read.flatten(1)
            outputs.append(torch.cat([output[0], reads], -1))
        flat = (part.flatten(1) for part in memory.close())
        return torch.stack(outputs), torch.cat([lstm, reads, *flat], -1)
