"""Mixtures for tests of the layer, and the experts that their tokens visit."""

import torch

from modules.experts.layer import (
    SparseMoE,
)

ROUTINGS = ["noisy_top_k", "top_k", "bias_balanced", "expert_choice", "hierarchical", "soft"]
BY_TOKEN = ["noisy_top_k", "top_k", "bias_balanced", "hierarchical", "soft"]


def make(routing="noisy_top_k", d_in=6, d_out=4, num_experts=8, k=2, seed=0, **arguments):
    torch.manual_seed(seed)
    if routing == "hierarchical":
        arguments.setdefault("groups", num_experts // 2)
    return SparseMoE(d_in, d_out, num_experts, k, routing=routing, **arguments)


def tokens(n=200, d=6, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def choices(layer, x):
    """`[N, E]` bool: which experts each token visits in a pass without noise."""
    with torch.no_grad():
        rows = layer.router(x, False).rows
    visited = torch.zeros(len(x), layer.num_experts + 1, dtype=torch.bool)
    visited[rows.token, rows.expert] = True
    return visited[:, :-1]
