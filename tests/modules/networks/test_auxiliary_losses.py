"""The scope that collects auxiliary losses: which passes it counts, with which weight, and what it holds on to."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.experts.layer import RoutingName, SparseMoE
from modules.networks.auxiliary_losses import collecting, hand_in


class Balanced(nn.Linear):
    """Hands in the mean square of its output, and remembers weakly that it did."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.handed: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        loss = y.square().mean()
        self.handed.append(weakref.ref(loss))
        hand_in(self, {"square": loss} if torch.is_grad_enabled() else {}, {"square": 0.5}, len(x))
        return y


def inputs(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, generator=generator) for n in lengths]


def mixtures(routing: RoutingName = "noisy_top_k") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(SparseMoE(3, 3, 4, routing=routing), nn.ReLU(), SparseMoE(3, 3, 4, routing="top_k"))


def test_one_pass_gives_the_loss_itself_and_several_their_mean_per_token() -> None:
    layer, (x, y, unseen) = Balanced(), inputs(6, 2, 4)
    with collecting(layer) as one:
        first = layer(x)
    assert one.losses["square"] is layer.handed[0]()
    assert one.weights == {"square": 0.5}
    with collecting(layer) as both:
        layer(x)
        layer(y)
    layer(unseen)
    torch.testing.assert_close(both.losses["square"], torch.cat([first, layer(y)]).square().mean())


def test_names_are_paths_in_the_order_of_the_modules() -> None:
    network = nn.ModuleDict({"b": nn.Sequential(Balanced()), "a": Balanced(), "idle": Balanced()})
    (x,) = inputs(4)
    with collecting(network) as auxiliary:
        network["a"](x)
        network["b"](x)
    assert list(auxiliary.losses) == list(auxiliary.weights) == ["b.0/square", "a/square"]


def test_a_network_that_is_the_only_member_has_the_names_of_its_layers() -> None:
    (x,) = inputs(4)
    for network, name in ((Balanced(), "square"), (nn.Sequential(Balanced()), "0/square")):
        with collecting(network) as auxiliary:
            network(x)
        losses, weights = auxiliary.of_members([network])
        assert list(losses) == list(weights) == [name]
        assert torch.equal(losses[name], auxiliary.losses[name].unsqueeze(0))


def test_passes_outside_of_other_networks_and_without_gradients_do_not_count() -> None:
    layer, other, (x,) = Balanced(), Balanced(), inputs(4)
    layer(x)
    scope = collecting(layer)
    layer(x)
    with scope:
        with torch.no_grad():
            layer(2.0 * x)
        y = layer(x)
        with torch.no_grad():
            layer(3.0 * x)
        other(x)
    layer(x)
    assert torch.equal(scope.losses["square"], y.square().mean())


def test_a_scope_goes_on_when_it_is_entered_again() -> None:
    layer, (x, y) = Balanced(), inputs(4, 4)
    with collecting(layer) as auxiliary:
        first = layer(x)
    layer(x)
    with auxiliary:
        second = layer(y)
    torch.testing.assert_close(auxiliary.losses["square"], torch.cat([first, second]).square().mean())


def test_of_nested_scopes_the_innermost_that_holds_the_layer_gets_a_pass() -> None:
    network, (x, y) = nn.Sequential(Balanced(), Balanced()), inputs(4, 4)
    with collecting(network) as outer:
        with collecting(network[1]) as inner:
            middle = network[0](x)
            network[1](y)
        network[1](x)
    assert torch.equal(outer.losses["0/square"], middle.square().mean())
    assert torch.equal(outer.losses["1/square"], network[1](x).square().mean())
    assert torch.equal(inner.losses["square"], network[1](y).square().mean())


def test_a_scope_that_is_left_by_an_error_is_closed() -> None:
    layer, (x,) = Balanced(), inputs(4)
    scope = collecting(layer)
    with pytest.raises(ZeroDivisionError), scope:
        raise ZeroDivisionError
    layer(x)
    assert scope.losses == {}


