"""The step of an optimiser: named losses to one, gradients averaged over ranks, clipped; Adam, RMSProp or LaProp."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop

from modules.agent.kept_arguments import keep_arguments
from modules.agent.laprop import LaProp
from modules.networks.auxiliary_losses import note_descended
from modules.networks.replicas import average_over_ranks
from modules.torch_private import scale_, scaled, total_norm, trace_gradients

Stepped = torch.optim.Adam | torch.optim.RMSprop
"""Optimisers that `descend` steps."""

trace_gradients()  # an update contains forward, gradients and optimiser steps, and is compiled as a whole


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Named losses as one: `sum(weights[name] * terms[name])`, of scalars or equal shapes, not reduced.

    Raises:
        ValueError: a term without a weight, or a weight without a term, which would be ignored.
    """
    for kind, found, others in (("weight", terms, weights), ("loss", weights, terms)):
        missing = [name for name in found if name not in others]
        if missing:
            raise ValueError(f"there is no {kind} named {', '.join(missing)}; known: {', '.join(others) or 'none'}")
    first, *rest = (weights[name] * term for name, term in terms.items())
    return sum(rest, start=first)


def make_adam(parameters: Iterable[nn.Parameter], lr: float, eps: float = 1e-8) -> torch.optim.Adam:
    """Fused Adam whose state exists from the start, so that a compiled update finds it and a checkpoint fits it.

    A checkpoint brings its moments and counts back, not its arguments: they stay as they are given here.
    """
    parameters = list(parameters)
    optimizer = torch.optim.Adam(parameters, lr=lr, eps=eps, fused=True)
    optimizer.register_load_state_dict_pre_hook(keep_arguments)
    reset_adam(optimizer, lr)
    return optimizer


def make_rmsprop(
    parameters: Iterable[nn.Parameter], lr: float, decay: float = 0.99, eps: float = 1e-5
) -> torch.optim.RMSprop:
    """RMSProp (Tieleman & Hinton 2012) without momentum, whose state exists from the start, as that of `make_adam`.

    As torch has it, `eps` is added to the root mean square, and not to what the root is taken of.
    """
    parameters = list(parameters)
    optimizer = torch.optim.RMSprop(parameters, lr=lr, alpha=decay, eps=eps)
    optimizer.register_load_state_dict_pre_hook(keep_arguments)
    for p in parameters:
        square = torch.zeros_like(p, memory_format=torch.preserve_format)
        optimizer.state[p] = {"step": torch.zeros((), device=p.device), "square_avg": square}
    return optimizer


def set_learning_rate(optimizer: torch.optim.Adam, lr: float) -> None:
    """Continue with this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def reset_adam(optimizer: torch.optim.Adam, lr: float) -> None:
    """Forget both moments and the step count, in place, and continue with this learning rate."""
    set_learning_rate(optimizer, lr)
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }


def optimizers_of(module: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimisers that a module and its parts hold as attributes, the module's own first."""
    return [
        held for part in module.modules() for held in vars(part).values() if isinstance(held, torch.optim.Optimizer)
    ]


def rates_of(module: nn.Module) -> Callable[[], tuple[float, ...]]:
    """A function that tells the learning rates of the optimisers of `optimizers_of`, as they are when it is called."""
    optimizers = optimizers_of(module)
    return lambda: tuple(float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups)


def descend(optimizer: Stepped, loss: Tensor, decay: float = 0.0) -> None:
    """One step of Adam (Kingma & Ba 2015) or RMSProp on a scalar loss, with gradients averaged over ranks before it.

    Only the optimiser's own parameters receive gradients; `.grad` is never accumulated, so a loss may pass through
    other networks without touching them.

    Args:
        optimizer: result of `make_adam` or `make_rmsprop`.
        loss: scalar, of every parameter of the optimiser.
        decay: share that every parameter loses before the step, whatever the learning rate.
    """
    _step(optimizer, _gradients(optimizer, loss), decay)


def descend_clipped(optimizer: Stepped, loss: Tensor, max_norm: float, decay: float = 0.0) -> Tensor:
    """As `descend`, with the gradient of all parameters together scaled down to a Euclidean norm of `max_norm`.

    Returns:
        Norm of the whole gradient before it is scaled.
    """
    gradients = _gradients(optimizer, loss)
    norm = total_norm(gradients)
    _step(optimizer, scaled(gradients, max_norm / norm.clamp_min(max_norm)), decay)
    return norm


def descend_parts(optimizer: LaProp, parts: Sequence[tuple[Tensor, Sequence[nn.Parameter]]]) -> Tensor:
    """One step of an optimiser that several networks share, on losses that each train some of them.

    Args:
        optimizer: optimiser of the parameters of all parts, in their order.
        parts: scalar losses, each with the parameters that it trains; others that it depends on get nothing of it.

    Returns:
        Norm of the whole gradient before it is clipped.
    """
    parameters = [p for _, trained in parts for p in trained]
    found = [g for loss, trained in parts for g in torch.autograd.grad(loss, list(trained))]
    gradients = list(average_over_ranks(found, parameters))
    norm = total_norm(gradients)
    optimizer.move(_as_laid_out(parameters, gradients))
    _note(parameters)
    return norm


def _gradients(optimizer: Stepped, loss: Tensor) -> list[Tensor]:
    """Of the parameters of all groups, averaged over ranks."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return list(average_over_ranks(torch.autograd.grad(loss, parameters), parameters))


def _step(optimizer: Stepped, gradients: list[Tensor], decay: float) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = _as_laid_out(parameters, gradients)
    # `Optimizer.step` cannot be traced and costs a millisecond of bookkeeping; its functional form does neither.
    move = _rmsprop if isinstance(optimizer, torch.optim.RMSprop) else _adam
    with torch.no_grad():
        if decay:
            scale_(parameters, 1.0 - decay)
        for group in optimizer.param_groups:
            states = [optimizer.state[p] for p in group["params"]]
            mine, gradients = list(gradients[: len(states)]), gradients[len(states) :]
            move(group, mine, states)
    _note(parameters)


def _adam(group: dict[str, Any], gradients: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    compiling = torch.compiler.is_compiling()
    adam(
        group["params"],
        gradients,
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        [],
        [s["step"] for s in states],
        fused=not compiling,
        foreach=compiling,
        capturable=compiling or group["params"][0].is_cuda,  # a CUDA graph may capture the update
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=0.0,
        eps=group["eps"],
        maximize=False,
    )


def _rmsprop(group: dict[str, Any], gradients: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    rmsprop(
        group["params"],
        gradients,
        [s["square_avg"] for s in states],
        [],
        [],
        [s["step"] for s in states],
        foreach=True,
        capturable=torch.compiler.is_compiling() or group["params"][0].is_cuda,
        lr=group["lr"],
        alpha=group["alpha"],
        eps=group["eps"],
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
    )


def _as_laid_out(parameters: list[nn.Parameter], gradients: list[Tensor]) -> list[Tensor]:
    """Gradients whose numbers lie in memory as those of their parameters.

    The fused step reads memory in its order: a gradient of other strides, such as an einsum's, would be misread.
    """
    pairs = zip(parameters, gradients, strict=True)
    return [g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in pairs]


def _note(parameters: list[nn.Parameter]) -> None:
    """Tell others that these have moved."""
    note_descended(parameters)
    if not torch.compiler.is_compiling():
        # Autocast keeps what it cast of the weights, which is old now; a CUDA graph would even keep reading it.
        torch.clear_autocast_cache()
