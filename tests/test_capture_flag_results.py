"""The table of `benchmarks/bench_capture_flag.py`: known answers, and a figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import bench_capture_flag  # noqa: E402 - no package holds the benchmarks
import capture_flag_results  # noqa: E402


def entry(player: str, updates: int, rating: float) -> dict[str, Any]:
    shares = {"points against the first": 0.5, "points against random": 0.9, "points against planned": 0.25}
    return {"player": player, "updates": updates, "rating": rating, **shares}


def test_a_gain_is_over_the_first_copy_that_had_learned(tmp_path: Path) -> None:
    assert capture_flag_results.tables(tmp_path) == []
    runs = [
        {"seed": seed, "minutes": 3.0, "ratings": [
            entry("0 updates", 0, 0.0), entry("15 updates", 15, 100.0), entry("30 updates", 30, last),
            entry("random", -1, 10.0), entry("planned", -1, 900.0),
        ]}
        for seed, last in ((0, 300.0), (1, 250.0))
    ]  # fmt: skip
    content = {"command": "reverie fit --config ppo/capture_flag", "processor": "one", "runs": runs}
    (tmp_path / "capture-flag-ppo.json").write_text(json.dumps(content))
    lines = capture_flag_results.tables(tmp_path)
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in lines if line.startswith("| PPO")]
    assert rows == [
        ["PPO", "0", "3", "100 (15 updates)", "300 (30)", "+200", "reached", "0.90", "0.25", "3.0"],
        ["PPO", "1", "3", "100 (15 updates)", "250 (30)", "+150", "missed", "0.90", "0.25", "3.0"],
    ]
    capture_flag_results.draw(tmp_path)
    assert (tmp_path / "capture-flag-ratings.png").stat().st_size > 10_000


def test_every_task_has_a_name_in_the_table() -> None:
    assert bench_capture_flag.TASKS.keys() == capture_flag_results.LABELS.keys()
