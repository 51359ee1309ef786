"""The forms of an update: which of them compile what."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from modules.agent.compiled import Compilable, CompileMode, compiled

CPU = torch.device("cpu")


class Doubling(Compilable):
    def __init__(self, mode: CompileMode, compile_parts: Callable[[], None]) -> None:
        super().__init__()
        self.compile_mode = mode
        self.compile_parts = compile_parts  # type: ignore[method-assign]

    def learn(self, x: torch.Tensor) -> Any:
        return 2.0 * x + 1.0


@pytest.mark.compile
@pytest.mark.parametrize(("mode", "graphs_of_two_lengths", "cells"), [("off", 0, 0), ("cell", 0, 1), ("update", 2, 0)])
def test_a_form_compiles_the_update_or_its_cells_or_nothing(
    mode: CompileMode, graphs_of_two_lengths: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend=lambda graph, _: graphs.append(graph) or graph)
    )
    asked: list[str] = []
    update = compiled(Doubling(mode, lambda: asked.append("cells")), CPU)
    for length in (2, 3, 2):
        assert torch.equal(update(torch.ones(length)), torch.full((length,), 3.0))
    assert (len(graphs), len(asked)) == (graphs_of_two_lengths, cells)


def test_a_graph_of_cuda_is_refused_on_a_cpu_before_anything_is_compiled() -> None:
    told = (
        "compile: captured replays a CUDA graph, and the agent is on cpu; train with --trainer.accelerator gpu, or "
        "choose another form"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        compiled(Doubling("captured", lambda: pytest.fail("the cells were compiled")), CPU)
