"""The private parts of torch that this project uses do what it relies on; upgrades that change them fail here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modules.torch_private import (
    MOST_LENGTHS,
    TorchDispatchMode,
    compiler_failure,
    copy_,
    data_parallel_wrapper,
    dirichlet,
    extra_state_key,
    is_wanted,
    lerp_,
    map_nested,
    means_shortage,
    records_forward_gradients,
    same_structure,
    scale_,
    scaled,
    total_norm,
    trace_gradients,
    transforms,
    with_many_graphs,
)


def tensors() -> list[Tensor]:
    return [torch.tensor([3.0, 0.0]), torch.tensor([[4.0], [12.0]])]


def test_lists_of_tensors_are_computed_as_one_by_one() -> None:
    assert total_norm(tensors()) == 13.0
    assert [x.tolist() for x in scaled(tensors(), torch.tensor(2.0))] == [[6.0, 0.0], [[8.0], [24.0]]]
    mine = tensors()
    scale_(mine, 0.5)
    assert [x.tolist() for x in mine] == [[1.5, 0.0], [[2.0], [6.0]]]
    lerp_(mine, tensors(), 0.5)
    assert [x.tolist() for x in mine] == [[2.25, 0.0], [[3.0], [9.0]]]
    copy_(mine, tensors())
    assert all(torch.equal(x, y) for x, y in zip(mine, tensors(), strict=True))


def test_the_mode_sees_an_operation_before_its_tensor_is_made() -> None:
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append((func.name().partition(".")[0], args))
            return func(*args, **(kwargs or {}))

    with Mode():
        torch.empty(2, 3)
    assert seen == [("aten::empty", ([2, 3],))]


def test_the_settings_of_dynamo_exist_and_are_taken_back() -> None:
    config = torch._dynamo.config
    trace_gradients()
    assert config.trace_autograd_ops is True
    before = config.recompile_limit, config.accumulated_recompile_limit
    inside = with_many_graphs(lambda: (config.recompile_limit, config.accumulated_recompile_limit))()
    assert inside == (MOST_LENGTHS, MOST_LENGTHS)
    assert (config.recompile_limit, config.accumulated_recompile_limit) == before


def test_the_engine_tells_which_nodes_it_goes_on_to() -> None:
    asked: list[list[bool]] = []

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
            ctx.save_for_backward(x, weight)
            return x * weight

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            x, weight = ctx.saved_tensors
            asked.append([is_wanted(node) for node, _ in ctx.next_functions])
            return grad * weight, grad * x

    x, weight = (torch.ones(2, requires_grad=True).clone() for _ in range(2))
    torch.autograd.grad(Product.apply(x, weight).sum(), x)
    torch.autograd.grad(Product.apply(x, weight).sum(), [x, weight])
    assert asked == [[True, False], [True, True]]


def test_a_function_of_autograd_is_told_from_a_block_without_gradients() -> None:
    inside: list[bool] = []

    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            inside.append(records_forward_gradients())
            return x.clone()

    Same.apply(torch.ones(2, requires_grad=True))
    with torch.no_grad():
        assert records_forward_gradients()
    assert inside == [False]


@pytest.mark.parametrize("size", [(1 << 50,), (1 << 62,), (1 << 62, 1 << 62), (10**30,)])
def test_sizes_beyond_all_memory_are_told_from_other_errors(size: tuple[int, ...]) -> None:
    with pytest.raises((RuntimeError, TypeError, MemoryError)) as raised:
        torch.empty(size)
    assert means_shortage(raised.value)
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2) + torch.zeros(3)
    assert not means_shortage(raised.value)


def test_the_key_of_extra_state_is_the_one_in_a_state_dict() -> None:
    class Counted(nn.Module):
        def get_extra_state(self) -> int:
            return 3

        def set_extra_state(self, state: int) -> None:
            pytest.fail("nothing is loaded here")

    assert nn.Sequential(Counted()).state_dict()[extra_state_key("0.")] == 3


def test_functional_transforms_are_named() -> None:
    found = []

    def look(x: Tensor) -> Tensor:
        found.append(transforms())
        return x.sum()

    look(torch.ones(2))
    torch.func.grad(look)(torch.ones(2))
    torch.func.jvp(look, (torch.ones(2),), (torch.ones(2),))
    torch.func.vmap(torch.func.grad(look))(torch.ones(3, 2))
    assert found == [set(), {"Grad"}, {"Jvp"}, {"Vmap", "Grad"}]


def test_a_module_in_a_data_parallel_wrapper_is_told_so(tmp_path: Path) -> None:
    found = []

    class Inner(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            found.append(data_parallel_wrapper())
            return super().forward(x)

    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        inner = Inner(2, 2)
        wrapper = DistributedDataParallel(inner)
        wrapper(torch.ones(1, 2))
        inner(torch.ones(1, 2))
    finally:
        dist.destroy_process_group()
    assert found == [wrapper, None]


def test_nested_tensors_keep_their_structure() -> None:
    nested = {"a": torch.ones(2), "b": (torch.zeros(2), TensorDict(c=torch.ones(2), batch_size=2))}
    sums = map_nested(lambda x, y: x + y, nested, nested)
    assert sums["a"].tolist() == sums["b"][1]["c"].tolist() == [2.0, 2.0]
    assert same_structure(nested, sums)
    assert not same_structure(nested, {"a": nested["a"]})


def test_dirichlet_draws_are_those_of_the_generator() -> None:
    concentration = torch.tensor([0.5, 1.0, 2.5]).expand(4000, 3)
    first, again = (dirichlet(concentration, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first.mean(0), concentration[0] / 4.0, atol=0.02, rtol=0)


def test_failures_of_the_compiler_are_told_from_others_with_the_place_of_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    inner = SyntaxError("cut off")
    failure = compiler_failure(BackendCompilerFailed(lambda: None, inner, []))  # type: ignore[arg-type] # no backend
    assert failure == (inner, str(tmp_path / "cache"))
    assert compiler_failure(RuntimeError("another")) is None
