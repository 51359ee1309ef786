"""The gates of `benchmarks/bench_muzero.py`: known answers, cells that are not run twice, and plays with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import bench_muzero  # noqa: E402 - no package holds the benchmarks
import bench_muzero_speed  # noqa: E402
import learning_runs  # noqa: E402
import learning_tables  # noqa: E402
import muzero_horizons  # noqa: E402
import muzero_results  # noqa: E402
import resumed_runs  # noqa: E402
from muzero_cells import CELLS  # noqa: E402

STEPS = (5_000.0, 10_000.0, 15_000.0, 25_000.0)


def result(seed: int, curve: list[float], last: float, plays: dict[str, Any] | None = None) -> dict[str, Any]:
    rows = [{"kind": "behaviour", "mean": 60.0}]
    rows += [{"kind": "curve", "environment_steps": n, "mean": y} for n, y in zip(STEPS, curve, strict=True)]
    return {"seed": seed, "minutes": 2.0, "rows": [*rows, {"kind": "last", "mean": last}], "plays": plays or {}}


def write(folder: Path, cell: str, runs: list[dict[str, Any]]) -> None:
    content = {"command": f"fit {cell}", "processor": "one", "runs": runs}
    (folder / f"muzero-{cell}.json").write_text(json.dumps(content))


def table(folder: Path) -> list[list[str]]:
    return [[x.strip() for x in line.split("|")[1:-1]] for line in muzero_results.tables(folder) if line[:2] == "| "]


def test_goals_are_held_against_the_evaluation_at_their_steps(tmp_path: Path) -> None:
    assert muzero_results.tables(tmp_path) == []
    members = [
        {"member": f"{n} simulations", "mean": 10.0 * n, "low": 0.0, "high": 1.0, "success": None} for n in (0, 4)
    ]
    curves = ([0.0, 190.0, 9.0, 500.0], [0.0, 210.0, 9.0, 450.0], [0.0, 200.0, 9.0, 100.0])
    runs = [result(s, curve, 400.0 + s, {"simulations": members}) for s, curve in enumerate(curves)]
    write(tmp_path, "cartpole", runs)
    head, early, late, last, plays, alone, searched = table(tmp_path)
    assert head[:4] == ["run", "when", "goal", "reached"]
    assert early == [
        "Gumbel",
        "10,000 steps",
        "195",
        "yes, 2 of 3 seeds",
        "200",
        "190 .. 210",
        "190, 210, 200",
        "2.0 2.0 2.0",
    ]
    assert late[1:5] == ["25,000 steps", "450", "no, 2 of 3 seeds", "350"]
    assert last[1:5] == ["last weights", "", "", "401"]
    assert plays[0] == "run"
    assert alone[:3] == ["CartPole, Gumbel", "simulations 0 simulations", "0"]
    assert searched[2] == "40"
    text = "\n".join(muzero_results.tables(tmp_path))
    assert "## MuZero" in text
    assert "`fit cartpole`." in text


def test_cells_are_compared_seed_by_seed_and_with_the_data(tmp_path: Path) -> None:
    flat = [0.0] * 4
    write(tmp_path, "catch-late", [result(s, flat, 0.5 + s) for s in (0, 1, 2)])
    write(tmp_path, "catch-late-steps", [result(s, flat, 0.4 + s) for s in (1, 2, 3)])
    write(tmp_path, "offline", [result(0, flat, 50.0), result(1, flat, 90.0)])
    write(tmp_path, "cartpole-4", [result(0, [1.0, 2.0, 3.0, 4.0], 5.0)])
    rows = {(row[0], row[1]): row for row in table(tmp_path)}
    late = rows["late reward, sums of rewards", "last weights"]
    assert late[2:4] == ["0.1 above late reward, one by one", "yes, +0.1 (+0.1 .. +0.1)"]
    assert rows["late reward, one by one", "last weights"][2:4] == ["", ""]
    assert rows["reanalysis of all", "last weights"][2:5] == ["the data's 60", "yes, 1 of 2 seeds", "70"]
    assert rows["Gumbel, 4 simulations", "last weights"][2:4] == ["", ""]  # nothing to compare it with yet


def test_games_are_counted_that_were_won_against_minimax(tmp_path: Path) -> None:
    plays = [
        {"minimax of depth 2": [{"member": "", "mean": 0.8, "low": 0.7, "high": 0.9, "success": x}]}
        for x in (0.9, 0.95)
    ]
    write(tmp_path, "connect-four", [result(s, [0.0] * 4, 0.0, played) for s, played in enumerate(plays)])
    rows = {(row[0], row[1]): row for row in table(tmp_path)}
    assert rows["connect four", "minimax of depth 2"][2:5] == ["0.9", "yes, 2 of 2 seeds", "0.925"]
    assert rows["Board games, connect four", "minimax of depth 2"][-1] == "92%"


class Command:
    """Takes the place of `reverie`: trainings end at once, every second play fails."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, list[str]]] = []
        self.commands: list[tuple[str, ...]] = []

    def fit(self, folder: Path, arguments: list[str], *_: Any) -> dict[str, Any]:
        self.trained.append((folder.parent.name, arguments))
        facts = {"status": "done", "reason": "", "seconds": 60.0}
        (folder / resumed_runs.FACTS).write_text(json.dumps(facts))
        (folder / "evaluation.csv").write_text("kind,mean\nlast,1\n")
        # A run that was cut after its second update that was logged, which the next start logged again.
        for number, rows in enumerate(("100,5,\n200,9,9\n", "200,3,2\n")):
            log = folder / f"metrics/version_{number}/metrics.csv"
            log.parent.mkdir(parents=True)
            log.write_text("step,muzero/horizon_from_age/0,muzero/horizon_from_age/500\n" + rows)
            os.utime(log, (number, number))
        return facts

    def reverie(self, *arguments: str) -> None:
        self.commands.append(arguments)
        if sum(command[0] == "evaluate" for command in self.commands) % 2:
            raise subprocess.CalledProcessError(1, "evaluate")
        scores = {"mean": 1.0, "low": 0.0, "high": 2.0, "returns": [1.0]}
        member = {"member": "", "numbers": {"success_rate": 0.5}, **scores}
        Path(arguments[-1]).write_text(json.dumps({"members": [member]}))


