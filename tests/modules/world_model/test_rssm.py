"""The recurrent model against plain references, and what an episode's start makes it forget."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.world_model.latents import CategoricalLatent, GaussianLatent, Latent
from modules.world_model.rssm import RSSM, LayerNormGRU, State
from modules.world_model.vector_quantised import VectorQuantisedLatent

LATENTS: dict[str, Callable[[], Latent]] = {
    "categorical": partial(CategoricalLatent, groups=3, classes=4),
    "gumbel": partial(CategoricalLatent, groups=3, classes=4, estimator="gumbel_softmax"),
    "gaussian": partial(GaussianLatent, size=5),
    "vq": partial(VectorQuantisedLatent, groups=3, codes=4, code_width=2),
}
EMBED, ACTION, STEPS, ROWS = 6, 2, 7, 3


def model(latent: str = "categorical", norm: str = "none") -> RSSM:
    torch.manual_seed(0)
    rssm = RSSM(EMBED, ACTION, LATENTS[latent](), deter=8, hidden=10, norm=norm)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in rssm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # no bias may hide by being zero
    return rssm


def window(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embed = torch.randn(STEPS, ROWS, EMBED, generator=generator)
    action = torch.randn(STEPS, ROWS, ACTION, generator=generator)
    is_first = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    is_first[0] = True
    is_first[4, 1] = True
    return embed, action, is_first


def test_cell_equals_numpy() -> None:
    torch.manual_seed(0)
    cell = LayerNormGRU(5, 4)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, h = torch.randn(3, 5), torch.randn(3, 4)
    w, b, scale, shift = (p.detach().double().numpy() for p in cell.parameters())
    projected = np.concatenate([x.numpy(), h.numpy()], 1) @ w.T + b
    mean, variance = projected.mean(1, keepdims=True), projected.var(1, keepdims=True)
    gates = (projected - mean) / np.sqrt(variance + 1e-3) * scale + shift

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    reset, candidate, update = np.split(gates, 3, axis=1)
    u = sigmoid(update - 1)
    expected = u * np.tanh(sigmoid(reset) * candidate) + (1 - u) * h.numpy()
    np.testing.assert_allclose(cell(x, h).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_fresh_cell_keeps_most_of_its_state() -> None:
    torch.manual_seed(0)
    kept = []
    for _ in range(20):
        h = torch.randn(64, 16)
        moved = LayerNormGRU(4, 16)(torch.randn(64, 4), h)
        kept.append(((moved - h).square().mean() / h.square().mean()).item())
    assert np.mean(kept) < 0.25  # without the -1, half of the way: above 0.4


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_observe_equals_the_loop_with_gradients(latent: str, norm: str) -> None:
    rssm = model(latent, norm)
    noise = rssm.latent.noise(STEPS, ROWS)
    start = State(torch.randn(ROWS, 8), torch.randn(ROWS, rssm.latent.width))
    found, expected = (
        [*observed.state, observed.posterior, observed.prior]
        for observed in (observe(*window(), noise, start) for observe in (rssm.observe, rssm.plain_observe))
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    weights = [torch.randn_like(x) for x in found]
    used = [p for name, p in rssm.named_parameters() if "codebook" not in name]
    grads = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(parts, weights, strict=True)), used, allow_unused=True)
        for parts in (found, expected)
    ]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("latent", LATENTS)
def test_nothing_passes_the_start_of_an_episode(latent: str) -> None:
    rssm = model(latent)
    noise = rssm.latent.noise(STEPS, ROWS)
    embed, action, is_first = window()
    before = rssm.observe(embed, action, is_first, noise)
    embed[:4, 1] += 1.0
    action[:5, 1] += 1.0  # also the action that is recorded at the first step itself
    after = rssm.observe(embed, action, is_first, noise)
    for old, new in ((before.state.h, after.state.h), (before.posterior, after.posterior), (before.prior, after.prior)):
        assert torch.equal(old[4:, 1], new[4:, 1])
        assert not torch.equal(old[3, 1], new[3, 1])


def test_the_prior_sees_the_recurrent_state_alone() -> None:
    rssm = model()
    embed, action, is_first = window()
    noise = rssm.latent.noise(STEPS, ROWS)
    before = rssm.observe(embed, action, is_first, noise)
    embed[-1] += 1.0
    after = rssm.observe(embed, action, is_first, noise)
    assert torch.equal(before.prior, after.prior)
    assert not torch.equal(before.posterior[-1], after.posterior[-1])


@pytest.mark.parametrize("latent", LATENTS)
def test_a_window_continues_from_its_state(latent: str) -> None:
    rssm = model(latent)
    embed, action, is_first = window()
    noise = rssm.latent.noise(STEPS, ROWS)
    whole = rssm.observe(embed, action, is_first, noise)
    first = rssm.observe(embed[:3], action[:3], is_first[:3], noise[:3])
    last = State(first.state.h[-1], first.state.z[-1])
    rest = rssm.observe(embed[3:], action[3:], is_first[3:], noise[3:], last)
    torch.testing.assert_close(whole.state.h[3:], rest.state.h)
    torch.testing.assert_close(whole.posterior[3:], rest.posterior)


@pytest.mark.parametrize("latent", LATENTS)
def test_imagine_follows_the_prior(latent: str) -> None:
    rssm = model(latent)
    z = rssm.latent.imagine(torch.randn(ROWS, rssm.latent.prior_width), rssm.latent.noise(ROWS))
    start = State(torch.randn(ROWS, 8), z)
    noise = rssm.latent.noise(4, ROWS)
    asked = []

    def act(state: State, t: int) -> Tensor:
        asked.append((state, t))
        return state.features[:, :ACTION] * (t + 1)

    states, actions = rssm.imagine(start, act, noise)
    assert states.h.shape == (5, ROWS, 8)
    assert actions.shape == (4, ROWS, ACTION)
    assert [t for _, t in asked] == [0, 1, 2, 3]
    h, z = start
    for t in range(4):
        action = torch.cat([z, h], 1)[:, :ACTION] * (t + 1)
        torch.testing.assert_close(actions[t], action)
        x = rssm.activate(rssm.input(torch.cat([z, action], 1)))
        h = rssm.cell(x, h)
        z = rssm.latent.imagine(rssm.prior(h), noise[t])
        torch.testing.assert_close(states.h[t + 1], h)
        torch.testing.assert_close(states.z[t + 1], z)


@pytest.mark.compile
@pytest.mark.parametrize("latent", LATENTS)
def test_compiles_as_one_graph(latent: str) -> None:
    rssm = model(latent)
    embed, action, is_first = window()
    noise = rssm.latent.noise(STEPS, ROWS)
    compiled = torch.compile(rssm.observe, fullgraph=True, backend="eager")
    expected = rssm.observe(embed, action, is_first, noise)
    torch.testing.assert_close(compiled(embed, action, is_first, noise).state.h, expected.state.h)
