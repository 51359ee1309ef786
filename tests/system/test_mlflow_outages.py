"""The store of MLflow fails in nine ways at four moments: no point is lost or there twice, training hardly waits."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_servers import Servers
from outage_matrix import CELLS, OUTAGES, Matrix, Server

sys.path.insert(0, str(Path(__file__).parents[1] / "kill"))
from processes import build, preloaded

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler"),
]

PATIENCE = 5.0
"""Seconds that training may wait in all for a store that is not well."""
BUSY = 5.0
"""Seconds more, on a machine that does other things: other threads and processes wait for it, too."""


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    folder = tmp_path_factory.mktemp("outages")
    servers = Servers()
    with preloaded(build(folder, "full")):
        yield Matrix(folder, servers)
    servers.close()


@pytest.mark.parametrize(("outage", "moment"), CELLS)
def test_no_point_is_lost_or_stored_twice_and_training_hardly_waits(outage: str, moment: str, matrix: Matrix) -> None:
    result = matrix.cell(outage, moment)
    assert result.missing == []
    assert result.twice == []
    assert result.seconds < matrix.seconds + PATIENCE + BUSY
    assert len(result.lines) <= 1, result.lines
    assert len(result.lines) == 1 or not result.refused
    served = issubclass(OUTAGES[outage].store, Server)
    assert served or not any("server" in line for line in result.lines), "a file has no server"
