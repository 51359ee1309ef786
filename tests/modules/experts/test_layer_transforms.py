"""The mixture layer under torch's own machinery: batches of any size, exports, transforms, dtypes, averages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modules.experts.layer import SparseMoE
from modules.networks.auxiliary_losses import collecting

ROUTINGS = ["noisy_top_k", "top_k", "bias_balanced", "expert_choice", "hierarchical", "soft"]


def make(routing: Any = "noisy_top_k", seed: int = 0, **arguments: Any) -> SparseMoE:
    torch.manual_seed(seed)
    if routing == "hierarchical":
        arguments["groups"] = 4
    return SparseMoE(6, 4, 8, 2, routing=routing, noise=False, **arguments)


def tokens(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ batches of any size
@pytest.mark.compile
@pytest.mark.parametrize(
    ("routing", "capacity_factor"),
    [("top_k", 1.25), ("bias_balanced", None), ("expert_choice", None), ("hierarchical", None)],
)
def test_batches_of_other_sizes_need_no_graphs_of_their_own(routing: str, capacity_factor: float | None) -> None:
    """One graph for the first size, one for all others."""
    layer, graphs = make(routing, capacity_factor=capacity_factor), []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for n in (20, 33, 7, 50, 64, 12):
        compiled(tokens(n))
    assert len(graphs) == 2


@pytest.mark.compile
@pytest.mark.parametrize("routing", ROUTINGS)
def test_an_export_takes_batches_of_any_size(routing: str) -> None:
    layer = make(routing).eval()
    with torch.no_grad():
        layer(tokens(40))
        batch = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(layer, (tokens(20),), dynamic_shapes=batch).module()
        counted = layer.expert_counts.clone()
        for n in (33, 2):
            torch.testing.assert_close(program(tokens(n)), layer(tokens(n)))
    assert not torch.equal(layer.expert_counts, counted)  # the file counts nothing, the layer does


# ---------------------------------------------------------------------------------------------- functional transforms
@pytest.mark.parametrize("routing", ROUTINGS)
def test_gradients_by_functional_transforms_are_those_of_autograd_and_change_no_state(routing: str) -> None:
    layer, x = make(routing).double(), tokens(20).double()
    layer(x)
    parameters, before = dict(layer.named_parameters()), {k: v.clone() for k, v in layer.state_dict().items()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        with collecting(layer) as auxiliary:
            y = functional_call(layer, parameters, (x,))
        return y.square().sum() + sum(auxiliary.losses.values())

    found = grad(loss)(parameters)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], torch.zeros_like(found[name]) if gradient is None else gradient)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_forward_derivatives_are_those_of_small_differences(routing: str) -> None:
    layer, x, step = make(routing).double(), tokens(20).double(), tokens(20, seed=2).double()
    _, found = jvp(layer, (x,), (step,))
    with torch.no_grad():
        layer.eval() if routing != "expert_choice" else None
    expected = (layer(x + 1e-6 * step) - layer(x - 1e-6 * step)) / 2e-6
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-7)


def test_vmap_is_refused_in_one_line_that_says_how_else() -> None:
    layer, x = make(), tokens(20)
    stacked = {name: torch.stack([p, p]) for name, p in layer.named_parameters()}
    for call in (
        lambda: vmap(layer)(x.view(4, 5, 6)),
        lambda: vmap(lambda p: functional_call(layer, p, (x,)))(stacked),
        lambda: vmap(grad(lambda x: layer(x).sum()))(x),
    ):
        with pytest.raises(ValueError, match=r"^a mixture of experts cannot run under torch.func.vmap, [^\n]*$"):
            call()
    assert layer(x.view(4, 5, 6)).shape == (4, 5, 4)  # all tokens in one call, as it says


# --------------------------------------------------------------------------------------------------------------- dtypes
@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half, lambda layer: layer.to(torch.bfloat16)])
@pytest.mark.parametrize(("routing", "name"), [("bias_balanced", "bias"), ("expert_choice", "thresholds")])
def test_what_a_router_learns_without_gradients_stays_in_float32(routing: str, name: str, cast: Any) -> None:
    layer, x = make(routing), tokens(200)
    with torch.no_grad():
        getattr(layer.router, name).fill_(0.1234567)
    cast(layer)
    statistic = getattr(layer.router, name)
    assert layer.experts.first.weight.dtype != torch.float32
    assert statistic.dtype == torch.float32
    assert statistic[0] == torch.tensor(0.1234567)
    assert layer(x.to(layer.router.weight.dtype)).dtype == layer.router.weight.dtype
    layer.after_update()
    assert layer.expert_counts.sum() == 400
    moved = getattr(layer.router, name)
    assert moved.dtype == torch.float32
    assert not torch.equal(moved, moved.bfloat16().float())  # steps that half precision could not hold
    assert getattr(layer.double().router, name).dtype == torch.float64


def test_a_router_that_is_made_in_half_precision_learns_in_float32() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer = make("bias_balanced")
    finally:
        torch.set_default_dtype(torch.float32)
    assert layer.router.bias.dtype == torch.float32


# ------------------------------------------------------------------------------------------------- averages and states
@pytest.mark.parametrize("routing", ROUTINGS)
def test_averaged_models_carry_the_counts_and_load_strictly(routing: str) -> None:
    layer = make(routing)
    averaged = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for seed in range(3):
        layer(tokens(20, seed))
        layer.after_update()
        averaged.update_parameters(layer)
    averaged(tokens(10))
    counted = averaged.module.expert_counts.clone()
    assert counted.sum() > 0
    other = AveragedModel(make(routing, seed=1), multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    other.load_state_dict(averaged.state_dict(), strict=True)
    assert torch.equal(other.module.expert_counts, counted)
    layer.load_state_dict(averaged.module.state_dict(), strict=True)
    torch.testing.assert_close(layer.eval()(tokens(10)), averaged.module.eval()(tokens(10)))


def test_a_mean_of_states_loads_strictly() -> None:
    first, second = make(), make(seed=1)
    first(tokens(20))
    second(tokens(40))
    states = first.state_dict(), second.state_dict()
    first.load_state_dict({name: (x + states[1][name]) / 2 for name, x in states[0].items()}, strict=True)
    assert abs(first.expert_counts.sum() - 60) <= 8  # two experts of each token, and each mean is rounded
    assert first.expert_counts.dtype == torch.int64


def test_layers_that_load_one_state_count_apart() -> None:
    first, second = make(), make(seed=1)
    state = make(seed=2).state_dict()
    first.load_state_dict(state)
    second.load_state_dict(state)
    first(tokens(20))
    assert second.expert_counts.sum() == 0
    assert not state["_extra_state"].any()
