"""The forms of an update: which of them compile what."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import SPACES, Toy, ToyData, make_trainer

import modules.agent.compiled
from callbacks.progress import ProgressBar
from modules.agent.compiled import LONG_RUN, Compilable, CompileMode, compiled, settled, whole_update
from modules.agent.descent import descend
from modules.contracts import Update
from modules.trust.checkpoint_contents import check_contents

CPU = torch.device("cpu")


class Doubling(Compilable):
    branch: Hashable = None

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


@pytest.mark.parametrize(
    ("mode", "updates", "processes", "reason", "form"),
    [
        ("auto", LONG_RUN, 1, None, "tried"),
        ("auto", math.inf, 1, None, "tried"),
        ("auto", LONG_RUN - 1, 1, None, "off"),
        ("auto", LONG_RUN, 2, None, "off"),
        ("auto", LONG_RUN, 1, "there is no g++", "off"),
        ("update", 1, 2, "there is no g++", "update"),
        ("off", math.inf, 1, None, "off"),
    ],
)
def test_a_long_run_of_one_process_with_a_compiler_is_compiled(
    mode: CompileMode,
    updates: float,
    processes: int,
    reason: str | None,
    form: CompileMode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modules.agent.compiled, "why_no_compiler", lambda: reason)
    assert settled(mode, updates, processes) == form


def test_a_form_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    assert [whole_update(form) for form in (False, True, "auto", "captured")] == ["off", "update", "auto", "captured"]
    with pytest.raises(ValueError, match="compile must be one of false, true, auto, captured, got 'update'"):
        whole_update("update")  # type: ignore[arg-type]


def failing(graph: Any, inputs: Any) -> Any:
    raise ImportError("libgomp.so: cannot open\nand so on")


@pytest.mark.compile
def test_what_cannot_be_compiled_is_executed_plainly_where_nobody_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=failing))
    agent = Doubling("tried", lambda: None)
    update = compiled(agent, CPU)
    told = r"auto could not compile the update, which is executed plainly: .*ImportError: libgomp\.so: cannot open"
    with pytest.warns(UserWarning, match=told):
        assert torch.equal(update(torch.ones(2)), torch.full((2,), 3.0))  # type: ignore[arg-type]
    assert torch.equal(update(torch.zeros(2)), torch.ones(2))  # type: ignore[arg-type]
    assert (agent.compile_mode, agent.compile_seconds) == ("off", 0.0)
    with pytest.raises(Exception, match="libgomp"):
        compiled(Doubling("update", lambda: None), CPU)(torch.ones(2))


@pytest.mark.compile
def test_an_error_of_the_update_itself_is_none_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    update = compiled(Doubling("tried", lambda: None), CPU)
    with pytest.raises(TypeError, match="positional argument"):
        update(torch.ones(2), torch.ones(2))


@pytest.mark.compile
def test_the_first_execution_in_each_branch_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    agent = Doubling("update", lambda: None)
    update = compiled(agent, CPU)
    seconds = []
    for branch in ("one", "one", "two"):
        agent.branch = branch
        update(torch.ones(2))
        seconds.append(agent.compile_seconds)
    assert 0.0 < seconds[0] == seconds[1] < seconds[2]


class Steady(Toy):
    """Without noise, whose generators no graph holds."""

    def learn(self, batch: Any) -> Update:
        loss = (self.weight - 1.0 + batch["action"].mean()).square()
        descend(self.optimizer, loss.sum())
        return Update({"loss": loss.detach()})


def trained(
    folder: Path, epochs: int, agent: Toy, monkeypatch: pytest.MonkeyPatch, checkpoint: Path | None = None
) -> Path:
    """A run of ten updates an epoch, of which twenty are long, and the checkpoint that it leaves."""
    monkeypatch.setattr(modules.agent.compiled, "LONG_RUN", 20)
    monkeypatch.setattr(modules.agent.compiled, "why_no_compiler", lambda: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    agent.compile_mode = "auto"
    trainer = make_trainer(folder, epochs, [ProgressBar()], enable_progress_bar=True)
    trainer.fit(agent, datamodule=ToyData(), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "left.ckpt")
    return folder / "left.ckpt"


@pytest.mark.compile
def test_a_run_decides_by_its_length_says_what_it_took_and_keeps_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long, short, longer = Steady(SPACES), Steady(SPACES), Steady(SPACES)
    trained(tmp_path, 2, long, monkeypatch)
    assert long.compile_mode == "tried"
    assert re.search(r"^compiled the update, \d+ s$", capsys.readouterr().err, re.MULTILINE)
    checkpoint = trained(tmp_path, 1, short, monkeypatch)
    assert short.compile_mode == "off"
    trained(tmp_path, 2, longer, monkeypatch, checkpoint)
    assert (longer.updates, longer.compile_mode) == (20, "off")
    assert "compiled the update" not in capsys.readouterr().err


@pytest.mark.compile
def test_an_agent_that_draws_within_its_update_learns_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Toy(SPACES)
    with pytest.warns(UserWarning, match="could not compile the update, which is executed plainly"):
        trained(tmp_path, 2, agent, monkeypatch)
    assert agent.compile_mode == "off"
    assert agent.updates == 20
    assert 0.0 < float(agent.weight) < 1.5


@pytest.mark.parametrize(
    ("kept", "form"), [(None, "auto"), ("tried", "tried"), ("update", "auto"), ("nonsense", "auto")]
)
def test_a_checkpoint_tells_what_was_decided_and_nothing_else(kept: str | None, form: str) -> None:
    agent = Toy(SPACES)
    content: dict[str, Any] = {}
    agent.on_save_checkpoint(content)
    assert content["agent"].pop("compile_mode") == "off"
    content |= {"state_dict": agent.state_dict(), "hyper_parameters": dict(agent.hparams)}
    if kept is not None:
        content["agent"]["compile_mode"] = kept
    check_contents(content, "file")
    agent.compile_mode = "auto"
    agent.on_load_checkpoint(content)
    assert agent.compile_mode == form
