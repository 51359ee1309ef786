"""A block-diagonal layer against a linear map for each of its blocks."""

from __future__ import annotations

import pytest
import torch

from modules.networks.block_linear import BlockLinear, cut, joined


def test_each_block_is_a_linear_map_of_its_own() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(6, 9, blocks=3)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 5, 6)
    parts = [x[..., 2 * g : 2 * g + 2] @ layer.weight[g].T for g in range(3)]
    torch.testing.assert_close(layer(x), torch.cat(parts, -1) + layer.bias)
    assert sum(p.numel() for p in layer.parameters()) == 6 * 9 // 3 + 9


def test_cutting_and_joining_are_inverse() -> None:
    x = torch.arange(12.0).view(2, 6)
    assert cut(x, 3)[1].tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert torch.equal(joined(cut(x, 3)), x)


def test_weights_start_as_small_as_those_of_a_dense_layer() -> None:
    torch.manual_seed(0)
    assert BlockLinear(400, 400, blocks=4).weight.std().item() == pytest.approx(400**-0.5, rel=0.02)


@pytest.mark.parametrize("widths", [(6, 8), (8, 6)])
def test_blocks_must_divide_both_widths(widths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="blocks must divide both widths of the layer, got 4 and a width of 6"):
        BlockLinear(*widths, blocks=4)
