"""Stacked members against one plain network each."""

import pytest
import torch
from torch import nn

from modules.networks.ensemble import (
    EnsembleLinear,
    EnsembleMLP,
    fused_product,
    project_weights,
    torch_default,
    xavier_normal,
)


def test_every_member_equals_a_plain_network() -> None:
    torch.manual_seed(0)
    stacked = EnsembleMLP(4, 5, [16, 8], 2)
    x = torch.randn(4, 10, 5)
    out = stacked(x)
    assert out.shape == (4, 10, 2)
    for m in range(4):
        torch.testing.assert_close(stacked.member(m)(x[m]), out[m], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stacked(x[1:3], slice(1, 3)), out[1:3])


def test_normalised_hidden_layers_equal_those_of_a_plain_network() -> None:
    torch.manual_seed(0)
    stacked = EnsembleMLP(3, 5, [16, 8], 1, layer_norm=True)
    x = torch.randn(3, 10, 5)
    for m in range(3):
        member = stacked.member(m)
        assert [type(layer).__name__ for layer in member] == ["Linear", "LayerNorm", "ReLU"] * 2 + ["Linear"]
        torch.testing.assert_close(member(x[m]), stacked(x)[m], rtol=1e-5, atol=1e-6)
    hidden = stacked.member(0)[1](stacked.member(0)[0](x[0]))
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(10), rtol=0, atol=1e-6)
    # However large the weights of a hidden layer, what it gives stays of one size.
    with torch.no_grad():
        stacked.layers[0].weight.mul_(1e4)
        stacked.layers[0].bias.zero_()
    assert (stacked(x).abs() < 10).all()


def test_gradients_of_members_do_not_mix_even_when_one_is_not_finite() -> None:
    stacked = EnsembleMLP(3, 4, [8], 1)
    x = torch.randn(3, 6, 4)
    x[1] = float("nan")
    stacked(x).square().mean((1, 2)).sum().backward()
    for p in stacked.parameters():
        assert torch.isfinite(p.grad[0]).all()
        assert torch.isfinite(p.grad[2]).all()
        assert not torch.isfinite(p.grad[1]).all()  # type: ignore[index]


@pytest.mark.parametrize(("members", "rows", "width"), [(1, 256, 256), (2, 256, 256), (4, 100, 32)])
def test_gradients_of_one_output_are_those_of_the_batched_product_to_the_bit(
    members: int, rows: int, width: int
) -> None:
    torch.manual_seed(0)
    layer = EnsembleLinear(members, d_in=width, d_out=1)
    x = torch.randn(members, rows, width, requires_grad=True)
    tensors = (layer.bias, x, layer.weight)
    weights = torch.randn(members, rows, 1)
    found, known = layer(x), torch.baddbmm(*tensors)
    assert torch.equal(found, known)
    mine, plain = (torch.autograd.grad((y * weights).sum(), tensors) for y in (found, known))
    for a, b in zip(mine, plain, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def test_gradients_of_one_output_have_gradients_themselves() -> None:
    torch.manual_seed(0)
    layer = EnsembleLinear(2, d_in=3, d_out=1).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_products_for_a_compiler_are_those_of_plain_layers() -> None:
    torch.manual_seed(0)
    for width in (1, 6, 40):
        x, weight = torch.randn(3, 10, 20), torch.randn(3, 20, width)
        torch.testing.assert_close(fused_product(x, weight), torch.bmm(x, weight), rtol=1e-5, atol=1e-5)


def test_a_member_starts_as_it_would_alone() -> None:
    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    both = EnsembleMLP(2, 4, [8], 1, xavier_normal, [generator(7), generator(8)])
    alone = EnsembleMLP(1, 4, [8], 1, xavier_normal, [generator(8)])
    for p, q in zip(both.parameters(), alone.parameters(), strict=True):
        assert torch.equal(p[1:], q)


def test_initializers_have_the_expected_frobenius_norms() -> None:
    # Expected norms at width 256: sqrt(256 * 256 * 2 / 512) = 16 and sqrt(256 * 256 / (3 * 256)) = 9.24
    for initializer, expected in ((xavier_normal, 16.0), (torch_default, 9.24)):
        layer = EnsembleLinear(1, d_in=256, d_out=256)
        layer.reset_parameters(initializer)
        assert abs(layer.weight.norm().item() - expected) < 0.2


def test_last_layer_stays_in_float32_under_autocast() -> None:
    stacked = EnsembleMLP(1, 4, [64, 64], 1)
    with torch.no_grad():
        stacked.layers[-1].bias.fill_(300.3)  # type: ignore[union-attr, operator]
    with torch.autocast("cpu", torch.bfloat16):
        out = stacked(torch.zeros(1, 2, 4))
    assert out.dtype == torch.float32
    assert abs(out[0, 0, 0].item() - 300.3) < 0.5  # bfloat16 would give 300 or 302


def test_projection_binds_per_member_on_weights_only() -> None:
    network = nn.Sequential(EnsembleLinear(2, d_in=3, d_out=3), nn.LayerNorm(3))
    layer, norm = network[0], network[1]
    with torch.no_grad():
        layer.weight[0].fill_(100.0)  # type: ignore[index, operator]
        layer.weight[1].fill_(0.1)  # type: ignore[index, operator]
        layer.bias.fill_(1000.0)  # type: ignore[union-attr, operator]
        norm.weight.fill_(1000.0)  # type: ignore[union-attr, operator]
    project_weights(network, 6.0)
    torch.testing.assert_close(layer.weight[0], torch.full((3, 3), 2.0))  # type: ignore[index]
    assert torch.equal(layer.weight[1], torch.full((3, 3), 0.1))  # type: ignore[index]
    assert (layer.bias == 1000.0).all()
    assert (norm.weight == 1000.0).all()
