"""Latents: shapes, samples, divergences and their gradients; the codebook against a slow loop and over ranks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from modules.functional.gradient_estimators import ESTIMATORS
from modules.world_model.latents import CategoricalLatent, GaussianLatent, Latent
from modules.world_model.vector_quantised import VectorQuantisedLatent

G, K, W = 4, 5, 3
MAKERS = {
    "categorical": lambda: CategoricalLatent(G, K),
    "gumbel": lambda: CategoricalLatent(G, K, estimator="gumbel_softmax", temperature=0.5, unimix=0.01),
    "straight_through_gumbel": lambda: CategoricalLatent(G, K, estimator="straight_through_gumbel"),
    "gaussian": lambda: GaussianLatent(6),
    "quantised": lambda: VectorQuantisedLatent(G, K, W),
    "quantised_gumbel": lambda: VectorQuantisedLatent(G, K, W, estimator="straight_through_gumbel"),
}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raws(latent: Latent, *shape: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior and prior outputs that want gradients."""
    g = draws()
    posterior = torch.randn(*shape, latent.posterior_width, generator=g).to(dtype)
    prior = torch.randn(*shape, latent.prior_width, generator=g).to(dtype)
    return posterior.requires_grad_(), prior.requires_grad_()


@pytest.fixture(params=MAKERS)
def latent(request) -> Latent:
    torch.manual_seed(0)
    return MAKERS[request.param]()


# ----------------------------------------------------------------------------------------------- what all kinds promise
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_float32_also_under_autocast(latent: Latent, dtype: torch.dtype) -> None:
    posterior, prior = raws(latent, 7, 2, dtype=dtype)
    noise = latent.noise(7, 2, generator=draws())
    assert torch.equal(noise, latent.noise(7, 2, generator=draws()))
    plain = [latent.sample(posterior, noise), latent.imagine(prior, noise), *latent.kl(posterior, prior)]
    with torch.autocast("cpu", torch.bfloat16):
        cast = [latent.sample(posterior, noise), latent.imagine(prior, noise), *latent.kl(posterior, prior)]
    entropies = [latent.posterior_entropy(posterior), latent.prior_entropy(prior)]
    shapes = [[7, 2, latent.width]] * 2 + [[7, 2]] * 4
    assert [list(x.shape) for x in (*plain, *entropies)] == shapes
    assert {x.dtype for x in (*plain, *entropies)} == {torch.float32}
    for one, other in zip(plain, cast, strict=True):
        assert torch.equal(one, other)


def test_both_terms_are_one_divergence_with_gradients_for_one_side_each(latent: Latent) -> None:
    posterior, prior = raws(latent, 6)
    dynamic, representation = latent.kl(posterior, prior)
    assert torch.equal(dynamic, representation)
    assert dynamic.min() > 0
    for term, learns, rests in ((dynamic, prior, posterior), (representation, posterior, prior)):
        gradients = torch.autograd.grad(term.sum(), [learns, rests], allow_unused=True, retain_graph=True)
        assert gradients[0].abs().min() > 0
        assert gradients[1] is None


def test_samples_pass_gradients(latent: Latent) -> None:
    posterior, prior = raws(latent, 6)
    noise = latent.noise(6, generator=draws())
    weight = torch.randn(latent.width, generator=draws())
    for raw, z in ((posterior, latent.sample(posterior, noise)), (prior, latent.imagine(prior, noise))):
        (gradient,) = torch.autograd.grad(z @ weight, raw, torch.ones(6))
        assert torch.isfinite(gradient).all()
        assert gradient.abs().amax(-1).min() > 0


@pytest.mark.compile
def test_everything_is_one_graph(latent: Latent) -> None:
    def everything(posterior, prior, noise):
        losses, weights = latent.auxiliary_losses(posterior)
        loss = sum(latent.kl(posterior, prior)) + latent.posterior_entropy(posterior) + latent.prior_entropy(prior)
        loss = loss + sum(weights[name] * losses[name] for name in losses)
        return loss, latent.sample(posterior, noise), latent.imagine(prior, noise)

    posterior, prior = raws(latent, 6)
    noise = latent.noise(6, generator=draws())
    results = []
    state = copy.deepcopy(latent.state_dict())
    for compile_ in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="eager")):
        latent.load_state_dict(state)
        torch.manual_seed(1)
        outputs = compile_(everything)(posterior, prior, noise)
        gradients = torch.autograd.grad([x.sum() for x in outputs], [posterior, prior])
        compile_(latent.adapt)(posterior)
        results.append((outputs, gradients, copy.deepcopy(latent.state_dict())))
    torch.testing.assert_close(*results)


def test_most_latents_have_nothing_to_add() -> None:
    for latent in (CategoricalLatent(G, K), GaussianLatent(6)):
        before = copy.deepcopy(latent.state_dict())
        posterior = raws(latent, 6)[0]
        assert latent.auxiliary_losses(posterior) == ({}, {})
        latent.adapt(posterior)
        latent.advance(1000)
        assert all(torch.equal(before[name], value) for name, value in latent.state_dict().items())


