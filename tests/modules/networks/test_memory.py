"""External memory: read back, order of rows, what came after, resets, gradients, and in the place of an LSTM."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from r2d2_agents import make_agent, make_batch
from torch import Tensor

from modules.contracts import ReplayOffer
from modules.networks.memory import ExternalMemory, MemoryLSTM, MemoryState, ReadHeads

ROWS, MOMENT = 6, 3
KINDS = pytest.mark.parametrize("plain", [True, False], ids=["plain", "rebuilt"])


def filled(memory: ExternalMemory, moments: Tensor, plain: bool) -> tuple[MemoryState, list[Tensor]]:
    """The state after moments `[T, B, d]` were written, and what was read of each matrix before its write."""
    opened = memory.open(memory.initial(moments.shape[1], moments), plain)
    read = []
    for moment in moments:
        key = torch.cat([moment, torch.zeros_like(moment)], -1)[:, : memory.width].unsqueeze(1)
        read.append(opened.read(key, torch.full((len(moment), 1), 50.0))[0])
        opened.write(moment)
    return opened.close(), read


@KINDS
def test_what_was_written_is_read_back_by_its_own_half_of_the_row(plain: bool) -> None:
    memory = ExternalMemory(MOMENT, ROWS, retroactive=None)
    moments = torch.eye(3).repeat(1, 1, 1).transpose(0, 1)  # three moments at right angles, one memory
    state, read = filled(memory, moments, plain)
    assert not read[0].any()  # the memory was empty, and read before it was written
    opened = memory.open(state, plain)
    for moment in moments:
        found, weights = opened.read(moment.unsqueeze(1), torch.full((1, 1), 50.0))
        torch.testing.assert_close(found[:, 0], moment, atol=1e-4, rtol=0.0)
        assert weights.argmax(-1).item() == int(moment.argmax())


@KINDS
def test_the_second_half_of_a_row_is_the_discounted_sum_of_what_came_after(plain: bool) -> None:
    torch.manual_seed(0)
    gamma, moments = 0.7, torch.randn(ROWS, 2, MOMENT)
    state, _ = filled(ExternalMemory(MOMENT, ROWS, gamma), moments, plain)
    for t in range(ROWS):
        after = [(1.0 - gamma) * gamma ** (n - 1) * moments[t + n] for n in range(1, ROWS - t)]
        expected = sum(after, torch.zeros(2, MOMENT))
        torch.testing.assert_close(state.matrix[:, t], torch.cat([moments[t], expected], -1))


@KINDS
def test_beyond_its_rows_the_least_used_is_cleared_and_written_again(plain: bool) -> None:
    memory = ExternalMemory(MOMENT, 2, 0.5)
    moments = torch.eye(3).unsqueeze(1)
    opened = memory.open(memory.initial(1, moments), plain)
    for moment in moments[:2]:
        opened.write(moment)
    key = torch.cat([moments[0], torch.zeros(1, 3)], -1).unsqueeze(1)
    opened.read(key, torch.full((1, 1), 50.0))  # row 0 is used
    opened.write(moments[2])
    matrix, usage, trace = opened.close()
    assert matrix[0, 1].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]  # nothing of the second moment, nor of its trace
    assert matrix[0, 0].tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0, 0.5, 0.25])
    assert usage[0].tolist() == pytest.approx([2.0, 1.0], abs=1e-3)
    assert trace[0].tolist() == pytest.approx([0.125, 0.5])


@KINDS
def test_a_reset_leaves_nothing_of_the_past_in_its_row_of_the_batch_alone(plain: bool) -> None:
    torch.manual_seed(0)
    network = MemoryLSTM(2, 4, rows=ROWS, moment=MOMENT)
    x, first = torch.randn(4, 2, 2), torch.zeros(4, 2, dtype=torch.bool)
    first[2, 1] = True
    start = torch.rand(2, network.state_width)
    output, state = network(x, first, start, plain=plain)
    fresh, fresh_state = network(x[2:], first[2:], torch.zeros_like(start), plain=plain)
    torch.testing.assert_close(output[2:, 1], fresh[:, 1])
    torch.testing.assert_close(state[1], fresh_state[1])
    unbroken, _ = network(x, torch.zeros_like(first), start, plain=plain)
    torch.testing.assert_close(output[:, 0], unbroken[:, 0])
    assert not torch.allclose(output[2:, 1], unbroken[2:, 1])


@pytest.mark.parametrize("retroactive", [0.9, None])
def test_values_and_gradients_are_those_of_a_matrix_for_each_step(retroactive: float | None) -> None:
    torch.manual_seed(0)
    network = MemoryLSTM(3, 5, rows=ROWS, moment=MOMENT, heads=2, retroactive=retroactive).double()
    x, first = torch.randn(ROWS, 3, 3).double().requires_grad_(), torch.zeros(ROWS, 3, dtype=torch.bool)
    first[2, 1] = first[0, 2] = True
    start = torch.rand(3, network.state_width).double().requires_grad_()
    results = []
    for plain in (True, False):
        output, state = network(x, first, start, plain=plain)
        torch.manual_seed(1)
        loss = sum((part * torch.randn_like(part)).sum() for part in (output, state))
        results.append([output, state, *torch.autograd.grad(loss, [x, start, *network.parameters()])])
    for theirs, mine in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-10)


def test_step_by_step_it_is_what_it_is_over_a_window() -> None:
    torch.manual_seed(0)
    network = MemoryLSTM(3, 5, rows=ROWS, moment=MOMENT)
    x, first = torch.randn(ROWS, 2, 3), torch.zeros(ROWS, 2, dtype=torch.bool)
    whole, last = network(x, first, torch.zeros(2, network.state_width))
    state, outputs = torch.zeros(2, network.state_width), []
    with torch.no_grad():
        for row, begins in zip(x, first, strict=True):
            output, state = network(row.unsqueeze(0), begins.unsqueeze(0), state)
            outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs), whole)
    torch.testing.assert_close(state, last)
    assert whole.shape[-1] == network.width


def test_r2d2_learns_with_it_in_the_place_of_its_lstm() -> None:
    agent = make_agent({"memory": partial(MemoryLSTM, width=8, rows=10, moment=4)})
    assert agent.stored_width == agent.network.memory.state_width == 2 * 8 + 8 + 10 * 8 + 2 * 10
    before = [p.clone() for p in agent.network.memory.parameters()]
    batch = make_batch(agent)
    losses = [agent.update(batch).metrics["loss"].item() for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    for old, new in zip(before, agent.network.memory.parameters(), strict=True):
        assert not torch.equal(old, new)
    action, state = agent.act(torch.randn(4, 3), agent.initial_state(4), explore=True)
    assert state.memory.shape == (4, agent.stored_width)
    assert action.shape == (4,)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        ReadHeads(4, 0, ExternalMemory(3))
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        MemoryLSTM(4, 5, heads=0)
    with pytest.raises(ValueError, match=r"rows must lie in \[1, .*\], got 0"):
        ExternalMemory(3, 0)
    with pytest.raises(ValueError, match=r"retroactive must lie in \[0, 1\], got 1.5"):
        ExternalMemory(3, 4, 1.5)
    network = MemoryLSTM(2, 4, rows=3, moment=2)
    with pytest.raises(ValueError, match=r"has 3 rows, and 4 steps in one window.*set its rows to 4 or more"):
        network(torch.zeros(4, 1, 2), torch.zeros(4, 1, dtype=torch.bool), torch.zeros(1, network.state_width))
    agent = make_agent({"memory": partial(MemoryLSTM, width=8, rows=10, moment=4)})
    offer = ReplayOffer(11, burn_in=3, stride=5, prioritized=True)
    with pytest.raises(ValueError, match="11 rows, its burn-in included, and the network's memory holds 10: set"):
        agent.meet(offer)
    agent.meet(offer._replace(rows=10))
