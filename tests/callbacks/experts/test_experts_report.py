"""The history of loads, and the heat maps and the table that are made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mixture_runs import (
    png_size,
    table,
)

from callbacks.experts.report import INTERVALS, LoadHistory, draw_heat_maps, write_csv


def test_history_joins_neighbours_when_it_is_full() -> None:
    history = LoadHistory({"a": 2, "b": 1})
    for update in range(1, 2 * INTERVALS + 4):
        if update == 301:
            assert history.remove("a", [1], 300) == [0]
        history.add(update, {"a": torch.tensor([7, 1] if update <= 300 else [1]), "b": torch.tensor([update])})
    assert history.per_interval == 4
    assert history.ends == [*range(4, 2 * INTERVALS + 1, 4), 2 * INTERVALS + 3]
    a, b = history.loads("a"), history.loads("b")
    assert a[:75, 0].tolist() == [28.0] * 75  # up to update 300
    assert np.isnan(a[75:, 0]).all()
    assert a[:, 1].tolist() == [4.0] * (INTERVALS // 2) + [3.0]
    assert b[0, 0] == 1 + 2 + 3 + 4
    assert b.sum() == sum(range(1, 2 * INTERVALS + 4))


def test_heat_maps_have_a_panel_per_mixture_and_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.experts.report.PANELS", 2)
    history = LoadHistory({f"critic.{i}": 4 for i in range(3)})
    for update in (100, 200, 300):
        history.add(update, {f"critic.{i}": torch.tensor([update, 1, 1, 0]) for i in range(3)})
    history.remove("critic.2", [0, 1, 2], 200)
    pages = draw_heat_maps(history, tmp_path)
    assert [page.name for page in pages] == ["expert_load_1.png", "expert_load_2.png"]
    assert [png_size(page) for page in pages] == [(910, 598), (910, 351)]
    write_csv(history, tmp_path / "expert_load.csv")
    _, rows = table(tmp_path)
    assert rows[-1][-4:] == ["300", "1", "1", ""]