# ------------------------------------------------------------------------------------------------------- categorical
def test_categorical_samples_are_the_inverse_distribution_function_of_each_group() -> None:
    latent = CategoricalLatent(2, 4)
    raw = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.7, 0.1, 0.1, 0.1]).log()
    assert latent.sample(raw, torch.tensor([0.55, 0.65])).tolist() == [0, 0, 1, 0, 1, 0, 0, 0]
    assert latent.imagine(raw, torch.tensor([0.95, 0.75])).tolist() == [0, 0, 0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("unimix", [0.0, 0.1])
def test_categorical_divergence_and_entropy_agree_with_torch(unimix: float) -> None:
    latent = CategoricalLatent(G, K, unimix=unimix)
    posterior, prior = raws(latent, 6)
    p, q = (
        Categorical((1 - unimix) * raw.view(6, G, K).softmax(-1) + unimix / K) for raw in (posterior * 3, prior * 3)
    )
    torch.testing.assert_close(latent.kl(posterior * 3, prior * 3)[0], kl_divergence(p, q).sum(-1))
    torch.testing.assert_close(latent.posterior_entropy(posterior * 3), p.entropy().sum(-1))
    torch.testing.assert_close(latent.prior_entropy(prior * 3), q.entropy().sum(-1))


def test_unimix_lets_every_class_be_drawn() -> None:
    raw = torch.tensor([100.0, 0.0, 0.0, 0.0])
    noise = (torch.arange(100.0)[:, None] + 0.5) / 100
    counts = CategoricalLatent(1, 4, unimix=0.2).sample(raw.expand(100, 4), noise).sum(0)
    assert counts.tolist() == [85, 5, 5, 5]


def test_a_temperature_follows_its_schedule_without_a_new_tensor() -> None:
    latent = CategoricalLatent(G, K, "gumbel_softmax", temperature="linear(1, 0.2, 100)")
    buffer, noise, raw = latent.temperature, latent.noise(1, generator=draws()), raws(latent, 1)[0]
    warm = latent.sample(raw, noise).view(G, K).amax(-1)
    latent.advance(50)
    assert latent.temperature is buffer
    assert buffer.item() == pytest.approx(0.6)
    latent.advance(1000)
    assert latent.temperature.item() == pytest.approx(0.2)
    assert torch.all(latent.sample(raw, noise).view(G, K).amax(-1) > warm)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CategoricalLatent(0, 4), "groups must be positive and finite, got 0"),
        (lambda: CategoricalLatent(4, 4, unimix=1.0), r"unimix must lie in \[0, 1\), got 1.0"),
        (lambda: CategoricalLatent(4, 4, "magic"), "no gradient estimator 'magic'"),
        (lambda: CategoricalLatent(4, 4, temperature=0.5), "temperature 0.5 would be ignored: straight_through has"),
        (lambda: CategoricalLatent(4, 4, "gumbel_softmax", "linear(1, 0, 5)"), "a temperature must stay above 0"),
        (lambda: CategoricalLatent(4, 4, "gumbel_softmax", "cold"), "'cold' is no schedule"),
        (lambda: GaussianLatent(0), "size must be positive"),
        (lambda: VectorQuantisedLatent(spread=0.0), "spread must be positive"),
        (lambda: VectorQuantisedLatent(decay=1.0), r"decay must lie in \[0, 1\)"),
        (lambda: VectorQuantisedLatent(dead_below=0.0), "dead_below must be positive"),
        (lambda: VectorQuantisedLatent(commitment=-1.0), "commitment must lie in"),
    ],
)
def test_mistakes_are_named(make, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- Gaussian
def test_gaussian_moments_samples_and_divergence() -> None:
    latent = GaussianLatent(2)
    raw = torch.tensor([1.0, -1.0, 0.0, 200.0])
    mean, std = latent.moments(raw)
    assert mean.tolist() == [1.0, -1.0]
    torch.testing.assert_close(std, torch.tensor([1.1, 2.1]))
    torch.testing.assert_close(latent.sample(raw, torch.tensor([2.0, -1.0])), torch.tensor([3.2, -3.1]))
    posterior, prior = raws(latent, 6)
    p, q = (Normal(*latent.moments(raw)) for raw in (posterior, prior))
    torch.testing.assert_close(latent.kl(posterior, prior)[1], kl_divergence(p, q).sum(-1))
    torch.testing.assert_close(latent.posterior_entropy(posterior), p.entropy().sum(-1))
    assert latent.noise(4000, generator=draws()).std().item() == pytest.approx(1.0, abs=0.05)


# -------------------------------------------------------------------------------------------------- vector quantised
def quantised(**arguments: float) -> VectorQuantisedLatent:
    """With a codebook that has been in use."""
    latent = VectorQuantisedLatent(G, K, W, **arguments)
    g = draws(3)
    latent.codebook.count.copy_(1.0 + torch.rand(G, K, generator=g))
    latent.codebook.codes.copy_(torch.randn(G, K, W, generator=g))
    latent.codebook.total.copy_(latent.codebook.codes * latent.codebook.count[..., None])
    return latent


def test_a_sample_is_the_nearest_code_with_the_gradient_of_the_vector() -> None:
    latent = quantised()
    posterior = raws(latent, 20)[0]
    z = latent.sample(posterior, latent.noise(20))
    distances = latent.codebook.plain_squared_distances(posterior.view(20, G, W))
    assert distances[3, 1, 2] == (posterior.view(20, G, W)[3, 1] - latent.codebook.codes[1, 2]).square().sum()
    assert torch.equal(z.view(20, G, W), latent.codebook.codes[torch.arange(G), distances.argmin(-1)])
    weight = torch.randn(20, G * W, generator=draws())
    assert torch.equal(torch.autograd.grad(z, posterior, weight)[0], weight)


def test_imagined_codes_follow_the_prior() -> None:
    latent = quantised()
    prior = torch.full((G, K), -50.0)
    chosen = [3, 0, 4, 1]
    prior[torch.arange(G), chosen] = 0.0
    z = latent.imagine(prior.flatten(), latent.noise(generator=draws()))
    assert torch.equal(z.view(G, W), latent.codebook.codes[torch.arange(G), chosen])


def test_the_soft_assignment_hardens_with_its_spread() -> None:
    posterior = raws(quantised(), 9)[0]
    for spread in (10.0, 0.5):
        latent = quantised(spread=spread)
        distance = torch.cdist(posterior.view(9, G, W).transpose(0, 1), latent.codebook.codes).square().transpose(0, 1)
        variance = latent.codebook.codes.var(1, correction=0).sum(-1)[:, None]
        torch.testing.assert_close(
            latent.posterior_logits(posterior).softmax(-1),
            (-distance / (spread * variance)).softmax(-1),
            rtol=1e-4,
            atol=1e-6,
        )
    soft, hard = (quantised(spread=spread).posterior_entropy(posterior).mean() for spread in (10.0, 0.5))
    assert hard < 0.5 * soft


def test_smaller_vectors_do_not_blur_the_soft_assignment() -> None:
    latent, small = quantised(), quantised()
    small.codebook.codes.mul_(0.01)
    posterior = raws(latent, 9)[0].detach()
    torch.testing.assert_close(
        small.posterior_logits(0.01 * posterior), latent.posterior_logits(posterior), rtol=1e-3, atol=1e-3
    )


def test_the_commitment_pulls_vectors_to_their_codes() -> None:
    latent = quantised(commitment=0.3)
    posterior = raws(latent, 5)[0]
    losses, weights = latent.auxiliary_losses(posterior)
    distance = posterior - latent.sample(posterior, latent.noise(5))
    assert weights == {"commitment": 0.3}
    torch.testing.assert_close(losses["commitment"], distance.square().sum(-1))
    gradient = torch.autograd.grad(losses["commitment"].sum(), posterior)[0]
    torch.testing.assert_close(gradient, 2 * distance)


def test_one_step_of_the_moving_averages_against_a_slow_loop() -> None:
    latent = quantised(decay=0.9)
    posterior = raws(latent, 10, 3)[0].detach()
    codes = latent.codebook.plain_adapted(posterior.view(-1, G, W))
    with torch.autocast("cpu", torch.bfloat16):
        latent.adapt(posterior)
    torch.testing.assert_close(latent.codebook.codes, codes)


def test_codes_out_of_use_become_vectors_of_the_batch() -> None:
    latent = quantised()
    latent.codebook.count[1, 2] = 1e-4
    latent.codebook.codes[1, 2] = latent.codebook.total[1, 2] = 1000.0  # nothing comes near
    posterior = raws(latent, 30)[0].detach()
    before = latent.codebook.codes.clone()
    latent.adapt(posterior)
    new = latent.codebook.codes[1, 2]
    assert (posterior.view(30, G, W)[:, 1] - new).abs().amax(-1).min() < 1e-4
    others = torch.ones(G, K, dtype=torch.bool)
    others[1, 2] = False
    assert (latent.codebook.codes - before)[others].abs().max() < 0.2
    assert latent.codebook.count[1, 2] > 0.5 * latent.codebook.count[1].mean()


def test_a_new_codebook_moves_to_the_data() -> None:
    torch.manual_seed(0)
    latent = VectorQuantisedLatent(2, 64, W)
    centres = 50.0 + 10.0 * torch.randn(2, 8, W)
    which = torch.randint(8, (400, 2))
    posterior = (centres[torch.arange(2), which] + 0.01 * torch.randn(400, 2, W)).flatten(1)
    before = latent.auxiliary_losses(posterior)[0]["commitment"].mean()
    for _ in range(400):
        latent.adapt(posterior)
    after = latent.auxiliary_losses(posterior)[0]["commitment"].mean()
    assert before > 5000
    assert after < 2 * 2 * W * 0.01**2  # twice the noise: every centre has a code


def test_every_estimator_is_among_the_latents_tried_here() -> None:
    tried = {latent.estimator for make in MAKERS.values() if hasattr(latent := make(), "estimator")}
    assert tried == set(ESTIMATORS.values())
