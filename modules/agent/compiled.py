"""The forms in which an update can be compiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeVar

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from modules.agent.captured import CapturedUpdate
from modules.agent.descent import rates_of
from modules.compiler import why_no_compiler
from modules.contracts import Update
from modules.functional.schedules import Schedule
from modules.torch_private import is_of_compiler, with_many_graphs

CompileMode = Literal["off", "auto", "tried", "update", "step", "cell", "captured"]
"""`update` compiles the whole update as one graph; `step` each of an optimiser's steps that it is made of; `cell` its
recurrent steps alone, which pays on CPUs; `captured` also replays the update as one CUDA graph. `auto` is not decided
yet, by `settled`, and is executed plainly; `tried` is `update` whose failure to compile is a warning."""

WholeUpdate = bool | Literal["auto", "captured"]
"""Whether the whole update is compiled into one graph; `auto`: in long runs, where there is a compiler; or `captured`,
replayed as one CUDA graph without a compiler."""

LONG_RUN = 20_000
"""Updates of a run from which `auto` compiles: two phases take a minute to compile, and an update with networks of 256
units takes 9 of 32 ms less then, on one thread (benchmarks/RESULTS.md)."""

T = TypeVar("T")


def whole_update(compile: WholeUpdate) -> CompileMode:
    """The form of an update that is compiled as a whole, or not at all.

    Raises:
        ValueError: it is none of them.
    """
    forms: dict[WholeUpdate, CompileMode] = {False: "off", True: "update", "auto": "auto", "captured": "captured"}
    if compile not in forms:
        raise ValueError(f"compile must be one of false, true, auto, captured, got {compile!r}")
    return forms[compile]


def settled(mode: CompileMode, updates: float, processes: int) -> CompileMode:
    """The form, decided where it is `auto`: `tried` for a long run of one process with a compiler, else `off`.

    Several processes, of which one could compile and another not, would round differently, and grow apart.

    A checkpoint keeps the decision, so that a run that is continued is executed as before, however long it becomes.

    Args:
        mode: the form that was asked for.
        updates: number of updates of the whole run, infinite where it has no end.
        processes: number of processes that train together.
    """
    if mode != "auto":
        return mode
    return "tried" if updates >= LONG_RUN and processes == 1 and why_no_compiler() is None else "off"


class Compilable(nn.Module):
    """The part of an agent that says what an update is, and in which form it is executed."""

    compile_mode: CompileMode = "off"
    """The form in which `learn` is compiled, at the first update: an agent that only acts needs none."""

    compile_seconds = 0.0
    """How long the first executions of a whole update that is compiled have taken, nearly all of it compiling."""

    learn: Callable[..., Update]
    """One gradient update on a batch of `batch_type`, and on its noise if the agent draws any: the algorithm's own.

    Tensors in, an `Update` out, with no branch on a tensor's value and no use of `updates`, so that it can be compiled.
    """

    @property
    def branch(self) -> Hashable:
        """Everything besides tensors and learning rates on which `learn` depends and that changes in a run, such as a
        phase of training; an update that is captured as a graph is captured for each.
        """
        return None

    def compile_parts(self) -> None:
        """Compile what an update repeats, for the forms `step`, `cell` and `captured`: steps of an optimiser, or
        recurrent ones.
        """


def compiled(agent: Compilable, device: torch.device) -> Callable[..., Update]:
    """An agent's update in the form that was asked for.

    Args:
        agent: the agent, with its optimisers.
        device: device of its tensors.

    Raises:
        ValueError: `captured`, and the tensors are not on a CUDA device.
    """
    mode = agent.compile_mode
    if mode in ("update", "tried"):
        return CompiledUpdate(agent)
    if mode == "captured":
        check_device(device)
    if mode in ("step", "cell", "captured"):
        agent.compile_parts()
    if mode != "captured":  # an undecided `auto`, too
        return agent.learn
    rates = rates_of(agent)
    return CapturedUpdate(agent.learn, lambda: (agent.branch, rates()))


class CompiledUpdate:
    """An agent's update, compiled as one graph for each length of its windows.

    The agent's `compile_seconds` counts what the first execution in each of its branches takes.
    Of the form `tried` an error of torch's compiler is a warning, and the update is executed plainly from then on:
    weights are as they were before, since nothing is executed until all of it is compiled.

    Args:
        agent: the agent.
    """

    def __init__(self, agent: Compilable) -> None:
        self._agent = agent
        self._step = compile_each_length(agent.learn)
        self._executed: set[Hashable] = set()

    def __call__(self, *batch: Any) -> Update:
        branch = self._agent.branch
        if self._agent.compile_mode == "off" or branch in self._executed:
            return self._step(*batch)
        begun = time.perf_counter()
        try:
            result = self._step(*batch)
        except Exception as error:
            if self._agent.compile_mode != "tried" or not is_of_compiler(error):
                raise
            reason = " ".join(str(error).split())[:200]
            rank_zero_warn(f"compile: auto could not compile the update, which is executed plainly: {reason}")
            self._agent.compile_mode = "off"
            self._step = self._agent.learn
            return self._step(*batch)
        self._executed.add(branch)
        self._agent.compile_seconds += time.perf_counter() - begun
        return result


def check_device(device: torch.device) -> None:
    """Refuse to capture an update where there is no GPU.

    Raises:
        ValueError: the agent's tensors are not on a CUDA device.
    """
    if device.type != "cuda":
        raise ValueError(
            f"compile: captured replays a CUDA graph, and the agent is on {device}; train with --trainer.accelerator "
            "gpu, or choose another form"
        )


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