def test_scopes_of_two_threads_on_one_network_do_not_mix() -> None:
    layer, given = Balanced(), inputs(4, 4)
    together = threading.Barrier(2, timeout=60)

    def collected(x: Tensor) -> Tensor:
        with collecting(layer) as auxiliary:
            together.wait()
            layer(x)
            together.wait()
        return auxiliary.losses["square"]

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(collected, given))
    for x, loss in zip(given, found, strict=True):
        assert torch.equal(loss, layer(x).square().mean())


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("a/b", {"a/b": 1.0}, "Linear hands in 'a/b': a loss's name must have no slash"),
        ("a", {"b": 1.0}, "Linear hands in 'a' without a weight"),
    ],
)
def test_names_that_a_scope_could_not_give_back_are_refused(name: str, weights: dict[str, float], message: str) -> None:
    layer = nn.Linear(1, 1)
    with collecting(layer) as auxiliary, pytest.raises(ValueError, match=message):
        hand_in(layer, {name: torch.ones((), requires_grad=True)}, weights, 1)
    assert auxiliary.losses == {}


def test_nothing_is_held_when_nobody_collects_and_after_the_scope_is_gone() -> None:
    layer, (x,) = Balanced(), inputs(4)
    layer(x)
    assert layer.handed[-1]() is None
    with collecting(layer) as auxiliary:
        layer(x)
    assert layer.handed[-1]() is not None
    del auxiliary
    gc.collect()
    assert layer.handed[-1]() is None


@pytest.mark.parametrize("within", [False, True], ids=["backward behind the scope", "backward within it"])
@pytest.mark.parametrize("kind", ["reentrant", "other"])
@pytest.mark.parametrize("routing", ["noisy_top_k", "expert_choice"])
def test_passes_that_checkpointing_repeats_are_counted_once(kind: str, within: bool, routing: str) -> None:
    """Losses, their gradients, loads and thresholds are those without checkpoints, also of a layer used twice."""
    (x,) = inputs(20)
    found = []
    for repeats in (False, True):
        network = mixtures(routing)
        torch.manual_seed(1)  # of the noise
        leaf = x.clone().requires_grad_()
        with collecting(network) as auxiliary:
            y = leaf
            for _ in range(2):
                y = checkpoint(network, y, use_reentrant=kind == "reentrant") if repeats else network(y)
            loss = y.square().mean() + sum(auxiliary.weights[k] * v for k, v in auxiliary.losses.items())
            if within:
                loss.backward()
        if not within:
            loss.backward()
        assert auxiliary.losses
        counts = [network[i].get_extra_state() for i in (0, 2)]
        losses = {k: v.detach() for k, v in auxiliary.losses.items()}
        found.append((losses, counts, list(network.buffers()), leaf.grad, [p.grad for p in network.parameters()]))
    torch.testing.assert_close(*found)


def test_equal_passes_of_a_reentrant_checkpoint_are_each_settled_once() -> None:
    """Their losses cannot be told apart, and what each was given need not be the same."""
    (x,) = inputs(20)
    found = []
    for repeats in (False, True):
        network = mixtures().eval()
        scopes = [collecting(network) for _ in range(2)]
        loss, leaf = torch.zeros(()), x.clone().requires_grad_()
        for scope, scale in zip(scopes, (1.0, 3.0), strict=True):
            with scope:
                y = checkpoint(network, leaf, use_reentrant=True) if repeats else network(leaf)
            loss = loss + y.square().mean() + scale * sum(scope.losses.values())
        loss.backward()
        found.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.long
@pytest.mark.compile
def test_a_scope_compiles_with_its_passes_into_one_graph() -> None:
    network, (x, y) = mixtures().eval(), inputs(20, 12)

    def losses(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        with collecting(network) as auxiliary:
            network(x)
            with torch.no_grad():
                network(x)
            network(y)
        network(y)
        return auxiliary.losses

    torch._dynamo.reset()
    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")
    for shift in (0.0, 1.0):
        with torch.compiler.set_stance("default" if shift == 0.0 else "fail_on_recompile"):
            torch.testing.assert_close(compiled(x + shift, y), losses(x + shift, y))


@pytest.mark.compile
def test_a_compiled_network_hands_in_to_a_scope_around_it_and_is_not_compiled_again_for_each() -> None:
    network, (x,) = mixtures().eval(), inputs(20)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for update in range(3):
        with torch.compiler.set_stance("fail_on_recompile" if update == 2 else "default"), collecting(network) as found:
            compiled(x)
        with collecting(network) as expected:
            network(x)
        torch.testing.assert_close(found.losses, expected.losses)
