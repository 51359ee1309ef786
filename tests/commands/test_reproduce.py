"""`reverie reproduce`: what there is, what it needs, and whether a new score lies in the old interval."""

from __future__ import annotations

import csv
import hashlib
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import mistake

import reverie
from commands import reproduce

sys.path.append(str(reproduce.BENCHMARKS))
reproduction = importlib.import_module("reproduction")

SHORT = "reverie fit --config a2c/catch"
LAST = {"kind": "last", "environment_steps": 2000.0, "member": ""}


def write(
    results: Path, scores: Sequence[float], command: str = "reverie fit --config a2c/catch", name: str = "new-a"
) -> None:
    """A results file of a benchmark that nothing else names."""
    runs = [
        {"seed": seed, "minutes": 2.0, "date": "2026-12-01", "rows": [{**LAST, "mean": score}]}
        for seed, score in enumerate(scores)
    ]
    results.mkdir(exist_ok=True)
    content = {"task": "a", "command": command, "processor": "one kind", "runs": runs}
    (results / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Arguments of runs that are not trained, but write a return of 0.1 for each of their members, plus their seed."""
    told: list[list[str]] = []

    def finished(folder: Path, arguments: Sequence[str], threads: int, tell: Callable[[str], None]) -> dict[str, Any]:
        told.append(list(arguments))
        words = dict(itertools.pairwise(arguments))
        first = int(words.get("--seed_everything", 0))
        folder.mkdir(parents=True)
        with (folder / "evaluation.csv").open("w") as file:
            table = csv.DictWriter(file, ["kind", "member", "mean"])
            table.writeheader()
            members = int(words.get("--model.seeds", 1))
            names = [f"seed={n}" if members > 1 else "" for n in range(members)]
            table.writerows({"kind": "last", "member": m, "mean": 0.1 + first + n} for n, m in enumerate(names))
        (folder / "cell.json").write_text(json.dumps({"status": "done", "reason": "", "seconds": 60.0}))
        return {"status": "done", "reason": "", "seconds": 60.0}

    monkeypatch.setattr(reproduction, "finished", finished)
    monkeypatch.setattr(reproduction, "RUNS", tmp_path / "runs")
    return told


def written(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((results / "reproduced").glob("*.json"))]


def test_every_seed_is_run_and_the_middle_is_held_against_the_interval(
    tmp_path: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    write(results, [0.0, 1.0, 2.0])
    before = (results / "new-a.json").read_bytes()
    assert reproduction.reproduce("new-a", [], None, results)
    assert trained == [["--config", "a2c/catch", "--seed_everything", str(seed)] for seed in range(3)]
    printed = capsys.readouterr().out
    assert "these took 6.0 minutes on one kind, with evaluations" in printed
    assert "the middle, 1.1, lies in the old interval 0 .. 2; 3.0 minutes" in printed
    assert printed.index("these took") < printed.index("reverie fit --config a2c/catch --seed_everything 0")
    (content,) = written(results)
    assert content["scores"] == pytest.approx({"0": 0.1, "1": 1.1, "2": 2.1})
    assert content["before"] == {"0": 0.0, "1": 1.0, "2": 2.0}
    assert (content["within"], content["interval"], content["middle"]) == (True, [0.0, 2.0], pytest.approx(1.1))
    assert content["origin"]["processor"]
    assert (results / "new-a.json").read_bytes() == before


def test_a_score_outside_of_the_interval_is_told_and_is_the_exit_status(
    tmp_path: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    write(results, [5.0, 6.0])
    monkeypatch.setattr(reproduction, "read_cells", lambda folder, read=reproduction.read_cells: read(results))
    monkeypatch.setattr(reproduction, "RESULTS", results)
    monkeypatch.setattr(reproduction.reproduce, "__defaults__", (results,))
    with pytest.raises(SystemExit) as leaving:
        reverie.main(["reproduce", "new-a", "--seeds", "1"])
    assert leaving.value.code == 1
    assert trained == [["--config", "a2c/catch", "--seed_everything", "1"]]
    printed = capsys.readouterr().out
    assert "these took 2.0 minutes" in printed
    assert "the middle over 1 of 2 seeds, 1.1, lies OUTSIDE of the old interval 5 .. 6" in printed


def test_one_seed_has_no_interval_and_is_to_come_out_as_it_did(tmp_path: Path, trained: list[list[str]]) -> None:
    write(tmp_path / "same", [0.1])
    assert reproduction.reproduce("new-a", [], None, tmp_path / "same")
    write(tmp_path / "other", [0.1001], name="new-b")
    assert not reproduction.reproduce("new-b", [], None, tmp_path / "other")
    assert "the old score 0.1001, without a width" in "\n".join(
        reproduction.told(written(tmp_path / "other")[0]),
    )


def learning(results: Path, data: str) -> None:
    """A results file of members of one run on a dataset, whose hash it has."""
    rows = [{"kind": "behaviour", "member": "", "mean": 0.0}]
    rows += [{"kind": kind, "member": f"seed={n}", "mean": 0.1 + n} for kind in ("phase", "last") for n in range(3)]
    content = {
        "task": "mine", "dataset": "mine", "date": "2026-12-01", "processor": "one kind", "minutes": 3.0, "rows": rows,
        "command": "reverie fit --config atac/pendulum --model.seeds 3 --run_dir runs/x --data.source DIR/mine.h5",
        "origin": {"commits": [], "changed": False, "versions": {}, "tags": {}, "data": {"mine": data}},
    }  # fmt: skip
    results.mkdir(exist_ok=True)
    (results / "learning-mine.json").write_text(json.dumps(content))


def test_members_are_run_as_one_on_the_data_that_were_measured(tmp_path: Path, trained: list[list[str]]) -> None:
    results, file = tmp_path / "results", tmp_path / "mine.h5"
    file.write_bytes(b"episodes")
    learning(results, hashlib.sha256(b"episodes").hexdigest())
    assert reproduction.reproduce("learning-mine", [1], tmp_path, results)
    assert trained == [["--config", "atac/pendulum", "--model.seeds", "2", "--data.source", str(file)]]
    assert written(results)[0]["scores"] == {"1": 1.1}
    file.write_bytes(b"other episodes")
    with pytest.raises(ValueError, match=r"mine\.h5 is not what learning-mine learned from: its SHA-256 is \w+, that"):
        reproduction.reproduce("learning-mine", [], tmp_path, results)
    with pytest.raises(ValueError, match=r"learns from mine\.h5: tell its folder with --datasets FOLDER"):
        reproduction.reproduce("learning-mine", [], None, results)
    with pytest.raises(ValueError, match=r"mine\.h5, which is not in .*results"):
        reproduction.reproduce("learning-mine", [], results, results)


def test_other_scores_are_read_where_a_run_leaves_them(tmp_path: Path) -> None:
    folder = tmp_path / "metrics/version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,validation/relative_error/seen\n1,0.5\n2,0.25\n3,\n")
    assert reproduction.relative_error(tmp_path) == [0.25]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dreamer-cartpol"], "there is no cell dreamer-cartpol; did you mean dreamer-cartpole"),
        (["two-catch"], "did you mean popart-two-catch, popart-two-catch-off, "),
        (["xyz"], "there is no cell xyz; `reverie reproduce` lists them"),
        (["dreamer-cartpole", "--seeds", "0", "9"], "dreamer-cartpole has no seed 9: it has 0, 1, 2"),
        (["dreamer-cartpole", "--seeds", "[-1]"], "seeds must lie in [0, "),
        (["learning-hopper-medium", "--datasets", "nowhere"], "--datasets: there is no folder nowhere"),
        (["two_timescale-two-timescales"], "a benchmark of its own measures it: python benchmarks/bench_two_timescale"),
        (["offline-table-episodes-alike/hopper-medium/atac"], "code of another commit: git checkout 9d27249 && "),
    ],
)
def test_mistakes_are_told_on_one_screen(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in mistake(["reproduce", *words], capsys)


def test_an_installation_says_that_it_has_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "BENCHMARKS", tmp_path / "benchmarks")
    said = mistake(["reproduce", "dreamer-cartpole"], capsys)
    assert "are no part of an installation. Run reverie reproduce in a clone of the repository" in said


def test_without_a_cell_all_are_listed_with_their_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    reverie.main(["reproduce"])
    lines = capsys.readouterr().out.splitlines()
    cells = reproduction.read_cells(reproduction.RESULTS)
    assert [line.split()[0] for line in lines[: len(cells)]] == [cell.name for cell in cells]
    (line,) = [line for line in lines if line.startswith("dreamer-cartpole ")]
    assert line.split()[1:5] == ["26.2", "min", "3", "seeds"]
    assert lines[-1].startswith(f"{len(cells)} cells; * ")


@pytest.mark.long
def test_a_cell_is_trained_again_and_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "RUNS", tmp_path / "runs")
    short = ("--trainer.max_steps 2 --evaluation.episodes 2 --evaluation.final_episodes 2 --evaluation.parallel 2 "
             "--data.prefill 88")  # fmt: skip
    write(tmp_path / "a", [0.0], f"{SHORT} {short}")
    reproduction.reproduce("new-a", [], None, tmp_path / "a")
    score = written(tmp_path / "a")[0]["scores"]["0"]
    write(tmp_path / "b", [score], f"{SHORT} {short}", name="new-b")
    assert reproduction.reproduce("new-b", [], None, tmp_path / "b")
    assert len(list((tmp_path / "runs").glob("*/*/cell.json"))) == 2
