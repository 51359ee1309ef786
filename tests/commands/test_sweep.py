"""`reverie sweep`: what is tried, what is judged, what survives a kill, and what is left behind."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fake_fit import FakeFit, Return, best_at, score, work_alone
from filelock import FileLock
from forked import PATIENCE, fork

import commands.lightning
from callbacks.evaluation.swept import best_row, rows_table
from callbacks.sweep_figure import best_so_far
from commands.search_space import Choices, Range, SearchSpace
from commands.sweep_storage import JournalLock, mend_journal, open_storage
from commands.sweep_study import Search
from commands.sweep_trial import Job
from commands.sweep_worker import Plan, work

LR = {"model.lr": Range(1e-4, 1e-1, log=True)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeFit:
    """`fit` whose best learning rate is 0.003."""
    return put(monkeypatch, best_at(3e-3))


def put(monkeypatch: pytest.MonkeyPatch, returns: Return) -> FakeFit:
    made = FakeFit(returns)
    monkeypatch.setattr(commands.lightning, "run", made)
    return made


def plan(
    root: Path,
    trials: int = 8,
    seeds: Sequence[int] = (0,),
    search: Search = Search(startup=3, pruner="none"),
    keys: dict[str, Range | Choices] = LR,
    score: str = "last",
) -> Plan:
    job = Job(root, [], SearchSpace("space.yaml", keys), seeds, False, score, score != "last", 4)
    return Plan(job, None, search, {"seeds": [*seeds]}, trials, float("inf"), None)


def rows(root: Path) -> list[dict[str, str]]:
    with (root / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def without_times(root: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(root)]


def test_the_best_of_all_trials_is_found_and_left_as_a_config(fake: FakeFit, tmp_path: Path) -> None:
    found = work(plan(tmp_path / "out", trials=15, seeds=(0, 1, 5)))
    assert [row.trial for row in found] == [*range(15)]
    assert len(fake.runs) == 45
    best = max(found, key=lambda row: row.score or 0.0)
    assert best.score == pytest.approx(sum(best.seeds.values()) / 3)
    assert best.seeds["5"] == pytest.approx(best.seeds["0"] + 5)
    assert abs(best.values["model.lr"] / 3e-3 - 1) < 0.5, "a sampler that learns comes near"
    config = yaml.safe_load((tmp_path / "out/best.yaml").read_text())
    assert config["model"]["init_args"]["lr"] == best.values["model.lr"]
    assert (config["seed_everything"], config["run_dir"]) == (0, None)
    written = rows(tmp_path / "out")
    assert [float(row["score"]) for row in written] == [row.score for row in found]
    assert float(written[3]["seed 5"]) == found[3].seeds["5"]


def test_the_same_seed_tries_the_same_whatever_interrupts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends in the middle of a trial, by Ctrl-C, by a signal, and between a trial and what is written of it."""
    put(monkeypatch, best_at(3e-3))
    work(plan(tmp_path / "whole", seeds=(0, 1)))
    for run, evaluation, leaving in ((3, 2, KeyboardInterrupt()), (4, 1, SystemExit(143)), (2, 4, SystemExit(129))):
        fit = put(monkeypatch, best_at(3e-3))

        def end(number: int, at: int, run: int = run, evaluation: int = evaluation, leaving=leaving) -> None:
            if (number, at) == (run, evaluation):
                raise leaving

        fit.end = end
        with pytest.raises(type(leaving)):
            work(plan(tmp_path / "parts", seeds=(0, 1)))
    again = put(monkeypatch, best_at(3e-3))
    work(plan(tmp_path / "parts", seeds=(0, 1)))
    assert without_times(tmp_path / "parts") == without_times(tmp_path / "whole")
    assert all(run["ckpt_path"] == "last" for run in again.runs), "a run goes on from its checkpoint"
    more = put(monkeypatch, best_at(3e-3))
    work(plan(tmp_path / "parts", seeds=(0, 1), trials=9))
    assert [int(run["seed_everything"]) for run in more.runs] == [0, 1], "one trial more, and no trial twice"


def test_a_killed_worker_loses_no_trial(fake: FakeFit, tmp_path: Path) -> None:
    work(plan(tmp_path / "whole", trials=4))
    for killed_at in ((2, 3), (1, 1)):
        process = fork(work_alone, plan(tmp_path / "parts", trials=4), killed_at, 0.0)
        assert process.wait(PATIENCE) == -9
    work(plan(tmp_path / "parts", trials=4))
    assert without_times(tmp_path / "parts") == without_times(tmp_path / "whole")


def test_workers_share_the_trials(tmp_path: Path) -> None:
    processes = [fork(work_alone, plan(tmp_path, trials=9), None, 0.02) for _ in range(3)]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]
    found = rows(tmp_path)
    assert [row["trial"] for row in found] == [str(number) for number in range(9)]
    assert {row["state"] for row in found} == {"complete"}
    assert len({row["model.lr"] for row in found}) == 9


