"""The prior of bits: probabilities that sum to one, and samples that follow them."""

from __future__ import annotations

import pytest
import torch

from modules.functional.bits import bits_of_numbers
from modules.networks.bit_prior import BitPrior


def test_samples_have_the_probabilities_that_the_loss_says() -> None:
    torch.manual_seed(0)
    prior = BitPrior(3, bits=4, group=2, units=8)
    torch.nn.init.normal_(prior.output.weight, std=1.5)
    every = bits_of_numbers(torch.arange(16).unsqueeze(-1), 4)  # [16, 4], all there are
    features = torch.randn(2, 3)
    for feature in features:
        with torch.no_grad():
            chance = (-prior.loss(feature.expand(16, -1), every)).exp()
            assert chance.sum().item() == pytest.approx(1.0, abs=1e-5)
            drawn = prior.sample(feature.expand(20_000, -1), torch.rand(20_000, prior.groups))
        number = ((drawn > 0) * torch.tensor([8, 4, 2, 1])).sum(-1)
        found = number.bincount(minlength=16) / 20_000
        assert (found - chance).abs().max() < 4 * 0.5 / 20_000**0.5
        assert chance.max() > 0.12  # far from uniform


def test_the_same_draws_give_the_same_bits() -> None:
    prior = BitPrior(3, bits=6, group=3, units=4)
    features, noise = torch.randn(5, 3), torch.rand(5, 2)
    assert torch.equal(prior.sample(features, noise), prior.sample(features, noise))
    assert set(prior.sample(features, noise).unique().tolist()) <= {-1.0, 1.0}


@pytest.mark.parametrize(("bits", "group"), [(8, 3), (26, 13)])
def test_groups_that_do_not_fit_are_refused(bits: int, group: int) -> None:
    with pytest.raises(ValueError, match=rf"group: {bits} bits are no whole number of groups of {group}"):
        BitPrior(3, bits, group, units=4)
