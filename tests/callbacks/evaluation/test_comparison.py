"""Runs that are compared: which belong together, which do not compare, and the numbers and files that come out."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callbacks.evaluation.compared import ComparedRun, Task, check_comparable, grouped, without_repetitions
from callbacks.evaluation.comparison import compare_groups
from callbacks.evaluation.comparison_report import comparison_footer, comparison_metrics, write_comparison
from callbacks.evaluation.report import Score

CARTPOLE = Task.of({"id": "CartPole-v1", "arguments": {}, "wrappers": []}, None, None, "")
PENDULUM = Task.of({"id": "Pendulum-v1", "arguments": {}, "wrappers": []}, "pendulum/mixed-v0", "ab", "")


def score(kind: str, mean: float, updates: int, normalized: float | None = None, steps: int = 0) -> Score:
    return Score(updates, kind, kind, "", 10, mean, mean, mean, normalized, environment_steps=steps)


def run(
    given: dict[str, str], last: float = 1.0, curve: Sequence[tuple[int, float]] = ((10, 0.5),), **changed: Any
) -> ComparedRun:
    config = {"model.class_path": "modules.algorithms.a2c.A2C", "seed_everything": "0", **given}
    scores = [*(score("curve", mean, updates, steps=2 * updates) for updates, mean in curve), score("last", last, 10)]
    made = ComparedRun(f"runs/{len(ALL)}", config, "", CARTPOLE, "none", scores, [(5, 1.0), (10, 4.0)], "1")
    ALL.append(made)
    return replace(made, **changed)


ALL: list[ComparedRun] = []
"""All runs that were made, for names of their own."""


def seeds(lasts: Sequence[float], **settings: str) -> list[ComparedRun]:
    named = {f"model.init_args.{name}": value for name, value in settings.items()}
    return [run(named | {"seed_everything": str(seed)}, last) for seed, last in enumerate(lasts)]


# ----------------------------------------------------------------------------------------------------- what is compared
def test_seeds_of_a_config_are_a_group_named_by_what_differs() -> None:
    slow, fast = seeds([1.0, 2.0], lr="0.001", units="64"), seeds([3.0], lr="1e-2", units="64")
    other = [run({"model.class_path": "modules.algorithms.ppo.PPO", "model.init_args.clip": "0.2"})]
    assert grouped([*slow, *fast, *other], []) == {"A2C lr=0.001": slow, "A2C lr=0.01": fast, "PPO": other}
    assert grouped([*slow, *fast, *other], ["model.class_path"]) == {"A2C": [*slow, *fast], "PPO": other}
    assert grouped([*slow, *fast], ["lr"]) == {"A2C lr=0.001": slow, "A2C lr=0.01": fast}
    assert [*grouped(slow, [])] == ["A2C"]
    with pytest.raises(ValueError, match="--by nothing: no run has such a setting"):
        grouped(slow, ["nothing"])


def test_where_a_run_is_logged_and_evaluated_makes_no_group() -> None:
    told = {"trainer.logger": "false", "evaluation.parallel": "7", "mlflow.system_metrics": "true", "lr": "0.1"}
    assert len(grouped([run({}), run(told)], [])) == 1


def test_members_are_runs_of_their_own_settings() -> None:
    settings = {"model.init_args.beta": "[1.0, 4.0]", "model.init_args.seeds": "2"}
    members = [run(settings, member=f"beta={beta}/seed={seed}") for beta in (1, 4) for seed in (0, 1)]
    alone = run({"model.init_args.beta": "4.0", "model.init_args.seeds": "1", "seed_everything": "5"})
    groups = grouped([*members, alone], [])
    assert groups == {"A2C beta=1": members[:2], "A2C beta=4": [*members[2:], alone]}
    assert without_repetitions([*members, alone])[1] == []


def test_groups_that_only_long_values_tell_apart_have_names_of_their_own() -> None:
    long = [run({"model.init_args.text": "x" * 100 + end}) for end in "ab"]
    assert [name.rpartition(" ")[2] for name in grouped(long, [])][1] == "#2"


def test_a_repetition_is_left_out_and_the_newest_counts() -> None:
    old, new, other = run({}, started="1"), run({}, started="2"), run({"seed_everything": "1"})
    assert without_repetitions([old, new, other]) == ([new, other], [old])
    chance = [run({"seed_everything": "true"}), run({"seed_everything": "true"})]
    assert without_repetitions(chance) == (chance, [])


@pytest.mark.parametrize(("kind", "changed", "message"), [
    ("environment", {"task": PENDULUM._replace(data="", content_hash="")}, "environment differs: CartPole-v1 in "),
    ("data", {"task": CARTPOLE._replace(data="other", content_hash="cd")}, "data differs: none in "),
    ("yardstick", {"yardstick": "0 is 1.0, 100 is 2.0 (given by hand)"}, "yardstick differs: none in "),
    ("evaluation", {"settings": {"evaluation.episodes": "7"}}, "evaluation differs: episodes unknown, "),
])  # fmt: skip
def test_what_does_not_compare_is_refused_by_name(kind: Any, changed: dict[str, Any], message: str) -> None:
    runs = [run({}), run({}), run({}, **changed)]
    with pytest.raises(ValueError, match=message) as refused:
        check_comparable(runs, [])
    assert "and 1 more / " in str(refused.value)
    assert str(refused.value).endswith(f"say what may differ with --across '[{kind}]'")
    check_comparable(runs, [kind])
    check_comparable(runs[:2], [])


def test_environments_that_differ_in_how_they_are_shown_are_one() -> None:
    shown = {"id": "some_package:CartPole-v1", "arguments": {"render_mode": "rgb_array"}, "wrappers": []}
    assert Task.of(shown, None, None, "").identity == CARTPOLE.identity
    heavy = Task.of({"id": "CartPole-v1", "arguments": {"sutton_barto_reward": True}, "wrappers": []}, None, None, "")
    assert heavy.identity != CARTPOLE.identity
    assert Task.of(None, None, None, "a").label == "unknown"
    assert Task.of(None, None, None, "a") != Task.of(None, None, None, "b")  # nobody knows whether they are the same


# ------------------------------------------------------------------------------------------------------------- numbers
def test_aggregates_of_one_task() -> None:
    groups = {"a": seeds([1.0, 2.0, 3.0, 10.0], lr="1"), "b": seeds([0.0, 0.5, 1.0, 2.0], lr="2")}
    found = compare_groups(groups, "last", None, 500, 0)
    assert {name: one.value for name, one in found.aggregates["a"].items()} == {"IQM": 2.5, "median": 2.5, "mean": 4.0}
    assert found.unit == "return"
    low, high = found.aggregates["a"]["IQM"][1:]
    assert 1.0 <= low < 2.5 < high <= 10.0
    assert found.improvement["a", "b"].value == pytest.approx((3 * 1 + 0.5 + 0.5 + 4 + 4 + 2) / 16)
    assert found.improvement["a", "b"].value + found.improvement["b", "a"].value == 1.0
    assert found.profiles["a"].middle[0] == 1.0
    assert found.profiles["b"].middle[-1] == 0.0
    assert compare_groups(groups, "last", 5.0, 500, 0).aggregates["a"]["optimality gap"].value == 5 - 11 / 4
    assert compare_groups(groups, "last", None, 500, 0).aggregates == found.aggregates  # the same draws
    assert compare_groups(groups, "last", None, 500, 1).aggregates != found.aggregates


def test_one_run_has_no_interval() -> None:
    found = compare_groups({"a": seeds([1.0]), "b": seeds([2.0], lr="2")}, "last", None, 100, 0)
    assert math.isnan(found.aggregates["a"]["IQM"].low)
    assert np.isnan(found.curves["updates"]["a"].low).all()
    assert comparison_footer(found)["no interval"] == "one run alone tells nothing about others: a, b"
    assert not any("better" in line for line in comparison_footer(found))
    assert comparison_metrics(found)["a"] == {"IQM": 1.0, "median": 1.0, "mean": 1.0}


def test_curves_over_updates_steps_and_wall_time() -> None:
    first = run({}, curve=[(5, 0.0), (10, 4.0)])
    second = run({}, curve=[(5, 2.0), (10, 8.0)], seconds=[(5, 2.0), (10, 8.0)])
    found = compare_groups({"a": [first, second]}, "last", None, 500, 0)
    assert found.curves["updates"]["a"].x.tolist() == [5, 10]
    assert found.curves["updates"]["a"].middle.tolist() == [1.0, 6.0]
    assert found.curves["updates"]["a"].low.tolist() == [0.0, 4.0]
    assert found.curves["updates"]["a"].high.tolist() == [2.0, 8.0]
    assert found.curves["environment steps"]["a"].x.tolist() == [10, 20]
    # Wall time: the first is evaluated after 1 and 4 s, the second after 2 and 8; what both know is 2 to 4 s.
    wall = found.curves["wall time, s"]["a"]
    assert (wall.x[0], wall.x[-1]) == (2.0, 4.0)
    assert wall.middle[0] == pytest.approx((4 / 3 + 2.0) / 2)
    assert wall.middle[-1] == pytest.approx((4.0 + 4.0) / 2)
    recorded = run({}, curve=[(5, 1.0)])
    recorded = replace(recorded, scores=[replace(s, environment_steps=0) for s in recorded.scores])
    offline = compare_groups({"a": [recorded]}, "last", None, 50, 0)
    assert "environment steps" not in {**offline.curves, **offline.missing}
    mixed = compare_groups({"a": [first, recorded]}, "last", None, 50, 0)
    assert mixed.missing == {"environment steps": f"not known of {recorded.name}"}
    unknown = compare_groups({"a": [first, replace(second, seconds=[])]}, "last", None, 50, 0)
    assert unknown.missing == {"wall time, s": f"not known of {second.name}"}


def test_the_score_of_a_curve_is_that_of_updates_which_all_have_reached() -> None:
    short, long = run({}, curve=[(5, 1.0), (10, 2.0)]), run({"lr": "2"}, curve=[(5, 3.0), (10, 4.0), (15, 50.0)])
    found = compare_groups({"a": [short], "b": [long]}, "curve", None, 50, 0)
    assert [found.scores[name][0].tolist() for name in "ab"] == [[2.0], [4.0]]
    assert [*found.behind.values()] == [10, 10]


def normalised(one: ComparedRun, percent: float) -> ComparedRun:
    return replace(one, scores=[replace(s, normalized=percent) for s in one.scores])


def test_tasks_are_strata_and_need_a_common_unit() -> None:
    settings = {"data.init_args.source": "other.h5"}
    groups = {
        name: [
            *(normalised(run({}), percent) for percent in (base, base + 2)),
            *(normalised(run(settings, task=PENDULUM), 100 * percent) for percent in (base, base + 2)),
        ]
        for name, base in (("a", 1.0), ("b", 2.0))
    }
    found = compare_groups(groups, "last", None, 2000, 0)
    assert found.unit == "normalised return, %"
    assert found.aggregates["a"]["mean"].value == (2 + 200) / 2
    assert found.aggregates["a"]["mean"][1:] == (
        (1 + 100) / 2,
        (3 + 300) / 2,
    )  # for every draw has two runs of each task
    assert found.aggregates["a"]["optimality gap"].value == 100 - (1 + 3 + 100 + 100) / 4
    assert [*grouped(groups["a"], [])] == ["A2C"]
    with pytest.raises(
        ValueError, match=r"no run of 'b' is on pendulum/mixed-v0: groups are compared on the same tasks"
    ):
        compare_groups({"a": groups["a"], "b": groups["b"][:2]}, "last", None, 50, 0)
    bare = {name: [replace(one, scores=[replace(s, normalized=None) for s in one.scores]) for one in some]
            for name, some in groups.items()}  # fmt: skip
    with pytest.raises(ValueError, match="returns of different tasks have no common unit"):
        compare_groups(bare, "last", None, 50, 0)


# --------------------------------------------------------------------------------------------------------------- files
def test_files_hold_every_number_and_the_page_escapes_names(tmp_path: Path) -> None:
    groups = {"a <b>": seeds([1.0, 2.0], lr="1"), "c": seeds([3.0, 4.0], lr="2")}
    found = compare_groups(groups, "last", None, 50, 0)
    files = write_comparison(found, "4 runs of <x>", comparison_footer(found), tmp_path)
    assert [path.name for path in files] == ["compare.csv", "scores.csv", "curves.csv", "compare.png", "compare.html"]
    rows = {(row["group"], row["number"]): row for row in csv.DictReader(files[0].open())}
    assert float(rows["c", "IQM"]["value"]) == 3.5
    assert float(rows["c", "probability to be better than a <b>"]["value"]) == 1.0
    scores = list(csv.DictReader(files[1].open()))
    assert [(row["group"], row["updates"], float(row["score"])) for row in scores] == [
        ("a <b>", "10", 1.0), ("a <b>", "10", 2.0), ("c", "10", 3.0), ("c", "10", 4.0),
    ]  # fmt: skip
    axes = {row["axis"] for row in csv.DictReader(files[2].open())}
    assert axes == {"updates", "environment steps", "wall time, s", "share of runs above a score"}
    assert files[3].stat().st_size > 10_000
    page = files[4].read_text()
    assert "4 runs of &lt;x&gt;" in page
    assert "<b>" not in page
    assert "data:image/png;base64," in page
    assert comparison_footer(found)["c better than a <b>"].startswith("probability 1.00")
