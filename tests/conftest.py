"""Set before anything imports torch: one thread per process, no third-party noise."""

from __future__ import annotations

import os
from functools import partial

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # its processes would import torch for each worker

import commands.quiet  # noqa: F401

COMPILING = 900
"""Seconds that a test which compiles may take: minutes for machine code that no cache holds, on a busy machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that compile their own limit, unless they name one."""
    for item in items:
        if item.get_closest_marker("compile") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(COMPILING))


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The compiler of graphs: up to forward and backward passes in torch's own operators, or, slowly, machine code."""
    import torch

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=request.param))
    return request.param
