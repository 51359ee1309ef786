"""Mixtures: noise, and who visits whom under every kind of routing."""

import copy
import math

import pytest
import torch
from mixture_layers import BY_TOKEN, ROUTINGS, make, tokens
from torch import nn

from modules.experts.layer import (
    sparse_layers,
)
from modules.networks.blocks import MLP
from modules.networks.updates import noise_set, noisy_layers, set_noise


# --------------------------------------------------------------------------------------------------------------- noise
def test_noise_follows_its_own_switch():
    layer, x = make(), tokens()
    assert not torch.equal(layer(x), layer(x))  # while training, unless told otherwise
    layer.noise = False
    quiet = layer(x)
    assert torch.equal(quiet, layer(x))
    assert torch.equal(quiet, layer.eval()(x))
    layer.noise = True
    assert not torch.equal(layer(x), quiet)


def test_no_noise_in_evaluation():
    layer, x = make().eval(), tokens()
    assert torch.equal(layer(x), layer(x))


def test_switch_of_all_nested_layers():
    network = nn.Sequential(make(d_out=6), nn.Sequential(make(), nn.ReLU()))
    assert list(sparse_layers(network)) == ["0", "1.0"]
    network[0].noise = True
    with noise_set(noisy_layers(network).values(), False):
        assert [layer.noise for layer in sparse_layers(network).values()] == [False, False]
    assert [layer.noise for layer in sparse_layers(network).values()] == [True, None]
    set_noise(network, False)
    assert torch.equal(network(tokens()), network(tokens()))


def test_noise_is_normal_with_the_softplus_of_its_own_weights(monkeypatch):
    layer = make(num_experts=2, k=1)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[0, 2] = 1.0  # noise of the first expert grows with the first feature
    monkeypatch.setattr(torch, "randn_like", lambda t: torch.tensor([[1.0, 2.0]]).expand_as(t))
    x = torch.zeros(1, 6)
    x[0, 0] = 3.0
    rows = layer.router(x, True).rows
    noisy = torch.tensor([math.log1p(math.exp(3.0)) + 0.01, 2 * (math.log(2.0) + 0.01)])
    assert rows.expert.item() == 0
    torch.testing.assert_close(rows.weight, noisy.softmax(0)[:1])


# ------------------------------------------------------------------------------------------------------------- routing
@pytest.mark.parametrize("routing", BY_TOKEN)
def test_output_does_not_depend_on_the_other_tokens(routing):
    layer, x = make(routing, noise=False), tokens()
    order = torch.randperm(len(x))
    torch.testing.assert_close(layer(x[order]), layer(x)[order])
    torch.testing.assert_close(layer(x[:1]), layer(x)[:1])


def test_expert_choice_is_even_in_training_and_blind_to_neighbours_outside():
    layer, x = make("expert_choice"), tokens()
    for _ in range(300):
        layer(tokens(seed=torch.randint(1 << 30, ()).item()))
    layer.reset_counts()
    layer(x)
    assert layer.expert_counts.tolist() == [50] * 8  # 200 tokens, 2 of 8 experts each
    for quiet in (layer, layer.eval()):
        with torch.no_grad():
            torch.testing.assert_close(quiet(x[:1]), quiet(x)[:1])
    layer.reset_counts()
    layer(tokens(5000, seed=9))
    assert layer.expert_counts.sum() == pytest.approx(2 * 5000, rel=0.1)  # thresholds keep k on average


def test_all_experts_equal_the_dense_mixture():
    layer, x = make("top_k", k=8).double(), tokens().double()
    w1, b1 = layer.experts.first.weight, layer.experts.first.bias
    w2, b2 = layer.experts.second.weight, layer.experts.second.bias
    outputs = torch.relu(x @ w1 + b1) @ w2 + b2  # [E, N, d_out]
    expected = torch.einsum("eno,ne->no", outputs, (x @ layer.router.weight).softmax(1))
    torch.testing.assert_close(layer(x), expected)
    soft = make("soft").double()
    soft.load_state_dict(layer.state_dict())
    torch.testing.assert_close(soft(x), expected)


@pytest.mark.parametrize("routing", ["noisy_top_k", "top_k", "expert_choice", "soft"])
def test_a_single_expert_is_a_plain_network(routing):
    layer, x = make(routing, num_experts=1, k=1), tokens()
    w1, w2 = layer.experts.first, layer.experts.second
    plain = torch.relu(x @ w1.weight[0] + w1.bias[0]) @ w2.weight[0] + w2.bias[0]
    torch.testing.assert_close(layer(x), plain)