def test_other_seeds_of_the_sampler_try_others(fake: FakeFit, tmp_path: Path) -> None:
    for seed in (0, 1):
        work(plan(tmp_path / str(seed), trials=2, search=Search(seed=seed)))
    assert not {row["model.lr"] for row in rows(tmp_path / "0")} & {row["model.lr"] for row in rows(tmp_path / "1")}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc"])
def test_each_sampler_draws_within_the_bounds(fake: FakeFit, tmp_path: Path, sampler: str) -> None:
    keys = LR | {"model.units": Range(8, 64, step=8, whole=True), "model.kind": Choices(("a", "b"))}
    found = work(plan(tmp_path, trials=7, search=Search(sampler, "none", startup=3), keys=keys))
    assert all(1e-4 <= row.values["model.lr"] <= 1e-1 for row in found)
    assert all(row.values["model.units"] in range(8, 65, 8) for row in found)
    assert len({row.values["model.lr"] for row in found}) == 7


def test_a_grid_is_tried_once_each(fake: FakeFit, tmp_path: Path) -> None:
    keys = {"model.lr": Choices((1e-3, 1e-2)), "model.units": Choices((1, 2, 3))}
    search = Search("grid", "none")
    work(plan(tmp_path, trials=4, search=search, keys=keys))
    found = work(plan(tmp_path, trials=6, search=search, keys=keys))
    assert [tuple(row.values.values()) for row in found] == [(lr, u) for lr in (1e-3, 1e-2) for u in (1, 2, 3)]


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_does_badly_ends_early(fake: FakeFit, tmp_path: Path, pruner: str) -> None:
    found = work(plan(tmp_path, trials=20, search=Search("random", pruner, startup=3, warmup=1)))  # type: ignore[arg-type]
    pruned = [row for row in found if row.state == "pruned"]
    assert pruned
    assert all(row.trial >= 3 for row in pruned) or pruner == "hyperband"
    assert all(row.score is None and 1 < len(row.evaluations) <= 4 for row in pruned)
    assert all(f"pruned at evaluation {len(row.evaluations)}" == row.reason for row in pruned)
    best = max((row for row in found if row.score is not None), key=lambda row: row.score or 0.0)
    assert not any(max(row.evaluations.values()) > best.evaluations[4] for row in pruned), "never the best"


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_a_metric_is_better_the_less_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str) -> None:
    put(monkeypatch, lambda lr, seed, number: -best_at(3e-3)(lr, seed, number))
    search = Search(sampler="random", startup=3, pruner=pruner)  # type: ignore[arg-type]
    whole = plan(tmp_path / "less", trials=12, seeds=(0, 1), search=search, score="validation/error")
    found = work(whole)
    # The mirror image of returns: the same trials are pruned, and the same one is the best.
    put(monkeypatch, best_at(3e-3))
    mirror = work(plan(tmp_path / "more", trials=12, seeds=(0, 1), search=search))
    assert [row.state for row in found] == [row.state for row in mirror]
    assert ("pruned" in {row.state for row in found}) == (pruner == "median")
    for row, other in zip(found, mirror, strict=True):
        assert row.score == (None if other.score is None else pytest.approx(-other.score))
    best, twin = best_row(found), best_row(mirror)
    assert best is not None
    assert twin is not None
    assert (best.trial, best.score) == (twin.trial, pytest.approx(-(twin.score or 0.0)))
    assert best.score == min(row.score for row in found if row.score is not None)
    head = (tmp_path / "less/best.yaml").read_text()
    assert f"# Trial {best.trial} of the sweep less: validation/error {best.score:.6g} " in head
    table = rows_table(found, ["model.lr"], "trials")
    assert next(iter(table.columns[0].cells)) == str(best.trial)
    assert best_so_far(found)[1][-1] == best.score
    with pytest.raises(ValueError, match="holds a sweep whose"):
        work(replace(whole, settings={"seeds": [0]}))


def test_seeds_in_turn_end_a_trial_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first seed of the last trial does as well as all others, its second one does badly."""
    fit = FakeFit(lambda lr, seed, number: 10.0 - (20.0 if seed == 1 and len(fit.runs) > 12 else 0.0))
    monkeypatch.setattr(commands.lightning, "run", fit)
    found = work(plan(tmp_path, trials=5, seeds=(0, 1, 2), search=Search("random", "median", startup=2)))
    assert [row.state for row in found] == ["complete"] * 5, "the best evaluation so far counts, not the last one"
    assert found[-1].evaluations == {1: 10.0, 2: 10.0, 3: 10.0, 4: 10.0, 5: 0.0}


def test_a_trial_that_fails_is_told_and_the_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = put(monkeypatch, best_at(3e-3))

    def end(run: int, evaluation: int) -> None:
        if run == 2:
            raise FloatingPointError("every member is non-finite")
        if run == 3:
            raise RuntimeError("CUDA out of memory")

    fit.end = end
    found = work(plan(tmp_path, trials=5))
    assert [row.state for row in found] == ["complete", "failed", "failed", "complete", "complete"]
    assert [row["reason"] for row in rows(tmp_path)][1:3] == ["every member is non-finite", "CUDA out of memory"]
    assert len(fit.runs) == 5, "a trial that failed is not tried again"


def test_three_failures_for_one_reason_end_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = put(monkeypatch, best_at(3e-3))

    def end(run: int, evaluation: int) -> None:
        raise ValueError("there is no dataset")

    fit.end = end
    with pytest.raises(ValueError, match="3 trials in a row have failed: there is no dataset"):
        work(plan(tmp_path, trials=50))
    assert len(fit.runs) == 3


def test_a_trial_of_another_worker_is_left_to_it(
    fake: FakeFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts, and is taken over when its worker is gone."""
    other = plan(tmp_path, trials=3).study().claim(3, may_begin=True)
    assert other is not None
    found = work(plan(tmp_path, trials=3))
    assert [row.state for row in found] == ["running", "complete", "complete"]
    other.lock.release()
    found = work(plan(tmp_path, trials=3))
    assert [row.state for row in found] == ["complete"] * 3
    assert found[0].values == dict(other.drawn)


