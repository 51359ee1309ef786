"""Moments and quantiles of known distributions."""

from __future__ import annotations

import torch

from modules.functional.atoms import moments, quantiles


def test_moments_of_a_coin_and_of_a_certain_number() -> None:
    number = torch.tensor([[0.0, 1.0, 5.0], [2.0, 7.0, -3.0]])
    probability = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0]])
    mean, variance = moments(number, probability)
    torch.testing.assert_close(mean, torch.tensor([0.3, 7.0]))
    torch.testing.assert_close(variance, torch.tensor([0.21, 0.0]))


def test_quantiles_are_atoms_in_order_of_their_size() -> None:
    number = torch.tensor([5.0, -1.0, 2.0]).expand(2, 3)
    probability = torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.1, 0.9]])
    found = quantiles(number, probability, torch.tensor([0.1, 0.5, 0.51, 0.75, 0.76, 0.99]))
    expected = torch.tensor([[-1.0, -1.0, 2.0, 2.0, 5.0, 5.0], [-1.0, 2.0, 2.0, 2.0, 2.0, 2.0]])
    assert torch.equal(found, expected)


def test_quantiles_are_those_of_a_loop_over_atoms() -> None:
    g = torch.Generator().manual_seed(0)
    number, probability = torch.randn(4, 9, generator=g), torch.rand(4, 9, generator=g).softmax(-1)
    found = quantiles(number, probability, torch.tensor([0.21, 0.43, 0.66, 0.99]))
    for row in range(4):
        for place, level in enumerate([0.21, 0.43, 0.66, 0.99]):
            atoms, reached = sorted(zip(number[row].tolist(), probability[row].tolist(), strict=True)), 0.0
            while (reached := reached + atoms[0][1]) < level:
                atoms.pop(0)
            assert float(found[row, place]) == atoms[0][0]
