"""Experts spread over gloo processes: equal to one process that holds all of them, in every pass and step."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy
from ranks import run_on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from commands.strategy import AgentDDP, check_processes
from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam
from modules.experts.layer import SparseMoE
from modules.experts.parallel import check_parallel_sizes, join_experts, shard_experts, whole_experts
from modules.experts.routing import bias_step
from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import follow, project_weights
from modules.networks.replicas import average_over_ranks

QUIET = {"load_balance": 0.0, "router_z": 0.1}  # the first is not linear in the batch, so that ranks do not add up


def make_layer(routing="top_k", d_in=6, d_out=4, num_experts=8, **arguments):
    torch.manual_seed(0)
    arguments.setdefault("groups", 4 if routing == "hierarchical" else None)
    layer = SparseMoE(d_in, d_out, num_experts, routing=routing, noise=False, parallel_size=2, **arguments).double()
    with torch.no_grad():
        layer.router.weight.normal_()  # far from an even load
    return layer


# ------------------------------------------------------------------------------------------------------------- one pass
def compare_pass(rank, sizes, arguments, busiest=None):
    """Outputs and all gradients of a mixture over ranks and of a whole one that sees the tokens of every rank."""
    layer = make_layer(**arguments)
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in sizes]
    targets = [torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in sizes]
    if busiest is not None:
        tokens = [x.abs() for x in tokens]
        layer.router.weight.data[:, busiest] += 10.0
    whole = copy.deepcopy(layer)
    shard_experts(layer)
    assert len(layer.experts.first.weight) == 8 // len(sizes)

    def differentiate(network, ranks):
        outputs = [tokens[r].clone().requires_grad_() for r in ranks]
        inputs, outputs = outputs, [network(x) for x in outputs]
        loss = sum((y * targets[r]).sum() for r, y in zip(ranks, outputs, strict=True))
        parameters = list(network.parameters())
        return outputs, torch.autograd.grad(loss, [*inputs, *parameters]), parameters

    every = range(len(sizes))
    expected_outputs, expected, _ = differentiate(whole, every)
    (y,), (x_gradient, *gradients), parameters = differentiate(layer, [rank])
    close = {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(y, expected_outputs[rank], **close)
    torch.testing.assert_close(x_gradient, expected[rank], **close)
    averaged = average_over_ranks(gradients, parameters)
    for (name, parameter), mine, joint in zip(layer.named_parameters(), averaged, expected[len(sizes) :], strict=True):
        spread = name.startswith("experts.")
        joint = joint.chunk(len(sizes))[rank] if spread else joint
        assert mine.shape == parameter.shape == joint.shape
        torch.testing.assert_close(mine, joint / len(sizes), msg=lambda m, name=name: f"{name}: {m}", **close)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(tokens[rank]), y, **close)
    return layer.expert_counts


CASES = {
    "ragged": ((37, 5), {}),
    "three experts per token": ((20, 30), {"k": 3}),
    "one per token": ((20, 30), {"k": 1, "activation": "gelu"}),
    "a rank without tokens": ((0, 16), {"activation": "swiglu"}),
    "no tokens at all": ((0, 0), {}),
    "noisy top k": ((16, 9), {"routing": "noisy_top_k"}),
    "groups": ((16, 9), {"routing": "hierarchical", "k": 4}),
    "expert choice": ((16, 9), {"routing": "expert_choice"}),
    "every expert": ((7, 9), {"routing": "soft"}),
    "a full expert drops rows": ((40, 24), {"capacity_factor": 0.6}),
    "an expert that always runs": ((12, 8), {"num_shared_experts": 1}),
    "padded": ((37, 5), {"backend": "padded"}),
    "dense": ((37, 5), {"backend": "dense"}),
}


def compare_passes(rank):
    for name, (sizes, arguments) in CASES.items():
        try:
            compare_pass(rank, sizes, arguments)
        except Exception as error:
            raise AssertionError(f"in the case of {name}") from error
    return compare_pass(rank, (11, 6), {"k": 1}, busiest=5)


def test_a_pass_over_two_ranks_equals_a_whole_layer(tmp_path):
    first, second = run_on_ranks(2, tmp_path, compare_passes)
    # Each rank counts its own tokens, the pass without gradients too, and all of them went to one expert.
    assert first.tolist() == [0, 0, 0, 0, 0, 22, 0, 0]
    assert second.tolist() == [0, 0, 0, 0, 0, 12, 0, 0]


def round_and_refuse(rank):
    layer = make_layer().float()
    whole = copy.deepcopy(layer)
    shard_experts(layer)
    x = torch.randn(20, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = layer(x), whole(x)
    y.float().sum().backward()
    assert layer.experts.first.weight.grad.dtype == torch.float32
    layer.zero_grad()
    with pytest.raises(ValueError, match="spread over ranks cannot be removed: set parallel_size=2 to 1"):
        layer.prune(0.2)
    with pytest.raises(TypeError, match="ProcessGroup"):
        copy.deepcopy(layer)
    with whole_experts(layer):
        copies = copy.deepcopy(layer).state_dict()
        alone = layer(x) if rank == 1 else None  # nobody else needs to take part
    for name, value in whole.state_dict().items():
        if not name.endswith("_extra_state"):
            assert torch.equal(copies[name], value), name
    assert len(layer.experts.first.weight) == 4
    return y, expected, alone, layer(x)


def test_autocast_pruning_copies_and_use_by_one_rank(tmp_path):
    results = run_on_ranks(2, tmp_path, round_and_refuse)
    for y, expected, _, _ in results:
        assert y.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(results[1][2], results[1][3])


def test_sizes_that_do_not_fit_are_refused_by_name():
    network = nn.Sequential(nn.Linear(6, 6), make_layer())
    check_parallel_sizes(network, 4)
    with pytest.raises(ValueError, match="parallel_size=2 of 1 does not divide the 3 processes of this run: set"):
        check_parallel_sizes(network, 3)
    network[1].keep(torch.arange(7))
    with pytest.raises(ValueError, match="parallel_size=2 of 1 does not divide its 7 experts"):
        check_parallel_sizes(network, 4)
    with pytest.raises(ValueError, match="parallel_size=3 must divide num_experts=8"):
        SparseMoE(6, 4, 8, parallel_size=3)
    with pytest.raises(ValueError, match="without a given expert"):
        SparseMoE(6, 4, 8, parallel_size=2, expert=nn.Linear)


# ------------------------------------------------------------------------------------------------------------- training
def make_network(parallel_size):
    torch.manual_seed(0)
    layer = SparseMoE(5, 5, 8, routing="top_k", loss_weights=QUIET, parallel_size=parallel_size)
    nn.init.normal_(layer.router.weight)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), layer, nn.Linear(5, 1)).double()


def train_steps(rank, world, parallel_size, steps=6):
    """Adam, a copy that follows and a projection; of `world` batches, the one of this rank, or all joined."""
    network = make_network(parallel_size)
    copied = copy.deepcopy(network).requires_grad_(False)
    optimizer = make_adam(network.parameters(), 1e-2)
    if rank is not None:
        shard_experts(nn.ModuleList([network, copied]), [optimizer])
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        x = torch.randn(world, 12, 3, generator=generator, dtype=torch.float64)
        x = x.flatten(0, 1) if rank is None else x[rank]
        with collecting(network) as auxiliary:
            y = network(x)
        z_loss = auxiliary.losses["2/router_z"]
        descend(optimizer, (y - x.prod(1, keepdim=True)).square().mean() + 0.1 * z_loss)
        project_weights(network, 1.5)
        follow(copied, network, 0.3)
    join_experts(nn.ModuleList([network, copied]), [optimizer])
    moments = {k: {n: v.clone() for n, v in s.items()} for k, s in optimizer.state_dict()["state"].items()}
    return {**network.state_dict(), **{f"copy.{k}": v for k, v in copied.state_dict().items()}}, moments


@pytest.mark.parametrize(("world", "parallel_size"), [(2, 2), (4, 2), (4, 4)])
def test_steps_of_adam_equal_one_process_on_the_joined_batches(world, parallel_size, tmp_path):
    expected, moments = train_steps(None, world, parallel_size)
    for mine, my_moments in run_on_ranks(world, tmp_path, train_steps, world, parallel_size):
        for name, value in expected.items():
            if not name.endswith("_extra_state"):
                torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
        for index, state in moments.items():
            for name, value in state.items():
                torch.testing.assert_close(my_moments[index][name], value, rtol=0, atol=1e-10)


# ---------------------------------------------------------------------------------------- without this, and without us
def train_under_torch(rank):
    """Plain wrappers, on batches that leave experts without tokens, others on each rank, others at each step."""
    counts = {}
    for flags in ({}, {"static_graph": True}):
        layer = make_layer("bias_balanced").float()
        wrapped = DistributedDataParallel(layer, **flags)
        optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
        for step in range(4):
            x = torch.randn(1, 6, generator=torch.Generator().manual_seed(10 * step + rank)).expand(2 + 3 * rank, -1)
            optimizer.zero_grad()
            wrapped(x).square().mean().backward()
            optimizer.step()
        assert (layer.expert_counts == 0).any()
        counts[bool(flags)] = layer.expert_counts, [p.detach().clone() for p in layer.parameters()]
    return counts


def test_the_layer_works_under_the_data_parallel_wrapper_of_torch(tmp_path):
    first, second = run_on_ranks(2, tmp_path, train_under_torch)
    for static in (False, True):
        assert first[static][0].sum() == 4 * 2 * 2
        assert second[static][0].sum() == 4 * 5 * 2
        for mine, other in zip(first[static][1], second[static][1], strict=True):
            assert torch.equal(mine, other)


def use_in_wrappers(rank):
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    def whole(network):
        return network

    def spread_later(network):
        wrapped = DistributedDataParallel(network)
        shard_experts(network)
        return wrapped

    found = []
    for prepare, wrap in (
        (shard_experts, DistributedDataParallel),
        (whole, spread_later),
        (shard_experts, fully_shard),
        (shard_experts, lambda network: FullyShardedDataParallel(network, device_id=torch.device("cpu"))),
    ):
        network = nn.Sequential(make_layer().float())
        prepare(network)
        wrapped = wrap(network)
        try:
            (wrapped or network)(torch.randn(4, 6))
        except ValueError as error:
            found.append(str(error))
    layer = make_layer().float()
    shard_experts(layer)
    other = DistributedDataParallel(nn.Linear(6, 6))
    layer(other(torch.randn(4, 6))).sum().backward()  # beside a wrapper there is nothing to refuse
    return found


def test_spread_experts_in_a_foreign_data_parallel_wrapper_are_refused(tmp_path):
    for found in run_on_ranks(2, tmp_path, use_in_wrappers):
        assert len(found) == 4
        for line in found:
            assert re.fullmatch(r"experts that are spread over ranks [^\n]*set parallel_size to 1[^\n]*", line)


def test_a_strategy_that_keeps_all_ranks_equal_is_refused_before_a_run():
    agent = Agent()
    agent.network = make_layer()
    check_processes(agent, 2, AgentDDP())
    with pytest.raises(
        ValueError, match=r"^parallel_size spreads [^\n]*not under DDPStrategy: name ddp, or set parall"
    ):
        check_processes(agent, 2, DDPStrategy())
    agent.network = SparseMoE(6, 4)
    check_processes(agent, 2, DDPStrategy())


def rebalance_on_ranks(rank):
    bias, choice = make_layer("bias_balanced").float(), make_layer("expert_choice").float()
    x = torch.randn(20 + 10 * rank, 6, generator=torch.Generator().manual_seed(rank))
    for layer in (bias, choice):
        layer(x)
    own = choice.router.thresholds.clone(), bias.expert_counts.clone()
    bias.after_update()
    choice.after_update()
    return own, choice.router.thresholds, bias.router.bias, bias.router.rate


def test_what_routers_learn_without_gradients_is_equal_on_all_ranks(tmp_path):
    first, second = run_on_ranks(2, tmp_path, rebalance_on_ranks)
    (own, thresholds, bias, rate), (other, *theirs, _) = first, second
    torch.testing.assert_close(thresholds, (own[0] + other[0]) / 2)
    torch.testing.assert_close(bias, bias_step(own[1] + other[1], rate))
    assert not torch.equal(own[0], other[0])
    assert torch.equal(thresholds, theirs[0])
    assert torch.equal(bias, theirs[1])
