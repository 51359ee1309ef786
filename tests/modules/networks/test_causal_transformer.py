"""Causal transformers: against loops over heads and positions, in pieces, by gradients, with groups and windows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modules.networks.causal_transformer import BASE, Block, CausalTransformer

B, L, D, HEADS = 2, 11, 16, 2


def made(window: int = L, layers: int = 2) -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(window, width=D, layers=layers, heads=HEADS).double()


def sequence(seed: int = 1, length: int = L) -> Tensor:
    return torch.randn(B, length, D, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def plain_turned(x: Tensor, position: int) -> Tensor:
    """One position of a head, `[d]`, as complex numbers that are turned by their angles."""
    half = len(x) // 2
    numbers = [complex(float(x[i]), float(x[half + i])) for i in range(half)]
    turned = [
        z * complex(math.cos(a), math.sin(a)) for i, z in enumerate(numbers) for a in [position * BASE ** (-i / half)]
    ]
    return torch.tensor([z.real for z in turned] + [z.imag for z in turned], dtype=x.dtype)


def plain_block(block: Block, x: Tensor, window: int) -> Tensor:
    """One block on one sequence `[L, D]`, by loops over heads and positions."""
    parts = block.input(block.before(x)).view(len(x), 3, HEADS, D // HEADS)
    seen = torch.zeros(len(x), HEADS, D // HEADS, dtype=x.dtype)
    for head in range(HEADS):
        for t in range(len(x)):
            back = range(max(0, t - window + 1), t + 1)
            query = plain_turned(parts[t, 0, head], t)
            scores = torch.stack([query @ plain_turned(parts[s, 1, head], s) for s in back]) / math.sqrt(D // HEADS)
            seen[t, head] = sum(w * parts[s, 2, head] for w, s in zip(scores.softmax(0), back, strict=True))
    x = x + block.output(seen.flatten(1))
    return x + block.dense(x)


@pytest.mark.parametrize("window", [L, 4])
@torch.no_grad()
def test_a_pass_is_that_of_loops_over_heads_and_positions(window: int) -> None:
    network, x = made(window), sequence()
    for row, found in zip(x, network(x), strict=True):
        for block in network.blocks:
            row = plain_block(block, row, window)
        torch.testing.assert_close(found, network.norm(row), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("window", [L, 4, 1])
@pytest.mark.parametrize("pieces", [[1] * L, [5, 1, 1, 4], [2, 9]], ids=str)
def test_pieces_with_a_cache_equal_the_whole(window: int, pieces: list[int]) -> None:
    network, x = made(window).float(), sequence().float()
    whole = network(x)
    cache, found = network.empty(x), []
    for piece in x.split(pieces, 1):
        output, cache = network.extend(piece, cache)
        found.append(output)
        assert cache.keys.shape[3] <= max(window - 1, 0)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0.0, atol=1e-6)
    assert cache.position == L


def test_groups_of_pieces_equal_those_of_the_whole() -> None:
    network, x = made(5).float(), sequence().float()
    group = torch.tensor([[0] * 4 + [1] * 7, [-1] * 2 + [0] * 9])
    whole = network(x, group)
    cache, found = network.empty(x), []
    for piece, mine in zip(x.split([3, 1, 1, 6], 1), group.split([3, 1, 1, 6], 1), strict=True):
        output, cache = network.extend(piece, cache, mine)
        found.append(output)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0.0, atol=1e-6)


@torch.no_grad()
def test_a_group_is_a_sequence_of_its_own() -> None:
    network, x = made(), sequence()
    found = network(x, torch.tensor([[0] * 4 + [1] * 7] * 2))
    apart = torch.cat([network(x[:, :4]), network(x[:, 4:])], 1)  # only distances matter
    torch.testing.assert_close(found, apart, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("window", [L, 4])
def test_nothing_later_and_nothing_out_of_sight_has_a_gradient(window: int) -> None:
    network = made(window)
    x = sequence().requires_grad_()
    for t in (0, 5, L - 1):
        reached = torch.autograd.grad(network(x)[0, t] @ torch.arange(D).double(), x)[0].abs().sum(-1)
        oldest = max(0, t - 2 * (window - 1))  # of two layers
        seen = torch.zeros(B, L, dtype=torch.bool)
        seen[0, oldest : t + 1] = True
        assert torch.equal(reached > 0.0, seen)  # rows of the batch are independent too


@torch.no_grad()
def test_what_has_left_the_window_changes_nothing_ever_after() -> None:
    network = made(4, layers=1)
    x, other = sequence(length=30), sequence(length=30)
    other[:, :10] = sequence(2, 10)
    changed = (network(x) - network(other)).abs().amax((0, 2)) > 1e-12
    assert changed.tolist() == [t < 13 for t in range(30)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"width": 18}, "width must be a multiple of twice the heads, got 18 with 4 heads"),
        ({"window": 0}, "window must be at least 1"),
        ({"layers": 0}, "layers must lie in"),
        ({"heads": 0}, "heads must be at least 1"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CausalTransformer(**{"width": 16, "window": 4, **arguments})  # type: ignore[arg-type]
