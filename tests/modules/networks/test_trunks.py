"""Members with a network of any kind each, against the same networks by themselves."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from modules.experts.layer import SparseMoE, sparse_layers
from modules.experts.residual_stack import ResidualStack
from modules.networks.auxiliary_losses import collecting
from modules.networks.blocks import MLP
from modules.networks.ensemble import follow, project_weights, torch_default, xavier_normal
from modules.networks.trunks import (
    EnsembleTrunk,
    global_draws_from,
    losses_by_member,
    make_ensemble,
    twin_action_values,
    values_of,
)

MIXTURE = functools.partial(SparseMoE, num_experts=4, hidden=8, noise=False)
STACK = functools.partial(ResidualStack, width=8, depth=2, experts=MIXTURE, placement="last")


def make(trunk, seeds: list[int], d_out: int = 2) -> EnsembleTrunk:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return EnsembleTrunk(len(seeds), 5, 6, d_out, trunk, xavier_normal, generators)


@pytest.mark.parametrize("trunk", [MLP, MIXTURE, STACK], ids=["dense", "mixture", "stack"])
def test_a_member_starts_and_computes_as_it_would_alone(trunk) -> None:
    both, alone = make(trunk, [7, 8]), make(trunk, [8])
    for (name, p), q in zip(both.trunks[1].state_dict().items(), alone.trunks[0].state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    assert torch.equal(both.output.weight[1:], alone.output.weight)
    assert not torch.equal(both.output.weight[0], both.output.weight[1])
    assert any(not torch.equal(p, q) for p, q in zip(*(t.parameters() for t in both.trunks), strict=True))
    x = torch.randn(2, 10, 5)
    y = both(x)
    assert y.shape == (2, 10, 2)
    torch.testing.assert_close(y[1:], alone(x[1:]))
    torch.testing.assert_close(both(x[1:], slice(1, 2)), y[1:])
    for member in range(2):
        torch.testing.assert_close(both.member(member)(x[member]), y[member])


def test_global_draws_follow_a_generator_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    before, drawn = torch.get_rng_state(), []
    for seed in (1, 1, 2):
        with global_draws_from(torch.Generator().manual_seed(seed)):
            drawn.append(torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_gradients_of_members_do_not_mix() -> None:
    ensemble = make(MIXTURE, [0, 1])
    ensemble(torch.randn(2, 10, 5))[0].square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in ensemble.trunks[1].parameters())
    assert all(
        p.grad is not None and p.grad.any() for n, p in ensemble.trunks[0].named_parameters() if "router" not in n
    )


def test_balancing_losses_are_one_per_member() -> None:
    ensemble = make(STACK, [0, 1, 2])
    x = torch.randn(3, 20, 5)
    with collecting(ensemble) as auxiliary:
        ensemble(x)
    losses, weights = losses_by_member(ensemble, auxiliary)
    assert weights == {"blocks.1/importance": 0.1, "blocks.1/load": 0.1}
    assert {name: loss.shape for name, loss in losses.items()} == {name: (3,) for name in weights}
    alone = make(STACK, [1])
    with collecting(alone) as auxiliary:
        alone(x[1:2])
    for name, loss in losses_by_member(alone, auxiliary)[0].items():
        torch.testing.assert_close(loss[0], losses[name][1])


def test_a_member_that_diverged_has_unknown_balancing_losses_and_the_others_have_theirs() -> None:
    ensemble = make(STACK, [0, 1])
    with torch.no_grad():
        ensemble.trunks[0].input.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with collecting(ensemble) as auxiliary:
        ensemble(torch.randn(2, 20, 5))
    for loss in losses_by_member(ensemble, auxiliary)[0].values():
        assert loss.isnan().tolist() == [True, False]


def test_output_layer_stays_in_float32_under_autocast() -> None:
    ensemble = make(MIXTURE, [0], d_out=1)
    with torch.no_grad():
        ensemble.output.bias.fill_(300.3)
        ensemble.output.weight.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        y = ensemble(torch.zeros(1, 2, 5))
    assert y.dtype == torch.float32
    assert abs(y[0, 0, 0].item() - 300.3) < 0.5  # bfloat16 would give 300 or 302


def test_projection_binds_each_expert_and_each_linear_layer_by_itself() -> None:
    stack = STACK(5, 6)
    layer = sparse_layers(stack)["blocks.1"]
    with torch.no_grad():
        layer.experts.first.weight[0].fill_(100.0)  # [8, 8]: norm 800
        layer.experts.first.weight[1].fill_(0.1)  # norm 0.8
        layer.experts.first.bias.fill_(1000.0)
        layer.router.weight.fill_(1000.0)
        stack.input.weight.fill_(100.0)
        stack.input.bias.fill_(1000.0)
    project_weights(stack, 4.0)
    torch.testing.assert_close(layer.experts.first.weight[0], torch.full((8, 8), 0.5))
    assert torch.equal(layer.experts.first.weight[1], torch.full((8, 8), 0.1))
    assert stack.input.weight.norm().item() == pytest.approx(4.0)
    for left_alone in (layer.experts.first.bias, layer.router.weight, stack.input.bias):
        assert (left_alone == 1000.0).all()


def test_a_follower_copies_the_balance_of_its_routers() -> None:
    fast, slow = (make(functools.partial(MIXTURE, routing="bias_balanced"), [seed]) for seed in (0, 1))
    fast.trunks[0].router.bias.copy_(torch.tensor([0.1, -0.1, 0.2, 0.0]))
    expected = [torch.lerp(s, f, 0.25) for s, f in zip(slow.parameters(), fast.parameters(), strict=True)]
    follow(slow, fast, 0.25)
    assert torch.equal(slow.trunks[0].router.bias, torch.tensor([0.1, -0.1, 0.2, 0.0]))
    torch.testing.assert_close([p.detach() for p in slow.parameters()], [p.detach() for p in expected])
    followed = EnsembleTrunk(1, 5, 6, 1, nn.Linear, torch_default, [torch.Generator()])
    follow(followed, followed, 0.5)  # a network without buffers


def test_values_of_numbered_actions_stand_critic_by_critic() -> None:
    critics = make_ensemble(4, 5, [6], 3, xavier_normal, [torch.Generator().manual_seed(i) for i in range(4)], None)
    x, action = torch.randn(2, 7, 5), torch.randint(3, (2, 7))
    values = twin_action_values(critics, x)
    assert values.shape == (2, 2, 7, 3)
    for critic in range(2):
        for member in range(2):
            mine = critics.member(2 * critic + member)(x[member])
            torch.testing.assert_close(values[critic, member], mine)
            chosen = torch.stack([mine[row, action[member, row]] for row in range(7)])
            torch.testing.assert_close(values_of(values, action)[critic, member], chosen)
        torch.testing.assert_close(twin_action_values(critics, x, critic)[0], values[critic])
