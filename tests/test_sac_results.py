"""The tables of `benchmarks/bench_sac.py`: known answers, and tasks that name every gradient once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import bench_sac  # noqa: E402 - no package holds the benchmarks
import sac_results  # noqa: E402

from modules.functional.gradient_estimators import ESTIMATORS  # noqa: E402


def result(seed: int, curve: list[float], last: float) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"kind": "curve", "environment_steps": 1000.0 * (n + 1), "mean": y} for n, y in enumerate(curve)
    ]
    return {"seed": seed, "minutes": 2.0, "rows": [*rows, {**rows[-1], "kind": "last", "mean": last}]}


def write(folder: Path, task: str, runs: list[dict[str, Any]]) -> None:
    content = {"command": f"fit {task}", "processor": "one", "runs": runs}
    (folder / f"sac-{task}.json").write_text(json.dumps(content))


def test_every_gradient_is_measured_on_both_games_and_by_its_name() -> None:
    assert {*sac_results.GRADIENTS} == {"expectation", *ESTIMATORS}
    told = {(config, extra[1:]) for config, extra in bench_sac.TASKS.values() if config != "sac/pendulum"}
    assert told == {(f"sac/{game}", (name,)) for game in ("cartpole", "catch") for name in sac_results.GRADIENTS}
    assert bench_sac.TASKS["pendulum"] == ("sac/pendulum", ())


def test_tables_hold_means_over_seeds_and_when_each_reached_the_goal(tmp_path: Path) -> None:
    assert sac_results.tables(tmp_path) == []
    write(tmp_path, "pendulum", [result(0, [-900.0, -150.0], -140.0)])
    write(tmp_path, "catch-straight-through", [result(0, [0.0, 1.0], 1.0), result(1, [0.5, 0.8], 0.5)])
    lines = sac_results.tables(tmp_path)
    assert "### CartPole-v1" not in lines
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in lines if line.startswith(("| str", "| rep"))]
    assert rows == [
        ["reparametrised", "2,000", "-140", "-140 .. -140", "-140", "2.0"],
        ["straight-through", "2,000", "0.75", "0.5 .. 1", "1, 0.5", "2.0 2.0"],
    ]
    assert "First evaluation at 0.9 or above, straight-through, by seed: 2,000, never environment steps," in lines
    sac_results.draw(tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"sac-pendulum.png", "sac-catch.png"}