def test_no_trial_begins_behind_the_deadline(fake: FakeFit, tmp_path: Path) -> None:
    late = plan(tmp_path, trials=3)
    assert work(Plan(late.job, None, late.search, late.settings, 3, 0.0, None)) == []


def test_a_trial_whose_values_were_not_all_drawn_does_not_count(fake: FakeFit, tmp_path: Path) -> None:
    study = plan(tmp_path).study()
    study.study.ask()  # and then the process was killed
    found = work(plan(tmp_path, trials=2))
    assert [row.state for row in found] == ["complete", "complete"]
    assert [row.trial for row in found] == [1, 2]


def test_a_sweep_goes_on_as_it_began(fake: FakeFit, tmp_path: Path) -> None:
    work(plan(tmp_path / "out", trials=1))
    with pytest.raises(ValueError, match=r"holds a sweep whose seeds is \[0\], and not \[0, 1\]: give the old one"):
        work(plan(tmp_path / "out", trials=1, seeds=(0, 1)))


def test_members_are_told_apart_by_choice_and_seed(tmp_path: Path) -> None:
    """An agent with several betas names the one that it has, too."""
    scores = [score("last", 9, mean, member) for member, mean in
              {"": 2.0, "beta=4/seed=0": 1.0, "beta=4/seed=1": 3.0, "beta=16/seed=0": 5.0}.items()]  # fmt: skip
    job = plan(tmp_path, seeds=(0, 1)).job
    assert job.by_choice(scores[:3], (0, 1)) == {"": {"0": 1.0, "1": 3.0}}
    assert job.by_choice(scores[:1], (7,)) == {"": {"7": 2.0}}
    axis = replace(job, space=SearchSpace("space.yaml", {"model.beta": Choices((4.0, 16))}, "model.beta"))
    assert axis.by_choice(scores, (0, 1)) == {"4": {"0": 1.0, "1": 3.0}, "16": {"0": 5.0}}


def test_the_value_is_the_interquartile_mean_of_the_best_choice() -> None:
    job, less = (plan(Path("sweep"), score=score).job for score in ("last", "validation/error"))
    seeds = {str(seed): value for seed, value in enumerate((0.0, 1.0, 2.0, 300.0))}
    assert job.value_of({"1": seeds, "4": dict.fromkeys(seeds, 1.4)}, 4) == (1.5, "1")
    assert less.value_of({"1": seeds, "4": dict.fromkeys(seeds, 1.4)}, 4) == (1.4, "4")
    assert job.value_of({"1": {"0": 0.0, "1": 1.0, "2": 8.0}}, 3) == (3.0, "1")
    parts = {"1": {"0": 9.0}, "4": {"0": 0.0, "1": 1.0}}
    assert job.value_of(parts, 2) == (0.5, "4"), "a seed of the first has diverged"
    assert job.value_of({"1": {"0": 9.0}}, 2) is None


def test_a_journal_is_mended_and_a_damaged_one_told(fake: FakeFit, tmp_path: Path) -> None:
    work(plan(tmp_path / "out", trials=2))
    journal = tmp_path / "out/sweep.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')  # the machine went down
    assert [row.trial for row in work(plan(tmp_path / "out", trials=3))] == [0, 1, 2]
    empty = tmp_path / "empty.journal"
    empty.write_bytes(b"")
    mend_journal(empty, JournalLock(str(empty)))
    for text in ("no journal\n" * 3, '{"op_code": 99}\n'):
        (tmp_path / "wrong").write_text(text)
        with pytest.raises(ValueError, match=r"wrong cannot be used: .*name a journal file"):
            open_storage(str(tmp_path / "wrong"), tmp_path)


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    lock = JournalLock(str(tmp_path / "journal"))
    assert lock.acquire()
    assert FileLock(tmp_path / "journal.lock").is_locked is False
    lock.release()
    assert not list(tmp_path.glob("*.rename"))


def test_a_database_holds_the_same_trials(fake: FakeFit, tmp_path: Path) -> None:
    some = plan(tmp_path / "journal", trials=3)
    other = plan(tmp_path / "database", trials=3)
    work(some)
    work(Plan(other.job, f"sqlite:///{tmp_path}/sweep.db", other.search, other.settings, 3, float("inf"), None))
    assert without_times(tmp_path / "journal") == without_times(tmp_path / "database")
