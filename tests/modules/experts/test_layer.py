"""The mixture layer: routing of every kind, balance, shapes, dtypes, compilation, state and bad input."""

import copy
import math
import pickle

import pytest
import torch
from mixture_layers import ROUTINGS, choices, make, tokens
from torch import nn

from modules.experts.layer import (
    SparseMoE,
)
from modules.networks.auxiliary_losses import collecting
from modules.networks.updates import noise_set


# --------------------------------------------------------------------------------------------------------- regressions
@pytest.mark.parametrize("k", [1, 2, 3])
def test_load_estimate_adds_up_to_k_per_token(k, monkeypatch):
    """Thresholds that are probabilities where logits belong made the load loss of a well-known layer inert."""
    from modules.experts import routers

    loads = []
    monkeypatch.setattr(routers, "squared_variation", lambda x: loads.append(x.detach()) or x.sum() * 0)
    layer = make(k=k, num_experts=16)
    nn.init.normal_(layer.router.weight)  # far from the balanced start
    layer(tokens(4096))
    importance, load = loads
    assert load.sum() == pytest.approx(k * 4096, rel=0.03)
    # The weights of a token add up to 1; a single one is the greatest of 16 probabilities.
    assert 4096 / 16 < importance.sum() < 4096 if k == 1 else importance.sum() == pytest.approx(4096, rel=1e-4)
    assert load.std() > 0.1 * load.mean()


@pytest.mark.parametrize("routing", ["noisy_top_k", "top_k", "bias_balanced"])
@pytest.mark.parametrize("k", [1, 2])
def test_task_reaches_the_router_also_with_one_expert_per_token(routing, k):
    sizes = []
    for experts_per_token in (2, k):
        layer = make(routing, k=experts_per_token)
        (gradient,) = torch.autograd.grad(layer(tokens()).square().sum(), layer.router.weight)
        sizes.append(gradient[:, : layer.num_experts].norm().item())
    assert sizes[1] > 0.05 * sizes[0]


@pytest.mark.parametrize("routing", ROUTINGS)
def test_evaluation_at_the_start_does_not_send_everything_to_two_experts(routing):
    layer = make(routing).eval()
    visited = choices(layer, tokens(1000))
    assert (visited.float().mean(0) > 0.02).all()


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 7, 6), (2, 3, 4, 6)])
def test_any_leading_axes(routing, shape):
    layer = make(routing).eval()
    x = torch.randn(shape)
    y = layer(x)
    assert y.shape == (*shape[:-1], 4)
    torch.testing.assert_close(y.reshape(-1, 4), layer(x.reshape(-1, 6)))


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_of_the_tokens_stays(routing, dtype):
    layer = make(routing).to(dtype)
    y = layer(tokens().to(dtype))
    assert y.dtype == dtype
    assert layer.last_logits.dtype == (torch.float32 if dtype == torch.bfloat16 else torch.float64)


def test_autocast_rounds_the_experts_but_not_the_router():
    layer = make().eval()
    exact = layer(tokens())
    logits = layer.last_logits
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(tokens())
    assert y.dtype == torch.bfloat16
    assert torch.equal(layer.last_logits, logits)
    torch.testing.assert_close(y.float(), exact, atol=0.03, rtol=0.03)
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters() if p.grad is not None)


# ------------------------------------------------------------------------------------------------------------- balance
def test_losses_enter_by_name_with_their_weights():
    network = nn.Sequential(make(d_out=6), nn.ReLU(), make("top_k", loss_weights={"router_z": 0.5}))
    with collecting(network) as auxiliary:
        network(tokens())
    assert auxiliary.weights == {"0/importance": 0.1, "0/load": 0.1, "2/load_balance": 0.01, "2/router_z": 0.5}
    assert set(auxiliary.losses) == set(auxiliary.weights)
    assert all(loss.ndim == 0 and loss.requires_grad for loss in auxiliary.losses.values())


@pytest.mark.parametrize("routing", ["noisy_top_k", "top_k", "hierarchical"])
def test_descending_the_losses_evens_out_a_collapsed_router(routing):
    layer, x = make(routing), tokens(512)
    x[:, 0] = 1.0  # what makes a preference for an expert the same for all tokens
    with torch.no_grad():
        layer.router.weight[0, [0, 2]] += 3.0
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)

    def variation():
        layer.reset_counts()
        with torch.no_grad(), noise_set([layer], False):
            layer(x)
        counts = layer.expert_counts.float()
        return (counts.std(correction=0) / counts.mean()).item()

    before = variation()
    for _ in range(150):
        with collecting(layer) as auxiliary:
            layer(x)
        optimizer.zero_grad()
        sum(auxiliary.weights[name] * loss for name, loss in auxiliary.losses.items() if name != "router_z").backward()
        optimizer.step()
    assert variation() < 0.5 * before


def test_pass_without_gradients_computes_no_losses():
    layer = make()
    with collecting(layer) as auxiliary, torch.no_grad():
        layer(tokens())
    assert auxiliary.losses == auxiliary.weights == {}
    assert layer.expert_counts.sum() == 400  # two experts of each token


