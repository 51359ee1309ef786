"""The codebook of a vector-quantised latent is one and the same on all ranks."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from ranks import run_on_ranks
from torch import Tensor

from modules.world_model.vector_quantised import VectorQuantisedLatent

G, K, W = 4, 5, 3


def vectors() -> Tensor:
    """Of two ranks, 15 each."""
    return torch.randn(2, 15, G * W, generator=torch.Generator().manual_seed(0))


def used_latent() -> VectorQuantisedLatent:
    """With a codebook that has been in use."""
    latent = VectorQuantisedLatent(G, K, W)
    g = torch.Generator().manual_seed(3)
    latent.codebook.count.copy_(1.0 + torch.rand(G, K, generator=g))
    latent.codebook.codes.copy_(torch.randn(G, K, W, generator=g))
    latent.codebook.total.copy_(latent.codebook.codes * latent.codebook.count[..., None])
    return latent


def adapt_on_rank(rank: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(rank)
    latent = used_latent()
    posterior = vectors()
    latent.adapt(posterior[rank])
    averages = copy.deepcopy(latent.state_dict())
    # All codes of a group lie far away together: the first one gets all vectors, and the others are out of use.
    for buffer, value in ((latent.codebook.count, 0.0), (latent.codebook.total, 0.0), (latent.codebook.codes, 1000.0)):
        buffer[1] = value
    latent.adapt(posterior[rank])
    return {**averages, "restarted": latent.codebook.codes.clone()}


def test_ranks_hold_the_codebook_of_the_joined_batch(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, adapt_on_rank)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    latent = used_latent()
    posterior = vectors()
    latent.adapt(posterior)
    torch.testing.assert_close(first["codebook.codes"], latent.codebook.codes)
    mine = posterior.view(2, 15, G, W)[:, :, 1]
    nearest = (mine[:, :, None] - first["restarted"][1]).abs().amax(-1).amin(1)  # [rank, code]
    found = nearest[:, 1:] < 1e-3
    assert found.tolist() == [[False, True, False, True], [True, False, True, False]]  # the ranks take turns
