"""Memories and values of actions: torch's own LSTM, resets, and acting step by step."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from modules.batch import SequenceBatch, Spaces
from modules.networks.blocks import DenseStack
from modules.networks.recurrent import LSTM, ActionValues, Memory, Memoryless

STEPS, ROWS, WIDTH = 7, 3, 5
SPACES = Spaces(gym.spaces.Box(-1.0, 1.0, (3,), np.float32), gym.spaces.Discrete(4, start=2))
trunk = partial(DenseStack, layers=1)


def inputs(d_in: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(STEPS, ROWS, d_in), torch.zeros(STEPS, ROWS, dtype=torch.bool)


def test_lstm_is_that_of_torch_where_nothing_resets() -> None:
    torch.manual_seed(0)
    memory, theirs = LSTM(4, WIDTH), nn.LSTM(4, WIDTH)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(memory.input.weight)
        theirs.weight_hh_l0.copy_(memory.recurrent.weight)
        theirs.bias_ih_l0.copy_(memory.input.bias)
        theirs.bias_hh_l0.zero_()
    x, no_reset = inputs()
    h, c = torch.randn(2, ROWS, WIDTH).unbind()
    output, state = memory(x, no_reset, torch.cat([h, c], -1))
    expected, (last_h, last_c) = theirs(x, (h.unsqueeze(0), c.unsqueeze(0)))
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(state, torch.cat([last_h[0], last_c[0]], -1))
    aim = torch.randn_like(output)
    mine = torch.autograd.grad((output * aim).sum(), list(memory.parameters()))
    names = (theirs.weight_ih_l0, theirs.bias_ih_l0, theirs.weight_hh_l0)
    for found, gradient in zip(mine, torch.autograd.grad((expected * aim).sum(), names), strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)


def test_lstm_equals_its_plain_loop_with_resets_and_gradients() -> None:
    memory = LSTM(4, WIDTH)
    x, is_first = inputs()
    is_first[3, 1] = is_first[0, 2] = True
    start = torch.randn(ROWS, memory.state_width, requires_grad=True)
    found, expected = ([*unroll(x, is_first, start)] for unroll in (memory, memory.plain))
    aims = [torch.randn_like(part) for part in found]
    leaves = [start, *memory.parameters()]
    grads = [
        torch.autograd.grad(sum((part * aim).sum() for part, aim in zip(parts, aims, strict=True)), leaves)
        for parts in (found, expected)
    ]
    for mine, theirs in zip([*found, *grads[0]], [*expected, *grads[1]], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_fresh_lstm_keeps_more_than_it_forgets() -> None:
    assert torch.equal(LSTM(4, WIDTH).input.bias.view(4, WIDTH)[:, 0].detach(), torch.tensor([0.0, 1.0, 0.0, 0.0]))


def test_a_span_spreads_the_times_of_forgetting() -> None:
    torch.manual_seed(0)
    memory = LSTM(4, 1000, span=32)
    bias_i, bias_f, bias_g, bias_o = memory.input.bias.detach().view(4, 1000)
    rows = 1.0 / (1.0 - torch.sigmoid(bias_f))  # that a unit keeps a value for, on average: 1 + uniform(1, 31)
    assert rows.min() >= 2.0
    assert rows.max() <= 32.0
    assert rows.mean().item() == pytest.approx(17.0, abs=0.5)
    assert torch.equal(bias_i, -bias_f)
    assert not bias_g.any()
    assert not bias_o.any()
    with pytest.raises(ValueError, match="span must be at least 3, got 2"):
        LSTM(4, 5, span=2)


def test_state_counts_as_zeros_where_an_episode_begins() -> None:
    memory = LSTM(4, WIDTH)
    x, is_first = inputs()
    is_first[3, 1] = is_first[0, 2] = True
    start = torch.randn(ROWS, memory.state_width)
    output, state = memory(x, is_first, start)
    zeros = torch.zeros_like(start)
    no_reset = torch.zeros_like(is_first)
    plain, plain_state = memory(x, no_reset, start)
    after, after_state = memory(x[3:], no_reset[3:], zeros)
    fresh, fresh_state = memory(x, no_reset, zeros)
    torch.testing.assert_close(output[:, 0], plain[:, 0])
    torch.testing.assert_close(output[:3, 1], plain[:3, 1])
    torch.testing.assert_close(output[3:, 1], after[:, 1])
    torch.testing.assert_close(output[:, 2], fresh[:, 2])
    torch.testing.assert_close(state, torch.stack([plain_state[0], after_state[1], fresh_state[2]]))


def make_rows(network: ActionValues) -> SequenceBatch:
    observation, is_first = inputs(3)
    is_first[0] = is_first[4, 1] = True
    action, reward = network.choices[torch.randint(4, (STEPS, ROWS))], torch.randn(STEPS, ROWS)
    nothing = torch.zeros_like(is_first)
    return SequenceBatch({"observation": observation}, action, reward, is_first, nothing, nothing)


def piece(rows: SequenceBatch, start: int, stop: int) -> SequenceBatch:
    return SequenceBatch({k: x[start:stop] for k, x in rows.observation.items()}, *(x[start:stop] for x in rows[1:]))


@pytest.mark.parametrize("memory", [partial(LSTM, width=WIDTH), partial(Memoryless, width=WIDTH)])
def test_unrolling_step_by_step_is_unrolling_at_once(memory: partial[Memory]) -> None:
    network = ActionValues(SPACES, trunk=trunk, units=6, memory=memory)
    rows = make_rows(network)
    whole, last = network.unroll(rows, network.initial(ROWS))
    state, steps = network.initial(ROWS), []
    for t in range(STEPS):
        features, state = network.unroll(piece(rows, t, t + 1), state)
        steps.append(features)
    torch.testing.assert_close(torch.cat(steps), whole)
    torch.testing.assert_close(state, last)


def test_previous_actions_and_rewards_count_but_not_in_first_rows() -> None:
    network = ActionValues(SPACES, trunk=trunk, units=6, memory=partial(Memoryless, width=WIDTH))
    rows = make_rows(network)
    whole, _ = network.unroll(rows, network.initial(ROWS))
    for changed in (rows._replace(previous_action=torch.full_like(rows.previous_action, 5)),
                    rows._replace(reward=rows.reward + 3.0)):  # fmt: skip
        other, _ = network.unroll(changed, network.initial(ROWS))
        same = (other == whole).all(-1)
        differs = (changed.previous_action != rows.previous_action) | (changed.reward != rows.reward)
        assert torch.equal(same, rows.is_first | ~differs)


def test_other_actions_are_refused() -> None:
    box = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    with pytest.raises(ValueError, match=r"Discrete space of actions, got Box\(-1.0, 1.0, \(2,\), float32\)"):
        ActionValues(Spaces(SPACES.observation, box))
