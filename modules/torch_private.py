"""Everything private of torch that this project uses, with the reason; no other file names any of it.

Each function says why public means do not do. tests/modules/test_torch_private.py fails where an upgrade of torch
changes what they rely on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchDispatchMode"]
# The only mode that sees every operation below autograd, and so every tensor before it is made. torch documents it for
# extensions and keeps it in a private module.

MOST_LENGTHS = 1 << 16

T = TypeVar("T")


def trace_gradients() -> None:
    """Let a compiled function hold `torch.autograd.grad`, so that forward, gradients and step are one graph.

    Dynamo ends a graph there otherwise, which `fullgraph=True` makes an error. `torch.compiler` has no such setting.
    """
    torch._dynamo.config.trace_autograd_ops = True


def with_many_graphs(compiled: Callable[..., T]) -> Callable[..., T]:
    """A compiled function that makes a graph for each of `MOST_LENGTHS` forms of its arguments.

    The usual limits, 8 graphs of a function, are settings of Dynamo; `torch.compiler` has none for them.
    """
    limits = {"recompile_limit": MOST_LENGTHS, "accumulated_recompile_limit": MOST_LENGTHS}
    patched: Callable[..., T] = torch._dynamo.config.patch(limits)(compiled)
    return patched


def compiler_failure(error: BaseException) -> tuple[Exception, str] | None:
    """The error in torch's compiler behind this one, and the folder of its cache; None for any other error.

    Neither the class of such errors nor that folder is public. Files in it that were cut off, as by a full disk, are
    made anew by torch in some cases, and are an error in others.
    """
    exceptions = sys.modules.get("torch._dynamo.exc")  # nothing is compiled without it, and it takes long to import
    if exceptions is None or not isinstance(error, exceptions.BackendCompilerFailed):
        return None
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return error.inner_exception, cache_dir()


def is_of_compiler(error: BaseException) -> bool:
    """Whether an error is of torch's compiler, which could not trace a function or not compile it.

    The base class of all such errors is not public.
    """
    exceptions = sys.modules.get("torch._dynamo.exc")
    return exceptions is not None and isinstance(error, exceptions.TorchDynamoException)


# One kernel for all tensors of a list: a loop over the parameters of an agent would start hundreds of them. torch's own
# optimisers call these, and the public functions on top of them return nothing or look at `.grad`.


def total_norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all numbers in a list of tensors, as a scalar tensor."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def absolute_sums(tensors: list[Tensor]) -> list[Tensor]:
    """The sum of the absolute numbers of each tensor of a list, as scalars; not finite where a number is not."""
    return list(torch._foreach_norm(tensors, 1.0)) if tensors else []


def scaled(tensors: list[Tensor], factor: Tensor) -> list[Tensor]:
    """New tensors: each of the list times a scalar tensor."""
    return list(torch._foreach_mul(tensors, factor))


def scale_(tensors: list[Tensor], factor: float) -> None:
    """Multiply each tensor of a list by a number, in place."""
    torch._foreach_mul_(tensors, factor)


def lerp_(tensors: list[Tensor], targets: list[Tensor], rate: float) -> None:
    """Move each tensor of a list towards its target, in place: `x += rate * (target - x)`."""
    torch._foreach_lerp_(tensors, targets, rate)


def copy_(tensors: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into the tensor of a list at the same place."""
    torch._foreach_copy_(tensors, sources)


def clipped_to_weights(gradients: list[Tensor], weights: list[Tensor], clip: float, least_norm: float) -> list[Tensor]:
    """New tensors: each gradient as of `modules.functional.laprop_steps.clip_to_weight`."""
    largest = torch._foreach_norm(weights)
    torch._foreach_clamp_min_(largest, least_norm)
    torch._foreach_mul_(largest, clip)
    ratios = torch._foreach_div(torch._foreach_norm(gradients), largest)
    torch._foreach_clamp_min_(ratios, 1.0)
    return list(torch._foreach_div(gradients, ratios))


