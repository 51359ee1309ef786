"""The recurrent core of two units: its definition, ticks, windows, gradients, losses, and in the place of an LSTM."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from r2d2_agents import make_agent, make_batch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from modules.networks.auxiliary_losses import collecting
from modules.networks.two_timescale import DEVIATION, TwoTimescale

STEPS, ROWS, WIDTH, LATENTS = 11, 3, 5, 4


def make(tau: int = 3, **changes: Any) -> TwoTimescale:
    torch.manual_seed(0)
    return TwoTimescale(2, WIDTH, LATENTS, tau, **changes)


def inputs(memory: TwoTimescale, steps: int = STEPS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows with two resets, a start as of zeros, and noise."""
    torch.manual_seed(1)
    is_first = torch.zeros(steps, ROWS, dtype=torch.bool)
    is_first[4:5, 1] = is_first[0, 2] = True
    return (torch.randn(steps, ROWS, 2), is_first, torch.zeros(ROWS, memory.state_width),
            torch.randn(steps, ROWS, LATENTS))  # fmt: skip


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("tau", [1, 3, 20])
def test_values_losses_and_gradients_are_those_of_the_plain_loop(tau: int, noisy: bool) -> None:
    memory = make(tau, slow_gradient=0.3)
    x, is_first, state, noise = inputs(memory)
    _, state = memory(x, is_first, state, noise)  # a start in the middle of episodes
    state, x = state.detach().requires_grad_(), x.requires_grad_()
    given = (x, is_first, state, noise) if noisy else (x, is_first, state)
    with collecting(memory) as auxiliary:
        output, last = memory(*given)
    other, other_last, kl, slow_kl = memory.plain(*given)
    found = [output, last, auxiliary.losses["kl"], auxiliary.losses["slow_kl"]]
    expected = [other, other_last, kl.mean(), slow_kl.mean()]
    leaves = [x, state, *memory.parameters()]
    torch.manual_seed(2)
    aims = [torch.randn_like(part) for part in found]
    for parts in (found, expected):
        loss = sum((part * aim).sum() for part, aim in zip(parts, aims, strict=True))
        parts += torch.autograd.grad(loss, leaves)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def slow_states(memory: TwoTimescale, x: Tensor, is_first: Tensor, state: Tensor) -> Tensor:
    """`[T, B, W]` output of the slow unit behind each row, seen one row at a time."""
    found = []
    for row, first in zip(x, is_first, strict=True):
        _, state = memory(row.unsqueeze(0), first.unsqueeze(0), state)
        found.append(state.split([*[WIDTH] * 4, LATENTS, 1], -1)[2])
    return torch.stack(found)


def test_the_slow_unit_ticks_at_the_first_row_of_an_episode_and_every_tau_rows_from_there() -> None:
    memory = make(3)
    x, is_first, state, _ = inputs(memory)
    with torch.no_grad():
        slow = slow_states(memory, x, is_first, state)
    changed = (slow[1:] != slow[:-1]).any(-1)
    ticks = [[t + 1 for t in range(STEPS - 1) if changed[t, b]] for b in range(ROWS)]
    assert ticks == [[3, 6, 9], [3, 4, 7, 10], [3, 6, 9]]  # the second episode of row 1 begins at 4


def test_a_slow_unit_of_tau_1_ticks_at_every_row() -> None:
    memory = make(1)
    x, is_first, state, _ = inputs(memory)
    with torch.no_grad():
        slow = slow_states(memory, x, is_first, state)
    assert (slow[1:] != slow[:-1]).any(-1).all()


def test_windows_one_behind_the_other_are_one_long_window() -> None:
    memory = make(4)
    x, is_first, start, noise = inputs(memory)
    whole, last = memory(x, is_first, start, noise)
    state, pieces = start, []
    for begin, end in ((0, 1), (1, 6), (6, STEPS)):  # cut where nothing ticks
        output, state = memory(x[begin:end], is_first[begin:end], state, noise[begin:end])
        pieces.append(output)
    torch.testing.assert_close(torch.cat(pieces), whole)
    torch.testing.assert_close(state, last)
    assert whole.shape == (STEPS, ROWS, memory.width)


def test_an_episode_knows_nothing_of_the_one_before() -> None:
    memory = make()
    x, is_first, start, noise = inputs(memory)
    output, state = memory(x, is_first, start + 1.0, noise)
    fresh, fresh_state = memory(x[4:], is_first[4:], start, noise[4:])
    torch.testing.assert_close(output[4:, 1], fresh[:, 1])
    torch.testing.assert_close(state[1], fresh_state[1])


def test_losses_are_divergences_of_torchs_own_normals_the_second_one_at_ticks_alone() -> None:
    memory = make(3)
    for head in (memory.posterior, memory.prior):  # constant distributions
        head.weight.detach().zero_()
    means, deviations = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 0.2])
    for head, mean, deviation in zip((memory.posterior, memory.prior), means, deviations, strict=True):
        head.bias.detach()[:LATENTS] = mean
        head.bias.detach()[LATENTS:] = torch.log(torch.expm1(deviation - 1e-3))
    x, is_first, state, noise = inputs(memory)
    with collecting(memory) as auxiliary:
        memory(x, is_first, state, noise)

    def normal(mean: Tensor | float, deviation: Tensor | float) -> Independent:
        return Independent(Normal(torch.full((LATENTS,), float(mean)), torch.full((LATENTS,), float(deviation))), 1)

    fast, slow = (normal(*pair) for pair in zip(means, deviations, strict=True))
    ticks = 4 + 5 + 4  # of 33 rows: 0, 3, 6, 9, and one more where an episode begins
    towards = kl_divergence(slow, normal(0.0, DEVIATION)) * ticks / (STEPS * ROWS)
    assert auxiliary.losses["kl"].item() == pytest.approx(kl_divergence(fast, slow).item(), rel=1e-5)
    assert auxiliary.losses["slow_kl"].item() == pytest.approx(towards.item(), rel=1e-5)
    assert auxiliary.weights == {"kl": 1e-3, "slow_kl": 1e-4}