# ----------------------------------------------------------------------------------------------- shapes at the margins
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("n", [0, 1])
def test_no_token_and_one_token(routing, n):
    layer = make(routing)
    x = torch.randn(n, 6, requires_grad=True)
    with collecting(layer) as auxiliary:
        y = layer(x)
    assert y.shape == (n, 4)
    total = y.sum() + sum(auxiliary.weights[name] * loss for name, loss in auxiliary.losses.items())
    gradients = torch.autograd.grad(total, list(layer.parameters()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)
    assert layer.eval()(x).shape == (n, 4)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_whole_layer_passes_gradcheck(routing):
    layer = make(routing, num_experts=4, noise=False, activation="gelu").double()
    with torch.no_grad():
        layer.router.weight[:, :4] += torch.randn(6, 4, dtype=torch.float64)  # away from ties
    x = tokens(9).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x), (x,))


# --------------------------------------------------------------------------------------------------------- compilation
@pytest.mark.compile
@pytest.mark.parametrize("routing", ROUTINGS)
def test_compiles_into_one_graph_and_never_again(routing):
    layer = make(routing, noise=False)
    plain = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for seed, scale in ((0, 1.0), (1, 0.0), (2, 30.0)):
        with torch.compiler.set_stance("default" if seed == 0 else "fail_on_recompile"):
            x = scale * tokens(seed=seed)
            y, expected = compiled(x), plain(x)
            torch.testing.assert_close(y, expected)
            mine = torch.autograd.grad(y.square().sum(), list(layer.parameters()), allow_unused=True)
            theirs = torch.autograd.grad(expected.square().sum(), list(plain.parameters()), allow_unused=True)
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert torch.equal(layer.expert_counts, plain.expert_counts)


@pytest.mark.compile
@pytest.mark.parametrize("capacity_factor", [None, 0.6])
def test_grouped_products_compile_in_bfloat16(capacity_factor):
    arguments = {"d_in": 16, "d_out": 16, "backend": "grouped", "capacity_factor": capacity_factor}
    layer, x = make("top_k", **arguments).bfloat16(), tokens(64, 16).bfloat16()
    torch._dynamo.reset()
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, layer(x))
    y.float().square().sum().backward()
    mine = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    layer(x).float().square().sum().backward()
    torch.testing.assert_close(mine, [p.grad for p in layer.parameters()], atol=0.1, rtol=0.05)


@pytest.mark.slow
@pytest.mark.compile
def test_compiled_by_the_default_compiler():
    layer, x = make(noise=False), tokens()
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x))


# --------------------------------------------------------------------------------------------------------------- state
def test_counts_are_state_but_no_buffers():
    """Plain data parallel training overwrites buffers of all ranks with those of the first."""
    layer = make()
    layer(tokens())
    assert not list(layer.buffers())
    other = make(seed=5)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.expert_counts, layer.expert_counts)
    assert layer.expert_counts.sum() == 400
    layer.reset_counts()
    assert layer.expert_counts.sum() == 0
    assert other.expert_counts.sum() == 400


def test_copies_and_pickles_leave_the_last_pass_out():
    layer = make(noise=False)
    layer(tokens())
    twin = copy.deepcopy(layer)
    assert twin.last_logits is None
    assert torch.equal(twin(tokens()), layer(tokens()))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(tokens()), layer(tokens()))


def test_counts_move_with_the_layer():
    layer = make().to("meta")
    assert layer.expert_counts.device.type == "meta"


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 9}, "k=9 experts per token are more than the num_experts=8"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"num_experts": 0, "k": 1}, "num_experts must be at least 1, got 0"),
        ({"d_in": -1}, "d_in must be at least 1"),
        ({"d_out": 0}, "d_out must be at least 1"),
        ({"hidden": 0}, "hidden must lie in"),
        ({"num_shared_experts": -1}, "num_shared_experts must lie in"),
        ({"capacity_factor": 0.0}, "capacity_factor must lie in"),
        ({"routing": "best"}, "routing must be one of noisy_top_k, top_k"),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, swiglu"),
        ({"backend": "gpu"}, "backend must be one of auto, loop"),
        ({"groups": 2}, "groups belongs to routing: hierarchical"),
        ({"routing": "hierarchical", "groups": 3}, "groups must divide num_experts=8, got 3"),
        ({"routing": "hierarchical", "groups": 4, "k": 3}, "k must be k_groups"),
        ({"loss_weights": {"z": 1.0}}, "noisy_top_k has no loss z; its losses: importance, load"),
        ({"expert": nn.Linear, "hidden": 4}, "would be ignored"),
    ],
)
def test_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseMoE(**{"d_in": 6, "d_out": 4, **arguments})


def test_wrong_width_is_named():
    with pytest.raises(ValueError, match=r"tokens of width 6, got \[3, 5\]"):
        make()(torch.zeros(3, 5))


@pytest.mark.parametrize("expert", [None, nn.Linear])
def test_input_that_is_not_finite_names_its_row(expert):
    x = tokens()
    x[17, 2] = math.nan
    with pytest.raises(ValueError, match="1 of 200 tokens, the first is row 17"):
        make(expert=expert)(x)


def test_state_with_more_experts_is_refused():
    with pytest.raises(ValueError, match="the state holds 9 experts, this layer 8"):
        make().load_state_dict(make(num_experts=9).state_dict())