def test_hierarchical_weights_are_products_of_both_levels():
    layer, x = make("hierarchical", num_experts=6, k=4, groups=3, noise=False).double(), tokens(20).double()
    nn.init.normal_(layer.router.weight)
    nn.init.normal_(layer.router.primary.weight)
    first = x @ layer.router.primary.weight[:, :3]
    second = (x @ layer.router.weight[:, :6]).unflatten(1, (3, 2))
    for n in range(20):
        groups = first[n].topk(2)
        expected = torch.zeros(6, dtype=torch.float64)
        for share, group in zip(groups.values.softmax(0), groups.indices.tolist(), strict=True):
            expected[2 * group : 2 * group + 2] = share * second[n, group].softmax(0)
        rows = layer.router(x[n : n + 1], False).rows
        mine = torch.zeros(6, dtype=torch.float64).index_put((rows.expert,), rows.weight)
        torch.testing.assert_close(mine, expected)
    # The logits that entropy is taken of are the joint log-probabilities.
    joint = first.log_softmax(1).unsqueeze(2) + second.log_softmax(2)
    torch.testing.assert_close(layer.router(x, False).logits.log_softmax(1), joint.flatten(1))


def test_hierarchical_load_adds_up(monkeypatch):
    from modules.experts import routers

    loads = []
    monkeypatch.setattr(routers, "squared_variation", lambda x: loads.append(x.detach()) or x.sum() * 0)
    layer = make("hierarchical", num_experts=12, k=4, groups=4)
    layer(tokens(4096))
    importance, load = loads
    assert importance.sum() == pytest.approx(4096, rel=1e-4)
    assert load.sum() == pytest.approx(4 * 4096, rel=0.05)


def test_bias_lifts_an_expert_that_nobody_chooses():
    layer, x = make("bias_balanced", num_experts=4, k=1), tokens().abs()
    layer.router.rate = 0.01
    with torch.no_grad():
        layer.router.weight[:, 3] = -1.0
    layer(x)
    assert layer.expert_counts[3] == 0
    for _ in range(200):
        layer(x)
        layer.after_update()
    layer.reset_counts()
    layer(x)
    assert layer.expert_counts[3] > 20
    assert layer.router.bias.sum().abs() < 1e-4


def test_rebalancing_goes_by_all_training_passes_whatever_else_is_counted():
    layer, x = make("bias_balanced"), tokens()
    other = copy.deepcopy(layer)
    layer(x)
    layer.reset_counts()
    with torch.no_grad():
        layer(tokens(5000).abs())
    layer(x)
    other(x)
    other(x)
    layer.after_update()
    other.after_update()
    assert torch.equal(layer.router.bias, other.router.bias)
    assert layer.router.bias.abs().sum() > 0


def test_capacity_drops_and_counts():
    layer = make("top_k", num_experts=4, k=1, capacity_factor=1.0)
    with torch.no_grad():
        layer.router.weight[:, 0] += 9.0
    x = tokens(40).abs()
    y = layer(x)
    assert layer.expert_counts.tolist() == [10, 0, 0, 0]
    assert layer.dropped_rows == 30
    assert y[:10].abs().sum() > 0
    assert y[10:].eq(0).all()


def test_shared_experts_see_every_token():
    layer = make(num_shared_experts=2, hidden=5, noise=False)
    without = make(hidden=5, noise=False)
    without.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(tokens()) - without(tokens()), layer.shared(tokens()))
    assert layer.shared.first.out_features == 10


@pytest.mark.parametrize("routing", ROUTINGS)
def test_any_module_as_expert(routing):
    layer = make(routing, expert=lambda i, o: MLP(i, o, 7, "gelu"), noise=False)
    same = make(routing, hidden=7, activation="gelu", noise=False)
    same.router.load_state_dict(layer.router.state_dict())
    with torch.no_grad():
        for e, expert in enumerate(layer.experts.modules_by_expert):
            for stacked, linear in ((same.experts.first, expert.first), (same.experts.second, expert.second)):
                stacked.weight[e], stacked.bias[e, 0] = linear.weight.T, linear.bias
    x, y = tokens().requires_grad_(), tokens().requires_grad_()
    first, second = layer(x), same(y)
    torch.testing.assert_close(first, second)
    first.square().sum().backward()
    second.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(layer.router.weight.grad, same.router.weight.grad)
    assert all(p.grad is not None for p in layer.experts.parameters())  # also of experts without tokens
