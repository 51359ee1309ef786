"""Quantisers: nearest codes, gradients, moving averages, relaxed samples and what changes over time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modules.networks.quantisers import GumbelQuantiser, Quantiser, VectorQuantiser, perplexity

K, W = 6, 3
MAKERS: dict[str, Callable[[], Quantiser]] = {
    "vector": lambda: VectorQuantiser(K, W),
    "gumbel": lambda: GumbelQuantiser(K, W),
}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw_of(quantiser: Quantiser, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, quantiser.raw_width, generator=draws(seed)).requires_grad_()


def used(**arguments: float) -> VectorQuantiser:
    """With a codebook that has been in use."""
    torch.manual_seed(1)
    quantiser = VectorQuantiser(K, W, **arguments)
    quantiser.codebook.count.copy_(1.0 + torch.rand(1, K))
    quantiser.codebook.total.copy_(quantiser.codebook.codes * quantiser.codebook.count[..., None])
    return quantiser


def test_the_nearest_code_is_that_of_a_loop() -> None:
    quantiser = used()
    raw = raw_of(quantiser, 4, 7).detach()
    index = quantiser.tokens(raw)
    codes = quantiser.codebook.codes[0]
    for n in range(4):
        for p in range(7):
            distances = [float((raw[n, p] - code).square().sum()) for code in codes]
            assert int(index[n, p]) == min(range(K), key=distances.__getitem__)
    assert torch.equal(quantiser.look_up(index), codes[index])


def test_the_gradient_goes_straight_through_the_nearest_code() -> None:
    quantiser = used(commitment=0.3)
    raw = raw_of(quantiser, 5)
    vectors, index, penalty = quantiser.quantise(raw, quantiser.noise(5))
    assert torch.equal(vectors, quantiser.codebook.codes[0, index])
    weight = torch.randn(5, W, generator=draws(2))
    assert torch.equal(torch.autograd.grad(vectors, raw, weight, retain_graph=True)[0], weight)
    distance = raw - quantiser.codebook.codes[0, index]
    torch.testing.assert_close(penalty, 0.3 * distance.square().sum(-1))
    torch.testing.assert_close(torch.autograd.grad(penalty.sum(), raw)[0], 0.6 * distance)


def test_equal_batches_bring_a_code_to_their_mean_as_a_closed_form_says() -> None:
    decay, times = 0.9, 5
    quantiser = used(decay=decay)
    codes, count = quantiser.codebook.codes[0].clone(), quantiser.codebook.count[0].clone()
    vectors = codes + 0.01  # each code is the nearest of one vector, and stays it
    for _ in range(times):
        quantiser.adapt(vectors.unsqueeze(0))
    kept = decay**times
    counts = kept * count + (1 - kept)
    totals = kept * count.unsqueeze(1) * codes + (1 - kept) * vectors
    torch.testing.assert_close(quantiser.codebook.count[0], counts)
    torch.testing.assert_close(quantiser.codebook.codes[0], totals / counts.unsqueeze(1), rtol=1e-4, atol=1e-4)


def test_codes_that_nothing_is_near_restart_at_vectors_of_the_batch() -> None:
    quantiser = used(apart=0.0)
    quantiser.codebook.count[0, 4] = 0.0
    quantiser.codebook.codes[0, 4] = 1000.0
    raw = raw_of(quantiser, 8, 2).detach()
    quantiser.adapt(raw)
    assert (raw.flatten(0, 1) - quantiser.codebook.codes[0, 4]).abs().amax(-1).min() < 1e-4


def test_what_has_a_code_keeps_it_and_what_is_new_gets_one() -> None:
    torch.manual_seed(0)
    kinds = 5.0 * torch.randn(5, W)
    often = kinds[:2].repeat(40, 1)
    quantiser = VectorQuantiser(8, W, decay=0.9)
    book = quantiser.codebook
    book.codes[0] = torch.cat([kinds[:2], torch.full((6, W), 1000.0)])
    book.count[0] = torch.tensor([40.0, 40.0, *[0.0] * 6])
    book.total.copy_(book.codes * book.count[..., None])
    unused = book.codes[0, 2:].clone()
    quantiser.adapt(often)
    assert quantiser.tokens(often).tolist() == [0, 1] * 40
    assert (book.count[0, 2:] == 0.0).all()  # none of them restarts: nothing is far from its code
    quantiser.adapt(torch.cat([often, kinds[2:]]))
    assert not torch.isclose(book.codes[0, 2:], unused).any()
    for _ in range(300):
        quantiser.adapt(torch.cat([often, kinds[2:]]))
    tokens = quantiser.tokens(kinds)
    assert tokens[:2].tolist() == [0, 1]
    assert len(tokens.unique()) == 5
    torch.testing.assert_close(quantiser.look_up(tokens), kinds, rtol=0.0, atol=0.1)


def test_relaxed_vectors_are_the_mean_of_the_codes_under_a_gumbel_sample() -> None:
    quantiser = GumbelQuantiser(K, W, temperature=0.5, divergence=0.3)
    raw, noise = raw_of(quantiser, 4), quantiser.noise(4, generator=draws(1))
    vectors, index, penalty = quantiser.quantise(raw, noise)
    for n in range(4):
        scores = [(float(raw[n, k].detach()) - math.log(-math.log(float(noise[n, k])))) / 0.5 for k in range(K)]
        shares = torch.tensor(scores).softmax(0)
        torch.testing.assert_close(vectors[n], (shares.unsqueeze(1) * quantiser.vectors).sum(0))
        p = raw[n].softmax(0)
        assert float(penalty[n].detach()) == pytest.approx(0.3 * float((p * (p * K).log()).sum().detach()), rel=1e-4)
    assert torch.equal(index, raw.argmax(-1))
    reached = torch.autograd.grad(vectors.square().sum(), [raw, quantiser.vectors])
    assert all(bool((gradient.abs().sum(-1) > 0).all()) for gradient in reached)


def test_a_cold_relaxed_sample_is_one_code() -> None:
    quantiser = GumbelQuantiser(K, W, temperature=1e-3)
    raw, noise = raw_of(quantiser, 50), quantiser.noise(50, generator=draws(1))
    vectors = quantiser.quantise(raw, noise).vectors
    chosen = (raw - torch.log(-torch.log(noise))).argmax(-1)
    torch.testing.assert_close(vectors, quantiser.look_up(chosen), rtol=1e-3, atol=1e-3)


def test_the_temperature_falls_along_a_cosine_and_stays_down() -> None:
    quantiser = GumbelQuantiser(K, W, "cosine(1, 0.0625, 100)", "linear(0, 6.6, 10)")
    found = []
    for updates in (0, 50, 100, 1000):
        quantiser.advance(updates)
        found += [float(quantiser.temperature), float(quantiser.weight)]
    assert found == pytest.approx([1.0, 0.0, 0.53125, 6.6, 0.0625, 6.6, 0.0625, 6.6])


@pytest.mark.parametrize("name", list(MAKERS))
def test_what_changes_over_time_is_in_the_state(name: str) -> None:
    first, second = MAKERS[name](), MAKERS[name]()
    first.advance(700)
    first.adapt(raw_of(first, 9))
    second.load_state_dict(first.state_dict())
    raw, noise = raw_of(first, 9, seed=3), first.noise(9, generator=draws(4))
    for mine, theirs in zip(first.quantise(raw, noise), second.quantise(raw, noise), strict=True):
        assert torch.equal(mine, theirs)


def test_perplexity_is_the_number_of_codes_in_use() -> None:
    assert float(perplexity(torch.zeros(3, 4, dtype=torch.int64), K)) == 1.0
    assert float(perplexity(torch.arange(K).repeat(2), K)) == pytest.approx(K)
    shares = [0.5, 0.25, 0.25]
    assert float(perplexity(torch.tensor([0, 0, 1, 5]), K)) == pytest.approx(
        math.exp(-sum(share * math.log(share) for share in shares))
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VectorQuantiser(0), "codes must be at least 1, got 0"),
        (lambda: VectorQuantiser(code_width=0), "code_width must lie in"),
        (lambda: VectorQuantiser(commitment=-1.0), "commitment must lie in"),
        (lambda: VectorQuantiser(decay=1.0), r"decay must lie in \[0, 1\)"),
        (lambda: VectorQuantiser(apart=-0.1), "apart must lie in"),
        (lambda: GumbelQuantiser(1), "codes must be at least 2, got 1"),
        (lambda: GumbelQuantiser(temperature="cosine(1, 0, 10)"), "temperature must lie in"),
        (lambda: GumbelQuantiser(divergence=-0.1), "divergence must lie in"),
        (lambda: GumbelQuantiser(temperature="cold"), "'cold' is no schedule"),
    ],
)
def test_mistakes_are_named(make: Callable[[], Quantiser], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