def test_a_cell_that_was_measured_is_not_run_again_and_a_failed_play_trains_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Command()
    monkeypatch.setattr(resumed_runs, "fit", fake.fit)
    monkeypatch.setattr(bench_muzero, "reverie", fake.reverie)
    monkeypatch.setattr(bench_muzero, "recorded", lambda path, config: f"content of {path} by {config}")
    monkeypatch.setattr(learning_runs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(learning_runs, "RUNS", tmp_path / "runs")

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bench_muzero.py", *arguments])
        return bench_muzero.main()

    # The plays of both seeds fail; what was trained is kept, and the other cell is not kept from its turn.
    assert call("--seeds", "0", "--cells", "connect-four", "offline") == 1
    four, offline = "muzero-connect-four", "muzero-offline"
    assert [name for name, _ in fake.trained] == [four, offline]
    assert not (tmp_path / "results" / f"{four}.json").exists()
    assert (tmp_path / "results" / f"{offline}.json").exists()
    assert call("--seeds", "0", "1", "--cells", "connect-four", "--finished") == 0
    assert capsys.readouterr().out.count("not finished") == 2
    assert call("--seeds", "0", "--cells", "connect-four", "offline") == 0
    assert [name for name, _ in fake.trained] == [four, offline]
    content = json.loads((tmp_path / "results" / f"{four}.json").read_text())
    member = {"member": "", "mean": 1.0, "low": 0.0, "high": 2.0, "success": 0.5}
    assert content["runs"][0]["plays"] == {"minimax of depth 2": [member]}
    assert content["runs"][0]["horizons"] == {"0": 4.0, "500": 2.0}
    assert str(tmp_path) not in json.dumps(content)  # no place of this machine
    (folder,) = (tmp_path / "runs" / four).iterdir()
    assert fake.commands[0][:3] == ("evaluate", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt"))
    # What has ended is added without a training or a play, after its figures were lost.
    (tmp_path / "results" / f"{four}.json").unlink()
    fake.commands.clear()
    assert call("--seeds", "0", "1", "--cells", "connect-four", "--finished") == 0
    content = json.loads((tmp_path / "results" / f"{four}.json").read_text())
    assert [run["seed"] for run in content["runs"]] == [0]
    assert content["runs"][0]["plays"] == {"minimax of depth 2": [member]}
    assert not fake.commands
    assert len(fake.trained) == 2


def test_horizons_are_drawn_by_age_of_the_seeds_that_have_them(tmp_path: Path) -> None:
    picture, flat = tmp_path / "horizons.png", [0.0] * 4
    write(tmp_path, "reanalyse-0", [result(0, flat, 1.0) | {"horizons": {"0": 5.0}}])  # compares no targets
    write(tmp_path, "target-5-steps", [result(0, flat, 1.0)])  # was measured before horizons were told
    found = learning_tables.contents(tmp_path, "muzero")
    muzero_horizons.draw(found, picture)
    assert not picture.exists()
    assert muzero_horizons.CAPTION not in muzero_results.page(tmp_path)
    runs = [result(s, flat, 1.0) | {"horizons": h} for s, h in enumerate(({"0": 5.0, "500": 3.0}, {"0": 4.0}))]
    write(tmp_path, "target-v-trace", [*runs, result(2, flat, 1.0)])
    found = learning_tables.contents(tmp_path, "muzero")
    assert muzero_horizons.by_target(found) == {"V-trace": [{"0": 5.0, "500": 3.0}, {"0": 4.0}]}
    muzero_horizons.draw(found, picture)
    assert picture.stat().st_size < 300_000
    assert muzero_horizons.CAPTION in muzero_results.page(tmp_path)


def test_cells_name_each_other() -> None:
    for cell in CELLS.values():
        if cell.above is not None:
            assert CELLS[cell.above[0]].group == cell.group
        assert {goal.played for goal in cell.goals if goal.played} <= cell.plays.keys()


@pytest.mark.filterwarnings("ignore:model.value_target is Mixed")
def test_every_cell_is_a_run_that_the_command_line_knows(capsys: pytest.CaptureFixture[str]) -> None:
    import reverie

    for cell in CELLS.values():
        config, extra = cell.task
        stacked = [extra[n + 1] for n, name in enumerate(extra) if name == "--config"]
        assert all((ROOT / "configs" / f"{name}.yaml").exists() for name in (config, *stacked))
    expected = {"cartpole-puct-4": "dirichlet_alpha", "reanalyse-1": "reanalyse: 1", "catch-late-steps": "StepReward",
                "target-mixed-with-search-values": "planning_targets.Mixed"}  # fmt: skip
    for name, printed in expected.items():
        config, extra = CELLS[name].task
        with pytest.raises(SystemExit) as leaving:
            reverie.main(["fit", "--config", config, *extra, "--print_config"])
        assert leaving.value.code in (0, None), capsys.readouterr().err
        assert printed in capsys.readouterr().out


def test_the_page_is_made_of_what_was_measured() -> None:
    made = muzero_results.page(ROOT / "benchmarks/results")
    assert muzero_results.PAGE.read_text() == made, "make it again: python benchmarks/report.py"


# ------------------------------------------------------------------------------------------------------- beside mujax
def test_the_first_evaluation_that_reaches_a_goal_is_found(tmp_path: Path) -> None:
    assert bench_muzero_speed.reached(tmp_path, 475.0) == {}
    (tmp_path / "run").mkdir()
    rows = ["kind,mean,environment_steps", "random,900,0", "curve,470,1000.0", "curve,480,2000.0", "curve,500,3000.0"]
    (tmp_path / "run" / "evaluation.csv").write_text("\n".join(rows))
    assert bench_muzero_speed.reached(tmp_path, 475.0) == {"steps": 2000, "mean": 480.0}
    assert bench_muzero_speed.reached(tmp_path, 501.0) == {}


def test_both_sides_are_timed_in_turn_and_one_that_is_late_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"seconds": 12.34, "steps": 9000, "mean": 480.0}
    monkeypatch.setattr(bench_muzero_speed, "ours", lambda seed, options: found if seed == 1 else {})
    monkeypatch.setattr(bench_muzero_speed, "theirs", lambda seed, options: found | {"version": "0.1"})
    command = ["bench_muzero_speed.py", "--seeds", "1", "2", "--limit", "60"]
    monkeypatch.setattr(sys, "argv", [*command, "--peer-python", sys.executable])
    bench_muzero_speed.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(line["side"], line["seed"], line["seconds"], line["environment steps"]) for line in lines]
    late = ("reverie", 2, "not within 60", "")
    assert told == [("reverie", 1, 12.3, 9000), ("mujax 0.1", 1, 12.3, 9000), late, ("mujax 0.1", 2, 12.3, 9000)]
    monkeypatch.setattr(sys, "argv", [*command, "--peer-python", str(tmp_path / "python")])
    with pytest.raises(SystemExit, match="2"):
        bench_muzero_speed.main()
    assert "make it as the head of this file says" in capsys.readouterr().err
