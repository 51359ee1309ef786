"""Residual stacks: which blocks are mixtures, what a block computes, and that YAML can build one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.nn import functional as F

from modules.experts.layer import SparseMoE, sparse_layers
from modules.experts.residual_stack import ResidualStack, mixture_positions
from modules.networks.blocks import MLP


@pytest.mark.parametrize(
    ("placement", "by_depth"),
    [
        ("none", [(), (), (), ()]),
        ("first", [(0,), (0,), (0,), (0,)]),
        ("last", [(0,), (1,), (2,), (3,)]),
        ("every_other", [(0,), (1,), (0, 2), (1, 3)]),
        ("all", [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]),
    ],
)
def test_positions_of_the_mixtures(placement: str, by_depth: list[tuple[int, ...]]) -> None:
    assert [mixture_positions(depth, placement) for depth in (1, 2, 3, 4)] == by_depth  # type: ignore[arg-type]


def test_unknown_places_and_empty_stacks_are_refused() -> None:
    with pytest.raises(ValueError, match="one of none, first, last, every_other, all, got 'middle'"):
        mixture_positions(3, "middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"depth must lie in .*, got 0"):
        ResidualStack(3, 2, depth=0, placement="none")
    with pytest.raises(ValueError, match="placement 'all' needs `experts`"):
        ResidualStack(3, 2, depth=2)


def test_blocks_are_made_where_the_placement_says() -> None:
    stack = ResidualStack(5, 2, 8, partial(MLP, hidden=6), partial(SparseMoE, num_experts=4), 4, "every_other")
    assert [type(block) for block in stack.blocks] == [MLP, SparseMoE, MLP, SparseMoE]
    assert list(sparse_layers(stack)) == ["blocks.1", "blocks.3"]
    assert stack.blocks[0].first.weight.shape == (6, 8)  # type: ignore[union-attr]
    assert stack(torch.randn(2, 3, 5)).shape == (2, 3, 2)


def test_a_stack_is_pre_norm_and_residual() -> None:
    torch.manual_seed(0)
    stack = ResidualStack(5, 2, 8, partial(MLP, hidden=6), depth=2, placement="none").double()
    x = torch.randn(7, 5, dtype=torch.float64)
    weights = dict(stack.named_parameters())
    h = x @ weights["input.weight"].T + weights["input.bias"]
    for i in range(2):
        z = F.layer_norm(h, (8,), weights[f"norms.{i}.weight"], weights[f"norms.{i}.bias"])
        z = (z @ weights[f"blocks.{i}.first.weight"].T + weights[f"blocks.{i}.first.bias"]).clamp(min=0)
        h = h + z @ weights[f"blocks.{i}.second.weight"].T + weights[f"blocks.{i}.second.bias"]
    h = F.layer_norm(h, (8,), weights["norm.weight"], weights["norm.bias"])
    torch.testing.assert_close(stack(x), h @ weights["output.weight"].T + weights["output.bias"])


def test_every_parameter_of_a_stack_of_mixtures_gets_a_gradient() -> None:
    torch.manual_seed(0)
    stack = ResidualStack(5, 2, 8, experts=partial(SparseMoE, num_experts=4, k=2, hidden=6), depth=2)
    stack(torch.randn(64, 5)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stack.parameters())


def test_a_stack_from_yaml_is_called_with_its_widths() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Callable[[int, int], nn.Module])
    experts = {"class_path": "modules.experts.layer.SparseMoE", "init_args": {"num_experts": 4, "hidden": 6}}
    arguments = {"width": 8, "depth": 3, "placement": "last", "experts": experts}
    given = {"class_path": "modules.experts.residual_stack.ResidualStack", "init_args": arguments}
    network = parser.instantiate_classes(parser.parse_object({"network": given})).network(5, 2)
    assert isinstance(network, ResidualStack)
    assert (network.input.in_features, network.output.out_features) == (5, 2)
    assert [type(block) for block in network.blocks] == [MLP, MLP, SparseMoE]
