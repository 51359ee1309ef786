"""Parts of the U-net on frames: injections, places, odd sizes."""

from __future__ import annotations

import pytest
import torch

from modules.networks.frame_latent import FrameLatent, bottom_size
from modules.networks.frame_unet import FrameUNet, located


def test_an_injection_scales_and_shifts_each_channel_alike_in_all_places() -> None:
    torch.manual_seed(0)
    inject = FrameUNet(6, d_action=2, d_latent=1, hidden=3, downs=1, doublings=0, dropout=0.0).action
    x, vector = torch.randn(4, 3, 2, 5), torch.randn(4, 2)
    factor = 1.0 / (1.0 + torch.exp(-(vector @ inject.factor.weight.T + inject.factor.bias)))
    shift = vector @ inject.shift.weight.T + inject.shift.bias
    for b in range(4):
        for c in range(3):
            torch.testing.assert_close(inject(x, vector)[b, c], x[b, c] * factor[b, c] + shift[b, c])


def test_places_are_told_from_minus_one_to_one() -> None:
    image = torch.zeros(2, 1, 3, 5)
    row, column = located(image)[1, 1:]
    assert row[:, 2].tolist() == [-1.0, 0.0, 1.0]
    assert column[1].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("size", [(10, 5), (7, 9), (8, 8)])
def test_what_is_painted_has_the_size_of_the_frames_and_the_bottom_the_size_that_is_said(size: tuple[int, int]) -> None:
    unet = FrameUNet(6, d_action=3, d_latent=2, hidden=4, downs=2, doublings=1, dropout=0.0)
    seen: list[tuple[int, ...]] = []

    def latent(bottom: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(bottom.shape))
        return torch.zeros(2, 2)

    painted = unet(torch.randn(2, 6, *size), torch.randn(2, 3), latent, True)
    assert painted.places.shape == (2, 4, *size)
    assert painted.pooled.shape == (2, unet.width)
    assert seen == [(2, 8, *bottom_size(size, 2))]


def test_dropout_is_for_learning_alone() -> None:
    unet = FrameUNet(1, d_action=2, d_latent=1, hidden=4, downs=1, doublings=0, dropout=0.5)
    arguments = torch.randn(2, 1, 6, 6), torch.randn(2, 2), lambda bottom: bottom[:, :1, 0, 0]
    acting = [unet(*arguments, False).places for _ in range(2)]
    learning = [unet(*arguments, True).places for _ in range(2)]
    assert torch.equal(*acting)
    assert not torch.equal(*learning)


def make_latent(**settings: float) -> FrameLatent:
    numbers = {"noise": 0.0, "flips": 0.0, "mixed": 0.0, "skipped": 0.0} | settings
    return FrameLatent(2, bottom=(4, 2, 2), hidden=4, bits=4, group=2, prior_units=6, **numbers)


def test_what_is_written_is_read_as_bits_once_they_are_ripe_and_teaches_who_writes() -> None:
    torch.manual_seed(0)
    latent = make_latent()
    bottom, image = torch.randn(5, 4, 2, 2), torch.randn(5, 2, 4, 4)
    written = latent.written(image)
    torch.testing.assert_close(written.mean(0), torch.zeros(4), atol=1e-5, rtol=0.0)
    for own, bits in ((1.0, written.sign()), (0.0, written.tanh())):
        found, loss = latent.learned(bottom, image, torch.tensor(own))
        torch.testing.assert_close(found, bits)
        torch.testing.assert_close(loss, latent.prior.loss(bottom.flatten(1), written.sign()))
        latent.zero_grad()
        (found * torch.randn(5, 4)).sum().backward()
        assert latent.write.weight.grad.abs().sum() > 0
    # The prior learns to say the bits, and does not move who writes them.
    latent.zero_grad()
    latent.learned(bottom, image, torch.tensor(1.0))[1].sum().backward()
    assert latent.write.weight.grad is None
    assert latent.prior.output.weight.grad.abs().sum() > 0


def test_bits_say_what_has_moved_and_not_where_it_is() -> None:
    torch.manual_seed(0)
    image = torch.zeros(6, 2, 12, 12)
    for row, (top, left, step) in enumerate([(3, 3, 1), (6, 4, 1), (5, 6, 1), (3, 3, -1), (6, 4, -1), (5, 6, -1)]):
        image[row, 0, top, left] = image[row, 1, top + 1, left + step] = 1.0  # falls to a side
    right, left = make_latent().written(image).split(3)
    for way in (right, left):
        torch.testing.assert_close(way, way[:1].expand(3, -1))
    assert (right - left).abs().max() > 1.0


def test_rows_may_learn_without_a_latent_and_from_bits_of_the_prior() -> None:
    torch.manual_seed(0)
    bottom, image = torch.randn(400, 4, 2, 2), torch.randn(400, 2, 4, 4)
    skipping = make_latent(skipped=0.25)
    found, _ = skipping.learned(bottom, image, torch.tensor(1.0))
    none = (found == 0.0).all(1)
    assert none.float().mean().item() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)
    assert (found[~none].abs() == 1.0).all()
    # With all bits the prior's, what is written does not matter.
    mixing, found_by = make_latent(mixed=1.0), {}
    for name, sign, own in (("one", 1.0, 1.0), ("other", -1.0, 1.0), ("unmixed", -1.0, 0.0)):
        torch.manual_seed(1)
        found_by[name], _ = mixing.learned(bottom, sign * image, torch.tensor(own))
    torch.testing.assert_close(found_by["one"], found_by["other"])
    assert (found_by["one"].sign() != found_by["unmixed"].sign()).any()