def laprop_(
    weights: list[Tensor],
    gradients: list[Tensor],
    squares: list[Tensor],
    means: list[Tensor],
    betas: tuple[float, float],
    eps: float,
    root: Tensor,
    rate: Tensor,
) -> None:
    """Move weights and moments in place, each as of `modules.functional.laprop_steps.laprop_direction`.

    Args:
        weights: what moves.
        gradients: clipped ones.
        squares: moving averages of their squares.
        means: moving averages of the normalised gradients.
        betas: decay of the means, and of the squares.
        eps: added to the root mean square.
        root: root of the correction of the squares for their start at zero.
        rate: learning rate, divided by the correction of the means.
    """
    torch._foreach_mul_(squares, betas[1])
    torch._foreach_addcmul_(squares, gradients, gradients, value=1.0 - betas[1])
    deviations = torch._foreach_sqrt(squares)
    torch._foreach_div_(deviations, root)
    torch._foreach_add_(deviations, eps)
    torch._foreach_mul_(means, betas[0])
    torch._foreach_addcdiv_(means, gradients, deviations, value=1.0 - betas[0])
    torch._foreach_sub_(weights, torch._foreach_mul(means, rate))


def is_wanted(node: Any) -> bool:
    """Whether the backward pass that runs goes on to this node, or a loss only passes through its function.

    `ctx.needs_input_grad` was fixed in the forward pass and cannot tell `torch.autograd.grad(loss, inputs)` of an actor
    behind a critic from one of the critic itself, whose weights' gradients would then be computed for nothing.

    Args:
        node: node of `ctx.next_functions`.
    """
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # the engine is not told of leaves
        return True


def records_forward_gradients() -> bool:
    """Whether forward-mode gradients are recorded: `torch.no_grad` leaves them on, an `autograd.Function` does not.

    `torch.is_grad_enabled` is False in both, and so says nothing about where a pass is made.
    """
    enabled: bool = torch._C._is_fwd_grad_enabled()
    return enabled


def data_parallel_wrapper() -> nn.Module | None:
    """The `DistributedDataParallel` whose forward this runs in, if there is one.

    It overwrites parameters with those of the first rank and adds up the gradients of all, and a module that it wraps
    is told of neither by public means.
    """
    wrapper: nn.Module | None = DistributedDataParallel._active_ddp_module
    return wrapper


SHORTAGE = re.compile(
    r"allocate memory|enough memory|out of memory|[Uu]nable to allocate|bad_alloc|Overflow when unpacking"
    r"|size calculation overflowed|Tried to allocate"
)


def means_shortage(error: BaseException) -> bool:
    """Whether an error says that there is too little memory, or that no machine has so much.

    Only CUDA's is of a class of its own; on the host torch raises a `RuntimeError` or `TypeError` with words alone.
    """
    return isinstance(error, RuntimeError | TypeError | OSError) and SHORTAGE.search(str(error)) is not None


def extra_state_key(prefix: str) -> str:
    """Key of a `state_dict` under which a module's `get_extra_state` stands.

    A module that loads a smaller one has to look at that state before it is loaded; torch does not tell the key's name
    elsewhere.

    Args:
        prefix: prefix of the module's own keys, such as `"critic.blocks.0."`.
    """
    return f"{prefix}{nn.modules.module._EXTRA_STATE_KEY_SUFFIX}"


def transforms() -> set[str]:
    """Names of the `torch.func` transforms that this runs in: `Grad` (also of `vjp`), `Jvp`, `Vmap`.

    What a layer counts cannot be changed in one. torch tells of them only by its errors.
    """
    if torch.compiler.is_compiling():
        return set()
    stack = torch._C._functorch.get_interpreter_stack()
    return {interpreter.key().name for interpreter in stack or ()}


# Nested tensors of any kind, a TensorDict, a named tuple or a dict, of which torch has no public functions.


def map_nested(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """A function of the tensors at the same place of nested structures, in the structure of the first."""
    return _pytree.tree_map(function, first, *others)


def leaves_of(nested: Any) -> list[Any]:
    """The tensors of a nested structure in its order, and whatever else stands in their place."""
    return list(_pytree.tree_leaves(nested))


def same_structure(first: Any, other: Any) -> bool:
    """Whether two nested structures have the same kinds, keys and number of tensors."""
    return bool(_pytree.tree_structure(first) == _pytree.tree_structure(other))


def dirichlet(concentration: Tensor, generator: torch.Generator | None) -> Tensor:
    """One draw per row of concentrations `[..., K]`.

    `torch.distributions.Dirichlet` draws by the generator of the process alone.
    """
    return torch._sample_dirichlet(concentration, generator=generator)
