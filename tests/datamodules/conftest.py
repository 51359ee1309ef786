from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_dataset import Arrays, make_arrays, write_hdf5, write_memmap, write_minari


@pytest.fixture
def arrays() -> Arrays:
    """The steps of the tiny dataset, in the layout of a flat file."""
    return make_arrays()


@pytest.fixture
def write(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write the tiny dataset in a format and return what to name as `source`."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))

    def write_format(name: str) -> str:
        if name.startswith("minari-"):
            return write_minari(arrays, name.removeprefix("minari-"))
        if name == "npz":
            np.savez(tmp_path / "tiny.npz", **arrays)
            return str(tmp_path / "tiny.npz")
        if name == "memmap":
            return str(write_memmap(tmp_path / "tiny-td", arrays))
        return str(write_hdf5(tmp_path / "tiny.h5", arrays))

    return write_format
