"""The tables of `benchmarks/bench_dqra.py`: known answers, cells that are not run twice, and the page made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import bench_dqra  # noqa: E402 - no package holds the benchmarks
import dqra_results  # noqa: E402
import learning_runs  # noqa: E402

TASK = "a2c-catch"
SHORT = ("--trainer.max_epochs", "5")


def result(seed: int, value: float) -> dict[str, Any]:
    rows = [{"kind": "curve", "environment_steps": n, "updates": n, "mean": value / 2} for n in (1.0, 2.0)]
    return {"seed": seed, "minutes": 1.0, "rows": [*rows, {"kind": "last", "mean": value}]}


def write(folder: Path, task: str, weight: float, values: list[float]) -> None:
    content = {"command": f"fit {weight:g}", "runs": [result(seed, value) for seed, value in enumerate(values)]}
    (folder / f"{dqra_results.name_of(task, weight)}.json").write_text(json.dumps(content))


def test_tables_hold_interquartile_means_and_say_what_is_told_apart(tmp_path: Path) -> None:
    assert dqra_results.tables(tmp_path) == []
    write(tmp_path, TASK, 0.0, [1.0, 2.0, 3.0, 4.0, 100.0])
    assert dqra_results.tables(tmp_path) == []  # nothing to compare with
    write(tmp_path, TASK, 0.5, [1001.0, 1002.0, 1003.0, 1004.0, 1100.0])
    write(tmp_path, "iql-pendulum", 0.0, [5.0, 5.0])
    write(tmp_path, "iql-pendulum", 0.25, [5.0, 5.0])
    write(tmp_path, "r2d2-tmaze", 0.0, [1.0, 1.0])
    write(tmp_path, "r2d2-tmaze", 0.5, [-1.0, -1.0])
    write(tmp_path, "dreamer-catch", 0.0, [1.0, 1.0])
    write(tmp_path, "dreamer-catch", 0.5, [1.0])  # one seed says nothing
    rows = [
        line.split(" | ") for line in dqra_results.tables(tmp_path) if line.startswith(("A2C", "IQL", "R2D2", "Dr"))
    ]
    last, whole = rows[:3], rows[3:]
    assert [row[0] for row in last] == ["A2C, Catch", "R2D2, T-maze with a corridor of 10", "IQL, recorded Pendulum"]
    assert [row[-1] for row in last] == ["helps", "harms", "makes no difference that can be told"]
    assert last[0][2].startswith("3 (")  # without the lowest and the highest
    assert [last[0][3], last[2][3]] == ["", "5 (5 .. 5)"]
    assert last[0][4].startswith("1003 (")
    assert last[0][5].startswith("+1e+03 (")
    assert whole[0][2].startswith("1.5 (")


def test_a_curve_is_told_by_updates_where_no_steps_were_taken() -> None:
    steps, returns, unit = dqra_results.points(result(0, 4.0))
    assert (list(steps), list(returns), unit) == ([0.001, 0.002], [2.0, 2.0], "steps")
    recorded = result(0, 4.0)
    for row in recorded["rows"]:
        row["environment_steps"] = 0.0
    updates, _, unit = dqra_results.points(recorded)
    assert (list(updates), unit) == ([0.001, 0.002], "updates")


def test_tasks_that_are_compared_are_drawn(tmp_path: Path) -> None:
    write(tmp_path, TASK, 0.0, [1.0, 2.0])
    dqra_results.draw(tmp_path)
    assert not (tmp_path / "dqra.png").exists()
    write(tmp_path, TASK, 0.5, [1.0, 2.0])
    dqra_results.draw(tmp_path)
    assert (tmp_path / "dqra.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_that_was_measured_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, Any, int]] = []

    def run(name: str, task: Any, seed: int, measure: Any, data: str) -> dict[str, Any]:
        assert data == ""
        ran.append((name, task, seed))
        return result(seed, 1.0)

    monkeypatch.setattr(bench_dqra, "run", run)
    monkeypatch.setattr(learning_runs, "RESULTS", tmp_path)
    monkeypatch.setattr(learning_runs, "RUNS", tmp_path / "runs")
    command = ["bench_dqra.py", "--tasks", TASK, "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--weights", "0.5"])
    bench_dqra.main()
    monkeypatch.setattr(sys, "argv", command)
    bench_dqra.main()
    assert [(name, seed) for name, _, seed in ran] == [
        (f"dqra-{TASK}-{weight}", seed) for weight, seed in [("0.5", 0), ("0.5", 1), ("0", 0), ("0", 1)]
    ]
    assert [task for _, task, _ in ran][1:3] == [
        ("a2c/catch", (*SHORT, "--model.residual_weight", weight)) for weight in ("0.5", "0")
    ]


def test_every_task_is_a_run_that_the_command_line_knows(capsys: pytest.CaptureFixture[str]) -> None:
    import reverie

    by_agent = {argument + config.partition("/")[0]: (config, extra, argument)
                for (config, extra), argument in bench_dqra.TASKS.values()}  # fmt: skip
    for config, extra, argument in by_agent.values():
        with pytest.raises(SystemExit) as leaving:
            reverie.main(["fit", "--config", config, *extra, argument, "0.5", "--print_config"])
        assert leaving.value.code in (0, None)
        assert "residual_weight: 0.5" in capsys.readouterr().out


def test_the_page_is_made_of_what_was_measured() -> None:
    made = dqra_results.page(ROOT / "benchmarks/results")
    assert dqra_results.PAGE.read_text() == made, "make it again: python benchmarks/report.py"
