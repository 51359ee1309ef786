"""Documents say of results what the results files hold, and each cell says how it was measured."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import code_tags  # noqa: E402 - no package holds the benchmarks
import evidence  # noqa: E402
import report  # noqa: E402
from evidence_cells import Cell, Goal, requoted  # noqa: E402
from evidence_sources import read_cells  # noqa: E402

RESULTS = ROOT / "benchmarks/results"


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return read_cells(RESULTS)


# ----------------------------------------------------------------------------------------------------- the repository's
def test_every_document_says_what_the_results_files_hold() -> None:
    made = evidence.documents_made()
    differing = [path.name for path, text in made.items() if path.read_text() != text]
    assert differing == [], "make them anew: python benchmarks/evidence.py"
    assert {ROOT / "README.md", ROOT / "docs/evidence.md", ROOT / "docs/dreamer.md"} <= made.keys()


def test_the_pages_of_the_report_are_the_ones_that_were_made() -> None:
    made = [page.PAGE.name for page in report.PAGES if page.page(RESULTS) != page.PAGE.read_text()]
    assert made == [], "make them anew: python benchmarks/report.py"
    assert report.PAGE.read_text().startswith("\n".join(report.sections())), "make it anew: python benchmarks/report.py"


def test_no_results_file_is_older_than_the_code_without_a_word(cells: list[Cell]) -> None:
    assert evidence.too_old(cells) == [], "measure them again, or name them in the tag as `older`"


def test_every_results_file_of_learning_has_cells_with_names_of_their_own(cells: list[Cell]) -> None:
    files = {path.name for path in RESULTS.glob("*.json")}
    others = {name for name in files if name.startswith(("mutation-", "baselines", "lookahead", "soak-"))}
    assert {cell.file for cell in cells} == files - others
    assert len({cell.name for cell in cells}) == len(cells)
    assert all(cell.scores and cell.command and cell.told["processor"] for cell in cells)


def test_every_benchmark_tells_how_it_was_measured() -> None:
    """By the one function: `origin` in what it writes, or `tell` for a line, or by a benchmark that does."""
    shared = {"learning_runs": {"main", "add"}, "bench_offline": {"run"}, "measured_by": {"origin", "tell"}}
    silent = []
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        tree = ast.parse(path.read_text())
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in shared
            for alias in node.names
            if alias.name in shared[node.module]
        }
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if not imported & called:
            silent.append(path.name)
    assert silent == []


# -------------------------------------------------------------------------------------------------------- known answers
def run(seed: int, value: float, **more: Any) -> dict[str, Any]:
    rows = [
        {"kind": "random", "mean": -1.0, "environment_steps": 0.0},
        {"kind": "curve", "mean": value, "environment_steps": 1000.0},
        {"kind": "last", "mean": value, "environment_steps": 2000.0},
    ]
    return {"seed": seed, "minutes": 2.0, "date": f"2026-12-0{seed + 1}", "rows": rows, **more}


def write(folder: Path, name: str, runs: list[dict[str, Any]], config: str = "simple/catch") -> None:
    content = {"task": name, "command": f"reverie fit --config {config}", "processor": "one kind", "runs": runs}
    (folder / f"{name}.json").write_text(json.dumps(content))


def recorded(commit: str, tag: int) -> dict[str, Any]:
    versions = {"torch": "2.14.1", "gymnasium": "1.4"}
    return {"commits": [commit], "changed": False, "versions": versions, "tags": {"simple": tag}, "data": {}}


def rows_of(lines: list[str]) -> dict[str, list[str]]:
    return {line.split("`")[1]: line.split(" | ")[1:] for line in lines if line.startswith("`")}


def test_a_cell_has_its_scores_its_goal_and_its_peers_in_one_row(tmp_path: Path) -> None:
    write(tmp_path, "simple-catch", [run(0, 0.5), run(1, 0.9), run(2, 0.7)])
    write(tmp_path, "simple-catch-ppo", [run(0, 0.25), run(3, 0.75)], "ppo/catch")
    found = read_cells(tmp_path)
    rows = rows_of(evidence.results_table(found))
    assert rows["simple-catch"][:3] == ["Catch, 10x5 pixels", "SimPLe, U-net", "0, 1, 2"]
    assert rows["simple-catch"][3:6] == ["0.5, 0.9, 0.7", "0.7", "0.5 .. 0.9"]
    assert rows["simple-catch"][6] == "0.8: **missed**, 0.7, 1 of 3 seeds"
    assert rows["simple-catch"][7] == "random policy: -1; PPO, as many steps: 0.5"
    assert rows["simple-catch-ppo"][1] == "PPO, as many steps"
    assert [cell.algorithm for cell in found] == ["ppo", "simple"]
    lines = evidence.page(found, {})
    assert "reverie fit --config simple/catch --seed_everything SEED" in lines
    assert "2 cells, 5 trained seeds, 2 goals, of which" in lines
    assert lines[lines.index("2 cells, 5 trained seeds, 2 goals, of which") + 1].startswith("2 are missed")


def test_goals_count_seeds_and_hold_for_the_middle() -> None:
    assert Goal("0.8", 0.8).told([0.7, 0.9]) == "0.8: reached, 0.8, 1 of 2 seeds"
    assert Goal("0.8", 0.8).told([0.0, 0.0, 0.0, 0.0, 1.0]) == "0.8: **missed**, 0, 1 of 5 seeds"
    assert Goal("early", 0.8, (1.0,)).told([0.0]) == "early: reached, 1, 1 of 1 seeds"


def test_a_cell_says_how_it_was_measured_as_far_as_its_file_does(tmp_path: Path) -> None:
    write(tmp_path, "simple-catch", [run(0, 0.5), run(1, 0.9)])
    (old,) = read_cells(tmp_path)
    added = {"simple-catch.json": {"commit": "abc1234", "date": "2026-12-01"}}
    assert rows_of(evidence.origin_table([old], added))["simple-catch"] == [
        "2026-12-01 to 2026-12-02", "not recorded; file added by abc1234", "tag 1, not recorded", "one kind",
        "not recorded", "4.0", "none",
    ]  # fmt: skip
    assert evidence.commit(old, {}) == "not recorded"
    origins = [recorded("1234567890", 1), recorded("abcdefabcd", 1) | {"changed": True}]
    write(tmp_path, "simple-catch", [run(seed, 0.5, origin=origin) for seed, origin in enumerate(origins)])
    (new,) = read_cells(tmp_path)
    assert evidence.commit(new, added) == "measured at 1234567, abcdefa, with changes"
    assert evidence.versions(new) == "torch 2.14.1, gymnasium 1.4"
    assert evidence.code(new) == "tag 1"


def test_cells_that_were_run_again_stand_beside_their_old_scores() -> None:
    origin = recorded("1234567890", 1) | {"processor": "one kind", "changed": True}
    scores = {"scores": {"1": 0.5}, "before": {"1": 0.9}, "middle": 0.5, "interval": [0.7, 1.0]}
    one = {"cell": "a", "of_seeds": 3, "within": False, "origin": origin, **scores}
    lines = evidence.reproduced_table([one, one | {"within": True}])
    assert lines[-2] == "`a` | 1 of 3 | 0.9 | 0.5 | 0.5 | 0.7 .. 1 | **no** | 1234567, with changes | one kind"
    assert " | yes | " in lines[-1]
    assert evidence.reproduced_table([]) == []


def test_a_file_of_a_form_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "strange-task.json").write_text(json.dumps({"figures": [1, 2]}))
    with pytest.raises(ValueError, match=r"strange-task\.json: docs/evidence\.md has no reader for it"):
        read_cells(tmp_path)
    (tmp_path / "strange-task.json").unlink()
    write(tmp_path, "strange-task", [run(0, 0.5)])  # runs of a new benchmark have cells by themselves
    (cell,) = read_cells(tmp_path)
    assert (cell.title, dict(cell.scores), cell.beside) == ("simple/catch", {0: 0.5}, {"random policy": -1.0})


def test_commands_with_bare_json_are_quoted_for_a_shell() -> None:
    assert requoted('reverie fit --weights {"a": 0.1, "b": 2} --k 1') == (
        """reverie fit --weights '{"a": 0.1, "b": 2}' --k 1"""
    )
    assert requoted("reverie fit --latent '{\"a\": 1}'") == "reverie fit --latent '{\"a\": 1}'"


# ----------------------------------------------------------------------------------------------------- tags of the code
def test_a_file_of_an_earlier_tag_is_refused_unless_the_tag_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "simple-catch", [run(0, 0.5, origin=recorded("1234567890", 2)), run(1, 0.5)])
    tags = tmp_path / "tags.yaml"
    monkeypatch.setattr(evidence, "changes_since", lambda algorithm, tag: code_tags.changes_since(algorithm, tag, tags))
    first, second = "{tag: 1, since: 2026-11-28, change: tags begin}", "{tag: 2, since: 2026-12-05, change: other steps"
    for older, refused in (("", True), (", older: [simple-pairs*]", True), (", older: [simple-catch*]", False)):
        tags.write_text(f"simple:\n- {first}\n- {second}{older}}}\n")
        code_tags.read_tags.cache_clear()
        found = evidence.too_old(read_cells(tmp_path))
        assert found == ["simple-catch.json is older than this change of 2026-12-05: other steps"] * refused
        (cell,) = read_cells(tmp_path)
        assert evidence.code(cell) == "tag 1; older than tag 2: other steps"  # that of its oldest seed
    code_tags.read_tags.cache_clear()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("simple:\n- {tag: 2, since: 2026-11-28, change: a}", "entry 1 needs tag: 1, since and change"),
        ("simple:\n- {tag: 1, change: a}", "entry 1 needs tag: 1, since and change"),
        ("simple:\n- {tag: 1, since: 2026-11-28, change: a, stays: [b]}", "nothing is called stays"),
    ],
)
def test_tags_that_do_not_count_or_have_unknown_keys_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tags.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        code_tags.read_tags(tmp_path / "tags.yaml")


def test_every_algorithm_with_results_has_a_tag(cells: list[Cell]) -> None:
    assert {cell.algorithm for cell in cells} <= code_tags.newest_tags().keys()
    dates = [tag.since for tags in code_tags.read_tags().values() for tag in tags]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)
