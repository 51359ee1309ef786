"""Bits, the numbers of their groups, and draws of classes."""

from __future__ import annotations

import math

import torch

from modules.functional.bits import bits_of_numbers, clean_bits, noisy_bits, numbers_of_bits


def test_bits_are_signs_and_zero_is_below() -> None:
    assert clean_bits(torch.tensor([-2.0, -0.0, 0.0, 1e-9])).tolist() == [-1.0, -1.0, -1.0, 1.0]


def uniform(ripe: list[float], flip: list[float]) -> torch.Tensor:
    return torch.tensor([ripe, flip])


def test_noisy_bits_are_signs_behind_the_noise_and_turned_over_below_the_share() -> None:
    x, noise = torch.tensor([0.1, 0.1, -0.3, -0.3]), torch.tensor([0.0, -0.2, 0.0, 0.0])
    ripe, all_ripe = [0.99] * 4, torch.ones(())
    assert noisy_bits(x, noise, uniform(ripe, [0.5, 0.5, 0.5, 0.1]), 0.2, all_ripe).tolist() == [1.0, -1.0, -1.0, 1.0]
    assert noisy_bits(x, noise, uniform(ripe, [0.2] * 4), 0.2, all_ripe).tolist() == [1.0, -1.0, -1.0, -1.0]


def test_bits_that_are_not_ripe_are_tanh() -> None:
    x, noise = torch.tensor([0.4, 0.4, -0.4]), torch.tensor([0.1, 0.1, 0.0])
    found = noisy_bits(x, noise, uniform([0.3, 0.29, 0.9], [0.5, 0.5, 0.0]), 0.1, torch.tensor(0.3))
    torch.testing.assert_close(found, torch.tensor([math.tanh(0.5), 1.0, math.tanh(0.4)]))


def test_gradients_of_bits_are_those_of_tanh_turned_over_where_the_bit_is() -> None:
    for ripe in (0.0, 1.0):
        x, noise = torch.tensor([0.4, -1.0, 0.4], requires_grad=True), torch.tensor([0.1, 0.0, 0.1])
        noisy_bits(x, noise, uniform([0.5] * 3, [0.9, 0.9, 0.0]), 0.1, torch.tensor(ripe)).sum().backward()
        slope = 1.0 - torch.tanh(x.detach() + noise).square()
        torch.testing.assert_close(x.grad, slope * torch.tensor([1.0, 1.0, -1.0]))


def test_groups_of_bits_are_binary_numbers_and_back() -> None:
    bits = torch.tensor([[1.0, -1.0, -1.0, -1.0, 1.0, 1.0]])
    assert numbers_of_bits(bits, 3).tolist() == [[4, 3]]
    assert numbers_of_bits(bits, 2).tolist() == [[2, 0, 3]]
    numbers = torch.arange(16).view(2, 8)
    assert torch.equal(numbers_of_bits(bits_of_numbers(numbers, 4), 4), numbers)
