"""The recurrent model of blocks against loops over blocks, its plain loop over time, and TorchRL's networks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrl_dreamer import copy_rssm, make_rssm

from modules.world_model.block_rssm import BlockRSSM
from modules.world_model.latents import CategoricalLatent
from modules.world_model.rssm import State

EMBED, ACTION, STEPS, ROWS, DETER, HIDDEN = 6, 2, 7, 3, 8, 10
latent = partial(CategoricalLatent, groups=3, classes=4, unimix=0.01)


def model() -> BlockRSSM:
    torch.manual_seed(0)
    rssm = BlockRSSM(EMBED, ACTION, latent(), DETER, HIDDEN, blocks=2)
    with torch.no_grad():
        for parameter in rssm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # no bias may hide by being zero
    return rssm


def window() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    embed = torch.randn(STEPS, ROWS, EMBED, generator=generator)
    action = 2.0 * torch.randn(STEPS, ROWS, ACTION, generator=generator)  # some beyond the bounds
    is_first = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    is_first[0] = True
    is_first[4, 1] = True
    return embed, action, is_first


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_a_step_is_that_of_numpy_block_by_block() -> None:
    rssm = model()
    w = {name: p.detach().double().numpy() for name, p in rssm.named_parameters()}
    h, z, action = torch.randn(ROWS, DETER), torch.randn(ROWS, 12), torch.tensor([[0.5, -3.0], [2.0, 0.1], [-1.0, 0.0]])

    def normed(place: int, x: np.ndarray) -> np.ndarray:
        return silu(x / np.sqrt(np.square(x).mean(1, keepdims=True) + 1e-4) * w[f"norms.{place}.weight"])

    bounded = np.clip(action.numpy(), -1.0, 1.0)
    given = zip(("from_h", "from_z", "from_action"), (h.numpy(), z.numpy(), bounded), strict=True)
    shared = [normed(n, x @ w[f"{name}.weight"].T + w[f"{name}.bias"]) for n, (name, x) in enumerate(given)]
    states = np.split(h.numpy(), 2, 1)
    mixed = [np.concatenate([own, *shared], 1) @ w["mixing.weight"][g].T for g, own in enumerate(states)]
    x = np.split(normed(3, np.concatenate(mixed, 1) + w["mixing.bias"]), 2, 1)
    expected = []
    for g, (own, mine) in enumerate(zip(states, x, strict=True)):
        gates = mine @ w["gates.weight"][g].T + np.split(w["gates.bias"], 2)[g]
        reset, candidate, update = np.split(gates, 3, 1)
        u = 1 / (1 + np.exp(1 - update))
        expected.append(u * np.tanh(candidate / (1 + np.exp(-reset))) + (1 - u) * own)
    found = rssm.advance(h, z, action).detach().numpy()
    np.testing.assert_allclose(found, np.concatenate(expected, 1), rtol=1e-5, atol=1e-6)


def test_observe_equals_the_loop_with_gradients() -> None:
    rssm = model()
    noise = rssm.latent.noise(STEPS, ROWS)
    start = State(torch.randn(ROWS, DETER), torch.randn(ROWS, rssm.latent.width))
    found, expected = (
        [*observed.state, observed.posterior, observed.prior]
        for observed in (observe(*window(), noise, start) for observe in (rssm.observe, rssm.plain_observe))
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    weights = [torch.randn_like(x) for x in found]
    used = list(rssm.parameters())
    pairs = (
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(parts, weights, strict=True)), used)
        for parts in (found, expected)
    )
    for mine, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_nothing_passes_the_start_of_an_episode() -> None:
    rssm = model()
    noise = rssm.latent.noise(STEPS, ROWS)
    embed, action, is_first = window()
    before = rssm.observe(embed, action, is_first, noise)
    embed[:4, 1] += 1.0
    action[:5, 1] += 1.0  # also the action that is recorded at the first step itself
    after = rssm.observe(embed, action, is_first, noise)
    assert torch.equal(before.state.h[4:, 1], after.state.h[4:, 1])
    assert not torch.equal(before.state.h[3, 1], after.state.h[3, 1])


def test_it_is_the_network_of_torchrl() -> None:
    rssm = model()
    prior, posterior = make_rssm(rssm, EMBED, ACTION)
    copy_rssm(rssm, prior, posterior)
    h, z, action, embed = (torch.randn(ROWS, width) for width in (DETER, 12, ACTION, EMBED))
    noise = rssm.latent.noise(ROWS)
    logits, state, belief = prior(z, h, action, _uniform=noise)
    after, drawn = rssm.imagine_step(h, z, action, noise)
    torch.testing.assert_close(after, belief, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rssm.prior(after), logits.flatten(-2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(drawn, state, rtol=1e-5, atol=1e-5)
    seen, sampled = posterior(belief, embed, _uniform=noise)
    torch.testing.assert_close(rssm.posterior(after, embed), seen.flatten(-2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rssm.latent.sample(seen.flatten(-2), noise), sampled, rtol=1e-5, atol=1e-5)


def test_blocks_must_divide_the_state() -> None:
    with pytest.raises(ValueError, match="deter must be a multiple of the 3 blocks of the recurrent model, got 8"):
        BlockRSSM(EMBED, ACTION, latent(), DETER, HIDDEN, blocks=3)


@pytest.mark.compile
@pytest.mark.usefixtures("backend")
def test_a_compiled_step_agrees() -> None:
    plain, compiled = model(), model()
    compiled.compile_steps()
    noise = plain.latent.noise(STEPS, ROWS)
    for mine, theirs in zip(
        compiled.observe(*window(), noise).state, plain.observe(*window(), noise).state, strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
