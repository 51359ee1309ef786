"""Errors that a user can mend are told in one line, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from commands.messages import LIMIT, told


def failing(graph: Any, inputs: Any) -> NoReturn:
    """A compiler that finds a file of its cache cut off, as torch's own does."""
    raise ImportError("cache/qo/cqoeu3wz6h.main.so: file too short\nand more")


@pytest.mark.compile
def test_a_damaged_cache_of_the_compiler_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError) as failure:
        torch.compile(lambda x: x + 1.0, backend=failing)(torch.ones(2))
    said = told(failure.value)
    assert said is not None
    assert said.startswith("torch's compiler failed, ImportError: cache/qo/cqoeu3wz6h.main.so: file too short")
    assert said.endswith(f"remove the folder {tmp_path / 'cache'}, else leave compile out")
    assert len(said.replace(str(tmp_path), "")) < LIMIT
    assert "\n" not in said
    assert told(RuntimeError("of another kind")) is None  # which deserves its traceback
