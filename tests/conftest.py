"""Set before anything imports torch: one thread per process, no third-party noise."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections.abc import Iterator
from functools import cache, wraps
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # its processes would import torch for each worker

import copied_tables  # noqa: F401 - before anything imports MLflow's store

import commands.quiet  # noqa: F401
from commands.quick_imports import quick_imports

with quick_imports():
    import pytorch_lightning  # noqa: F401
    import torch

gc.disable()  # until all tests are collected: the collector would look through millions of objects that stay

if not torch.cuda.is_available():
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it is asked thousands of times, and would look for a driver each time

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


MANY = 100
"""New modules whose objects are worth to be looked through once more, and never again."""

modules_seen = 0


def pytest_collection_finish() -> None:
    """Let the collector begin, and only look through what tests make."""
    global modules_seen
    gc.freeze()
    gc.enable()
    modules_seen = len(sys.modules)


def pytest_runtest_logfinish() -> None:
    """Keep the collector off libraries that a test was the first to import."""
    global modules_seen
    if len(sys.modules) >= modules_seen + MANY:
        gc.collect()
        gc.freeze()
        modules_seen = len(sys.modules)


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The compiler of graphs: up to forward and backward passes in torch's own operators, or, slowly, machine code.

    What is compiled must be called before the test ends: it would compare a plain update with itself otherwise.
    """
    torch.compiler.reset()
    whole, called = torch.compile, []

    def compile_and_note(function: Any, **settings: Any) -> Any:
        compiled = whole(function, backend=request.param, **settings)
        return wraps(function)(lambda *arguments, **named: called.append(function) or compiled(*arguments, **named))

    monkeypatch.setattr(torch, "compile", compile_and_note)
    yield request.param
    assert called, "nothing was compiled"


@pytest.fixture(scope="session")
def operators() -> Iterator[None]:
    """The operators that an export chooses from are read once, for a second, and not for each export."""
    from onnxscript._framework_apis import torch_2_11

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch_2_11, "get_torchlib_ops", cache(torch_2_11.get_torchlib_ops))
        yield
