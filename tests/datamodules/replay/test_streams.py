"""Settings that all replays of streams refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.streams import ReplaySettings


def test_states_that_do_not_fit_are_refused_by_what_makes_them_smaller(tmp_path: Path) -> None:
    number = Field((), torch.float32)
    sizes = {"streams": 8, "capacity": 100, "margin": 0, "batch_size": 2, "length": 2}
    ReplaySettings(tmp_path, number, number, **sizes, stored_width=1000).check_batch(64)
    settings = ReplaySettings(tmp_path, number, number, **sizes, stored_width=10**9)
    message = "1,000,000,000 numbers of the agent's state with each row of 8 streams: 4.1 TB.*make the agent's memory"
    with pytest.raises(ValueError, match=message):
        settings.check_batch(64)
