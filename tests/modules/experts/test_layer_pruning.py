"""Pruned mixtures: the same function where nothing was removed, optimisers that go on, states that load."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.agent.descent import descend, make_adam
from modules.experts.layer import SparseMoE

DEAD, LEFT = [1, 3, 4, 6], [0, 2, 5, 7]  # of eight
ROUTINGS: dict[str, dict[str, Any]] = {
    "noisy_top_k": {},
    "top_k": {},
    "bias_balanced": {},
    "hierarchical": {"groups": 2, "k_groups": 2, "k": 4},  # groups of four, two experts of each
    "modules": {"expert": nn.Linear},
    "shared": {"num_shared_experts": 1},
    "capacity": {"capacity_factor": 8.0},
    "swiglu": {"activation": "swiglu"},
}


def tokens(n: int = 200) -> Tensor:
    """Quarters: with a gate of quarters its products are exact, in whatever order a library adds them up."""
    x = torch.randint(-12, 13, (n, 5)) / 4
    x[:, 0] = 1.0  # a constant feature: its row of the gate is a bias
    return x


def collapsed(name: str, dead: list[int] = DEAD, **changed: Any) -> SparseMoE:
    """A mixture of eight experts whose router never chooses the dead ones, in eval mode."""
    torch.manual_seed(0)
    routing = name if name in ("noisy_top_k", "top_k", "bias_balanced", "hierarchical") else "noisy_top_k"
    layer = SparseMoE(5, 3, **{"num_experts": 8, "k": 2, "routing": routing, **ROUTINGS.get(name, {}), **changed})
    with torch.no_grad():
        layer.router.weight.copy_(torch.randint(-8, 9, layer.router.weight.shape) / 4)
        layer.router.weight[0, dead] = -100.0
    return layer.eval()


def pruned(layer: SparseMoE, **arguments: Any) -> SparseMoE:
    torch.manual_seed(1)
    layer.reset_counts()
    layer(tokens(1000))
    layer.prune(**arguments)
    return layer


@pytest.mark.parametrize("name", ROUTINGS)
def test_tokens_that_used_no_removed_expert_are_computed_the_same_to_the_bit(name: str) -> None:
    layer = collapsed(name)
    x = tokens()
    before = layer(x)
    gradients = torch.autograd.grad(before.square().sum(), [layer.router.weight, *layer.experts.parameters()])

    layer.reset_counts()
    assert torch.equal(layer(x), before)
    assert layer.prune() == LEFT
    assert layer.num_experts == 4
    assert torch.equal(layer(x), before)

    after = torch.autograd.grad(layer(x).square().sum(), [layer.router.weight, *layer.experts.parameters()])
    columns = torch.tensor(LEFT if layer.router.weight.shape[1] == 4 else [*LEFT, *(8 + i for i in LEFT)])
    torch.testing.assert_close(after[0], gradients[0][:, columns])
    if name == "modules":
        kept = [gradients[1 + 2 * i + j] for i in LEFT for j in range(2)]
    else:
        kept = [g[LEFT] for g in gradients[1:]]
    for new, old in zip(after[1:], kept, strict=True):
        torch.testing.assert_close(new, old)


def test_tokens_of_a_removed_expert_go_to_the_next_best() -> None:
    layer = collapsed("top_k", dead=[])
    x = torch.randn(200, 5)
    scores = layer.router.gate(x)
    layer.keep(torch.tensor(LEFT))
    layer(x)
    expected = torch.zeros(4, dtype=torch.int64)
    for row in scores[:, LEFT].topk(2).indices:
        expected[row] += 1
    assert layer.expert_counts.tolist() == expected.tolist()


def test_the_share_decides_and_the_most_used_expert_stays() -> None:
    def kept(counts: list[int], min_share: float) -> list[int]:
        layer = SparseMoE(5, 3, num_experts=len(counts), k=1)
        return layer.prune(min_share, counts=torch.tensor(counts))

    assert kept([0, 1, 0, 999], 0.0) == [1, 3]
    assert kept([0, 1, 0, 999], 1e-3) == [3]
    assert kept([0, 2, 0, 998], 1e-3) == [1, 3]
    assert kept([5, 5, 5], 0.0) == [0, 1, 2]
    assert kept([2, 3, 2], 0.9) == [1]


def test_mistakes_are_named() -> None:
    layer = SparseMoE(5, 3)
    with pytest.raises(ValueError, match="no row was counted"):
        layer.prune()
    with pytest.raises(ValueError, match=r"min_share must lie in \[0, 1\), got 1.0"):
        layer.prune(1.0)


def test_fewer_experts_than_k_are_all_chosen() -> None:
    layer = SparseMoE(5, 3, num_experts=4, k=3, routing="top_k")
    layer.keep(torch.tensor([1, 3]))
    assert layer.k == 2
    layer(tokens(10))
    assert layer.expert_counts.tolist() == [10, 10]


# ---------------------------------------------------------------------------------------------------------- optimisers
def adam_step(optimizer: torch.optim.Adam, loss: Tensor) -> None:
    descend(optimizer, loss)


def torch_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


OPTIMIZERS: dict[str, tuple[Callable[[Iterable[nn.Parameter]], Any], Callable[[Any, Tensor], None]]] = {
    "descend": (lambda p: make_adam(p, 1e-2), adam_step),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True), torch_step),
    "sgd": (lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9), torch_step),
}


@pytest.mark.parametrize("name", ["top_k", "hierarchical", "modules"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_as_if_the_unused_experts_were_still_there(name: str, optimizer: str) -> None:
    make, step = OPTIMIZERS[optimizer]
    layers = [collapsed(name) for _ in range(2)]
    optimizers = [make(layer.parameters()) for layer in layers]
    batches = [(tokens(64), torch.randn(64, 3)) for _ in range(12)]
    for i, (x, target) in enumerate(batches):
        if i == 6:
            layers[0].reset_counts()
            layers[0](x)
            assert layers[0].prune(optimizers=optimizers[:1]) == LEFT
        for layer, own in zip(layers, optimizers, strict=True):
            step(own, (layer(x) - target).square().mean())
    layers[1].keep(torch.tensor(LEFT), optimizers[1:])
    for small, whole in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        torch.testing.assert_close(small, whole)
        mine, theirs = (o.state[p] for o, p in zip(optimizers, (small, whole), strict=True))
        assert mine.keys() == theirs.keys()
        assert mine
        for key in mine:
            torch.testing.assert_close(mine[key], theirs[key])
    for own, layer in zip(optimizers, layers, strict=True):
        held = [id(p) for group in own.param_groups for p in group["params"]]
        assert held == [id(p) for p in layer.parameters()]
        assert len(own.state) == len(held)


def test_gradients_fit_while_an_older_graph_is_alive() -> None:
    layer = collapsed("noisy_top_k")
    older = layer(tokens())
    pruned(layer)
    parameters = list(layer.parameters())
    gradients = torch.autograd.grad(layer(tokens()).sum(), parameters)
    assert [g.shape for g in gradients] == [p.shape for p in parameters]
    layer(tokens()).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in parameters)
    with pytest.raises(RuntimeError, match="must match the size"):  # never wrong gradients in silence
        older.sum().backward()


@pytest.mark.compile
def test_a_compiled_update_follows() -> None:
    torch.compiler.reset()
    eager, layer = collapsed("noisy_top_k"), collapsed("noisy_top_k")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = tokens(64)
    for prune in (False, True):
        if prune:
            pruned(eager)
            pruned(layer)
        y, expected = compiled(x), eager(x)
        torch.testing.assert_close(y, expected)
        ours = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        theirs = torch.autograd.grad(expected.square().sum(), list(eager.parameters()))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
    assert layer.expert_counts.tolist() == eager.expert_counts.tolist()


# -------------------------------------------------------------------------------------------------------------- states
@pytest.mark.parametrize("name", ROUTINGS)
def test_the_state_of_a_pruned_layer_loads_into_a_fresh_one(name: str) -> None:
    layer = nn.Sequential(nn.Linear(5, 5), pruned(collapsed(name))).eval()
    torch.manual_seed(1)
    fresh = nn.Sequential(nn.Linear(5, 5), collapsed(name, dead=[])).eval()
    fresh.load_state_dict(layer.state_dict())
    x = tokens()
    assert torch.equal(fresh(x), layer(x))
    assert fresh[1].expert_counts.tolist() == layer[1].expert_counts.tolist()
    assert fresh[1].k == layer[1].k
    assert torch.equal(copy.deepcopy(fresh)(x), layer(x))
    torch.autograd.grad(fresh(x).sum(), list(fresh[1].parameters()))


@pytest.mark.parametrize("left", [[0, 2, 4, 6], [3, 4, 5, 7], [6, 7], [1, 2, 3, 4, 5, 6, 7]])
def test_groups_of_any_sizes_load(left: list[int]) -> None:
    shape: dict[str, Any] = {"groups": 4, "k_groups": 2, "k": 4}
    layer = collapsed("hierarchical", dead=[], **shape)
    layer.keep(torch.tensor(left))
    fresh = collapsed("hierarchical", dead=[], **shape)
    fresh.load_state_dict(layer.state_dict())
    x = tokens()
    assert torch.equal(fresh(x), layer(x))
    assert fresh.router.table.tolist() == layer.router.table.tolist()


def test_groups_that_cannot_hold_the_state_are_refused() -> None:
    layers = [collapsed("hierarchical", dead=[], groups=4, k_groups=2, k=4) for _ in range(2)]
    layers[0].keep(torch.tensor([0, 1, 2, 4]))
    layers[1].keep(torch.tensor([0, 2, 3, 4, 5]))
    with pytest.raises(ValueError, match=r"groups of \[2, 1, 1\] experts, this layer of \[1, 2, 2\]"):
        layers[1].load_state_dict(layers[0].state_dict())


def test_a_layer_pruned_twice_loads_into_one_pruned_once() -> None:
    layer, other = pruned(collapsed("noisy_top_k")), pruned(collapsed("noisy_top_k"))
    layer.keep(torch.tensor([0, 2, 3]))
    other.load_state_dict(layer.state_dict())
    x = tokens()
    assert torch.equal(other(x), layer(x))
    with pytest.raises(ValueError, match="the state holds 8 experts, this layer 3: set num_experts"):
        other.load_state_dict(collapsed("noisy_top_k").state_dict())


@pytest.mark.parametrize("name", ["top_k", "modules"])
def test_a_fresh_optimizer_takes_the_state_of_one_that_was_pruned(name: str) -> None:
    layer = collapsed(name)
    optimizer = make_adam(layer.parameters(), 1e-2)
    descend(optimizer, layer(tokens()).square().mean())
    pruned(layer, optimizers=[optimizer])
    descend(optimizer, layer(tokens()).square().mean())

    fresh = collapsed(name, dead=[])
    other = make_adam(fresh.parameters(), 1e-2)
    fresh.shrink_to(layer.state_dict(), optimizers=[other])
    fresh.load_state_dict(layer.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    x = tokens()
    for mixture, own in ((layer, optimizer), (fresh, other)):
        descend(own, mixture(x).square().mean())
    for a, b in zip(layer.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)
