"""Set before anything imports torch: one thread per process, no third-party noise."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterator
from functools import wraps
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # its processes would import torch for each worker

import copied_tables  # noqa: F401 - before anything imports MLflow's store

import commands.quiet  # noqa: F401

gc.disable()  # until all tests are collected: the collector would look through millions of objects that stay

# One server of processes forks for all tests; each process would import what the first test had no use for.
multiprocessing.set_forkserver_preload(["datamodules.played.background"])
multiprocessing.set_forkserver_preload = lambda modules: None

COMPILING = 900
"""Seconds that a test which compiles may take: minutes for machine code that no cache holds, on a busy machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that compile their own limit, unless they name one."""
    for item in items:
        if item.get_closest_marker("compile") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(COMPILING))


def pytest_collection_finish() -> None:
    """Let the collector begin, and only look through what tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The compiler of graphs: up to forward and backward passes in torch's own operators, or, slowly, machine code.

    What is compiled must be called before the test ends: it would compare a plain update with itself otherwise.
    """
    import torch

    torch.compiler.reset()
    whole, called = torch.compile, []

    def compile_and_note(function: Any, **settings: Any) -> Any:
        compiled = whole(function, backend=request.param, **settings)
        return wraps(function)(lambda *arguments, **named: called.append(function) or compiled(*arguments, **named))

    monkeypatch.setattr(torch, "compile", compile_and_note)
    yield request.param
    assert called, "nothing was compiled"
