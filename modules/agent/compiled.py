"""The forms in which an update can be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import torch

from modules.functional.schedules import Schedule
from modules.torch_private import with_many_graphs

CompileMode = Literal["off", "update", "step", "cell", "captured"]
"""`update` compiles the whole update as one graph; `step` each of an optimiser's steps that it is made of; `cell` its
recurrent steps alone, which pays on CPUs; `captured` also replays the update as one CUDA graph."""

T = TypeVar("T")


def compiled(
    update: Callable[..., T], mode: CompileMode, device: torch.device, compile_parts: Callable[[], None]
) -> Callable[..., T]:
    """An update in the form that was asked for.

    Args:
        update: tensors in, tensors out.
        mode: the form.
        device: device of the tensors.
        compile_parts: compiles what an update repeats: steps of an optimiser, or recurrent ones.

    Raises:
        ValueError: `captured`, and the tensors are not on a CUDA device.
    """
    if mode == "update":
        return compile_each_length(update)
    if mode == "captured" and device.type != "cuda":
        raise ValueError(f"compile: captured replays a CUDA graph, and the agent is on {device}; use cell")
    if mode in ("step", "cell", "captured"):
        compile_parts()
    if mode == "captured":
        from tensordict.nn import CudaGraphModule

        return CudaGraphModule(update)
    return update


def check_one_graph(**schedules: Schedule | None) -> None:
    """Refuse a schedule of numbers that a graph holds; None is a number that none holds.

    Raises:
        ValueError: it names the first one that changes.
    """
    for name, schedule in schedules.items():
        if schedule is not None and not schedule.is_constant:
            raise ValueError(f"{name}: its graph would be compiled anew for each: set compile to off, or one number")


def compile_any_length(step: Callable[..., T]) -> Callable[..., T]:
    """A step without loops over its rows as one graph for any number of them, or a few where torch needs more."""
    return with_many_graphs(torch.compile(step, fullgraph=True))


def compile_each_length(update: Callable[..., T]) -> Callable[..., T]:
    """The update as one graph for each length of the windows that it is given, however many lengths there are.

    A single graph of a loop of any length cannot be made, and by torch's usual limits the ninth length is an error.
    """
    return with_many_graphs(torch.compile(update, fullgraph=True, dynamic=False))