def test_both_units_start_with_a_deviation_of_a_tenth() -> None:
    memory = make()
    _, _, start, noise = inputs(memory)
    x, is_first = torch.zeros(1, ROWS, 2), torch.ones(1, ROWS, dtype=torch.bool)
    mean, _ = memory(x, is_first, start)
    drawn, _ = memory(x, is_first, start, noise[:1])
    torch.testing.assert_close(drawn - mean, 0.1 * noise[:1], rtol=1e-2, atol=1e-3)
    with collecting(memory) as auxiliary:
        memory(x, is_first, start)
    assert auxiliary.losses["slow_kl"].item() == pytest.approx(0.0, abs=1e-6)


def test_a_span_spreads_the_times_of_forgetting_of_both_units_in_their_own_ticks() -> None:
    torch.manual_seed(0)
    memory = TwoTimescale(2, 1000, LATENTS, span=32)
    for layer in (memory.input, memory.slow):
        bias_i, bias_f, *_ = layer.bias.detach().view(4, 1000)
        ticks = 1.0 / (1.0 - torch.sigmoid(bias_f))
        assert ticks.min() >= 2.0
        assert ticks.max() <= 32.0
        assert ticks.mean().item() == pytest.approx(17.0, abs=0.5)
        assert torch.equal(bias_i, -bias_f)
    for layer in (make().input, make().slow):
        assert layer.bias.view(4, WIDTH)[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_the_factor_is_on_what_comes_from_the_fast_unit_to_the_slow_one_and_nowhere_else() -> None:
    gradients = {}
    for factor in (1.0, 0.25, 0.0):
        memory = make(3, slow_gradient=factor)
        x, is_first, state, noise = inputs(memory, 1)  # a single tick, from zeros
        output, _ = memory(x, is_first, state, noise)
        gradients[factor] = torch.autograd.grad(output.square().sum(), [memory.slow.weight, memory.slow.bias,
                                                                          memory.posterior.weight])  # fmt: skip
    for slow, quarter in zip(gradients[1.0][:2], gradients[0.25][:2], strict=True):
        torch.testing.assert_close(0.25 * slow, quarter)
    assert gradients[1.0][1].any()
    assert not gradients[0.0][1].any()
    assert torch.equal(gradients[1.0][2], gradients[0.0][2])
    memory = make(3, slow_gradient=0.0)
    x, is_first, state, noise = inputs(memory, 1)
    with collecting(memory) as auxiliary:
        memory(x, is_first, state, noise)
    assert torch.autograd.grad(auxiliary.losses["kl"], memory.slow.bias)[0].any()  # the prior learns all the same


def test_the_slow_unit_brings_gradients_from_farther_than_the_fast_one_alone() -> None:
    reached = {}
    for tau in (1, 10):
        memory = make(tau)
        x = torch.zeros(61, ROWS, 2).requires_grad_()
        state = torch.zeros(ROWS, memory.state_width)
        output, _ = memory(x, torch.zeros(61, ROWS, dtype=torch.bool), state)
        reached[tau] = torch.autograd.grad(output[-1].sum(), x)[0][0].norm().item()
    assert reached[10] > 10.0 * reached[1] > 0.0


def test_losses_are_handed_in_by_passes_with_gradients_alone() -> None:
    memory = make()
    with collecting(memory) as auxiliary, torch.no_grad():
        memory(*inputs(memory))
    assert not auxiliary.losses


@pytest.mark.compile
@pytest.mark.long
def test_a_compiled_pass_is_the_same(backend: str) -> None:
    memory = make()
    given = inputs(memory, 4)
    output, state = memory(*given)
    compiled, compiled_state = torch.compile(memory, fullgraph=True)(*given)
    torch.testing.assert_close(compiled, output)
    torch.testing.assert_close(compiled_state, state)


def test_r2d2_learns_with_it_in_the_place_of_its_lstm() -> None:
    agent = make_agent({"memory": partial(TwoTimescale, width=8, latents=6, tau=3)})
    assert agent.stored_width == agent.network.memory.state_width == 4 * 8 + 6 + 1
    before = [p.clone() for p in agent.network.memory.parameters()]
    batch = make_batch(agent)
    found = [agent.update(batch).metrics for _ in range(60)]
    assert found[-1]["loss"] < 0.7 * found[0]["loss"]
    assert math.isfinite(found[-1]["memory/kl"].item())
    assert found[-1]["memory/slow_kl"] > 0.0
    for old, new in zip(before, agent.network.memory.parameters(), strict=True):
        assert not torch.equal(old, new)
    action, state = agent.act(torch.randn(4, 3), agent.initial_state(4), explore=True)
    assert state.memory.shape == (4, agent.stored_width)
    assert action.shape == (4,)


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="tau must be at least 1, got 0"):
        TwoTimescale(2, tau=0)
    with pytest.raises(ValueError, match=r"slow_gradient must lie in \[0, 1\], got 1.5"):
        TwoTimescale(2, slow_gradient=1.5)
    with pytest.raises(ValueError, match=r"kl_scale must lie in .* got -1"):
        TwoTimescale(2, kl_scale=-1.0)
    with pytest.raises(ValueError, match="span must be at least 3, got 2"):
        TwoTimescale(2, span=2)
    with pytest.raises(ValueError, match=r"latents must lie in .* got 0"):
        TwoTimescale(2, latents=0)
