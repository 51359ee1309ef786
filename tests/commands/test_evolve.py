"""`reverie evolve`: the same population each time and after every crash, copies, pages in MLflow, and mistakes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import mistake
from equal import assert_equal
from mlflow import MlflowClient

import commands.evolve
import commands.lightning
import commands.turn_takers
import reverie
from commands.member_matches import Matches
from commands.population import FILE, Population
from commands.turns import FAILED, LAST, START, Turn, beginning, prepare_copies, returns_of, take
from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.evolution import Gene, Returns, Tournament, Truncation

GENES = {"lr": {"low": 1e-4, "high": 1e-2}, "discount": {"low": 0.9, "high": 0.99}}
SMALL = [
    "--data.environments", "2", "--data.batch_size", "2", "--data.sequence_length", "9", "--data.prefill", "18",
    "--data.updates_per_step", "0.0625", "--data.steps_per_epoch", "32", "--data.normalize_observation", "false",
    "--evaluation.episodes", "2", "--trainer.log_every_n_steps", "1",
]  # fmt: skip
SILENT = ["--trainer.logger", "false"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def evolve(folder: Path, *own: str, fit: list[str] = SILENT, genes: dict[str, Any] = GENES) -> list[str]:
    arguments = ["--members", "3", "--generations", "2", "--final_episodes", "1", "--run_dir", str(folder), *own]
    return ["evolve", "--fit", "a2c/cartpole", "--genes", json.dumps(genes), *arguments, "--", *SMALL, *fit]


def population(folder: Path) -> Path:
    (found,) = folder.glob(f"*/{FILE}")
    return found.parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a population that nothing has interrupted, which is logged to `mlflow.db` two folders above."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        reverie.main(evolve(folder / "few", fit=[]))
    return population(folder / "few")


def assert_same(one: Path, other: Path) -> None:
    """All that the members are and know, bit for bit, and all that has happened to them."""
    histories = [json.loads((folder / FILE).read_text()) for folder in (one, other)]
    assert histories[0]["history"] == histories[1]["history"]
    assert histories[0]["genes"] == histories[1]["genes"]
    for member in range(3):
        first, second = (read_checkpoint(folder / f"member-{member}" / LAST, "cpu") for folder in (one, other))
        for name in ("state_dict", "optimizer_states", "ranks", "agent", "epoch", "global_step"):
            assert_equal(without_times(first[name]), without_times(second[name]), f"member {member}: {name}")


def without_times(value: Any) -> Any:
    """The value without what the clock says, and where it lies."""
    if isinstance(value, dict):
        rest = {key: part for key, part in value.items() if "seconds" not in str(key) and key != "folder"}
        return {key: without_times(part) for key, part in rest.items()}
    return [without_times(part) for part in value] if isinstance(value, list | tuple) else value


@pytest.mark.long
def test_members_are_copied_and_differ_and_the_picture_is_drawn(whole: Path) -> None:
    content = json.loads((whole / FILE).read_text())
    history = content["history"]
    assert len(history) == 2
    assert history[-1]["copied"] == [None] * 3
    copies = [(g, m, d) for g, made in enumerate(history) for m, d in enumerate(made["copied"]) if d is not None]
    assert copies, "nobody was copied"
    for number, member, donor in copies:
        means = [returns[0] for returns in history[number]["returns"]]
        assert means[donor] > means[member]
        before, after = history[number]["genes"], history[number + 1]["genes"]
        factor = after[member]["lr"] / before[donor]["lr"]
        assert factor == pytest.approx(0.8) or factor == pytest.approx(1.2) or after[member]["lr"] in (1e-4, 1e-2)
        horizon = (1 - after[member]["discount"]) / (1 - before[donor]["discount"])
        assert (
            horizon == pytest.approx(0.8) or horizon == pytest.approx(1.2) or after[member]["discount"] in (0.9, 0.99)
        )
        assert after[donor] == before[donor]
    for member in range(3):
        checkpoint = read_checkpoint(whole / f"member-{member}" / LAST, "cpu")
        assert checkpoint["epoch"] == 1
        assert checkpoint["hyper_parameters"]["lr"] == history[-1]["genes"][member]["lr"]
        assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == history[-1]["genes"][member]["lr"]
        assert (whole / f"member-{member}" / "learning_curve.png").is_file()  # of the last turn
    assert len({json.dumps(genes) for genes in history[0]["genes"]}) == 3
    assert (whole / "population.png").stat().st_size > 10_000


def crash_in(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """End the command before it calls this for the so-manieth time."""
    where = commands.evolve if hasattr(commands.evolve, name) else commands.turn_takers
    real: Callable[..., Any] = getattr(where, name)
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(where, name, counted)


@pytest.mark.long
def test_after_crashes_it_goes_on_bit_for_bit(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One between the choice of copies and the copies, one between two turns."""
    go_on: list[str] = []
    for name, call in (("finish_copies", 2), ("take", 2)):  # it begins with what was left to finish
        with monkeypatch.context() as patched:
            crash_in(patched, name, call)
            with pytest.raises(SystemExit) as leaving:
                reverie.main(evolve(tmp_path, *go_on))
            assert leaving.value.code == 130
        assert "with --ckpt_path last, before any --, goes on" in capsys.readouterr().err
        history = json.loads((population(tmp_path) / FILE).read_text())["history"]
        assert len(history) == 1
        assert any(donor is not None for donor in history[0]["copied"])
        go_on = ["--ckpt_path", "last"]
    reverie.main(evolve(tmp_path, *go_on))
    assert_same(whole, population(tmp_path))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["workers", "ray_workers", "torchrun"])
def test_members_that_train_at_the_same_time_learn_the_same(whole: Path, tmp_path: Path, way: str) -> None:
    if way == "ray_workers":
        pytest.importorskip("ray")
    if way == "torchrun":
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "reverie"]
        subprocess.run([sys.executable, *launcher, *evolve(tmp_path)], check=True, cwd=tmp_path, env=ENVIRONMENT)
    else:
        reverie.main(evolve(tmp_path, f"--{way}", "2"))
    assert_same(whole, population(tmp_path))


@pytest.mark.long
def test_members_who_play_each_other_are_rated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exploit = {"class_path": "modules.agent.evolution.WinProbability", "init_args": {"threshold": 0.7, "matches": 8}}
    game = ["--data.environment", "duels:Duel-v0", *SILENT]
    own = ["--members", "2", "--generations", "1", "--exploit", json.dumps(exploit)]
    reverie.main(evolve(tmp_path, *own, fit=game))
    (generation,) = json.loads((population(tmp_path) / FILE).read_text())["history"]
    assert sum(generation["ratings"]) == pytest.approx(0.0, abs=1e-9)
    found = capsys.readouterr()
    assert f"ratings {generation['ratings'][0]:.0f} {generation['ratings'][1]:.0f}" in found.err
    best = int(generation["ratings"][1] > generation["ratings"][0])
    assert f"best member: {best}, rating {max(generation['ratings']):.0f}, return" in found.out
    # The same matches are played when a decision is made again.
    content = population(tmp_path)
    again = Population.read(content, {})
    again.history.clear()
    ratings = Matches(8, ("duels",)).rate([folder / LAST for folder in again.members], [True] * 2,
                                          again.seed_of_matches())  # fmt: skip
    assert ratings == generation["ratings"]


@pytest.mark.long
def test_a_copy_has_weights_and_moments_of_another_and_all_else_of_its_own(whole: Path, tmp_path: Path) -> None:
    folders = [tmp_path / f"member-{member}" for member in range(3)]
    for member in (0, 1):
        (folders[member] / "checkpoints").mkdir(parents=True)
        (folders[member] / LAST).write_bytes((whole / f"member-{member}" / LAST).read_bytes())
    folders[2].mkdir()
    before = [read_checkpoint(folder / LAST, "cpu") for folder in folders[:2]]
    prepare_copies(folders, [1, None, 0], 4)
    assert_equal(read_checkpoint(folders[0] / LAST, "cpu")["state_dict"], before[0]["state_dict"], "not yet")
    commands.evolve.finish_copies(folders, 3)  # a decision that was not written down changes nobody
    assert_equal(read_checkpoint(folders[0] / LAST, "cpu")["state_dict"], before[0]["state_dict"], "of another")
    assert beginning(folders[2]) == ["--ckpt_path", "last"]
    commands.evolve.finish_copies(folders, 4)
    assert beginning(folders[2]) == ["--ckpt_path", "last", "--weights_from", str(folders[2] / START)]
    after = read_checkpoint(folders[0] / LAST, "cpu")
    for name in ("state_dict", "optimizer_states"):
        assert_equal(after[name], before[1][name], name)
    for name in ("ranks", "hyper_parameters", "epoch", "callbacks"):
        assert_equal(after[name], before[0][name], name)
    assert not torch.equal(before[0]["state_dict"]["actor.output.weight"], after["state_dict"]["actor.output.weight"])
    assert beginning(folders[0]) == ["--ckpt_path", "last"]


@pytest.mark.long
def test_returns_are_those_of_the_last_evaluation(whole: Path) -> None:
    for member in range(3):
        mean, deviation, count = json.loads((whole / FILE).read_text())["history"][-1]["returns"][member]
        assert returns_of(whole / f"member-{member}") == Returns(mean, deviation, count)
        assert count == 2
        score = read_checkpoint(whole / f"member-{member}" / LAST, "cpu")["callbacks"]["Evaluation"]["history"][-1]
        assert (score["mean"], score["kind"]) == (mean, "curve")
        assert deviation == pytest.approx((score["high"] - score["low"]) / math.sqrt(2), rel=0.05)  # two episodes


def some(members: int, seed: int = 0) -> Population:
    settings = {"seed": seed, "members": members}
    return Population.new(
        Path("x"), settings, {"lr": Gene(1e-4, 1e-2), "w": Gene(1, 2, size=2)}, {"lr": "scale", "w": "scale"}
    )


def test_a_member_that_has_failed_copies_a_living_one() -> None:
    returns = [FAILED, Returns(1.0, 0.1, 9), FAILED, Returns(2.0, 0.1, 9)]
    for exploit in (Truncation(0.25), Tournament()):
        chosen = some(4).choose(returns, None, exploit)
        assert {chosen[0], chosen[2]} <= {1, 3}
        assert chosen[3] is None
    with pytest.raises(FloatingPointError, match="the training of every member has diverged: lower the bounds"):
        some(2).choose([FAILED, FAILED], None, Truncation())


def test_a_turn_whose_training_diverges_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any) -> None:
        raise FloatingPointError("every member is non-finite")

    monkeypatch.setattr(commands.lightning, "run", diverge)
    assert take(Turn(tmp_path / "member-0", ["--config", "a2c/cartpole"])) == FAILED


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    first, again, other = some(3), some(3), some(3, seed=1)
    assert first.genes == again.genes
    assert first.genes != other.genes
    assert len({population.seed_of(member) for population in (first, other) for member in range(3)}) == 6
    assert [len(genes["w"]) for genes in first.genes] == [2] * 3  # type: ignore[arg-type]


@pytest.mark.long
def test_pages_in_mlflow(whole: Path) -> None:
    client = MlflowClient(f"sqlite:///{whole.parents[1] / 'mlflow.db'}")
    pages = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = {page.data.tags["member"]: page for page in pages if "member" in page.data.tags}
    (parent,) = [page for page in pages if "member" not in page.data.tags]
    assert set(children) == {"member-0", "member-1", "member-2"}
    history = json.loads((whole / FILE).read_text())["history"]
    for number, (_, page) in enumerate(sorted(children.items())):
        assert page.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert page.info.status == parent.info.status == "FINISHED"
        curve = [point.value for point in client.get_metric_history(page.info.run_id, "genes/lr")]
        assert curve == [generation["genes"][number]["lr"] for generation in history]
        above = client.get_metric_history(parent.info.run_id, f"genes/lr/{number}")
        assert [(point.step, point.value) for point in above] == list(enumerate(curve, 1))
    best = [point.value for point in client.get_metric_history(parent.info.run_id, "population/best")]
    assert best == [max(mean for mean, _, _ in generation["returns"]) for generation in history]
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"population.json", "population.png"}


@pytest.mark.parametrize(
    ("own", "fit", "genes", "message"),
    [
        (["--model.lr=3"], SILENT, GENES, "--model.lr=3 is an argument of `reverie fit`: those stand behind --"),
        (["--members", "1"], SILENT, GENES, "members: a population of one has nobody to copy; take 2 or more"),
        ([], SILENT, {"units": {"low": 1, "high": 9}}, "A2C cannot change 'units' while it trains; it declares"),
        ([], SILENT, {"lr": {"low": 0, "high": 1}}, "genes.lr.low must be above 0"),
        ([], SILENT, {"lr": {"low": 2, "high": 1}}, "low must be below high, got 2 and 1"),
        ([], SILENT, {"discount": {"low": 0.5, "high": 1}}, "genes.discount: low and high must be from 0 to below 1"),
        ([], [*SILENT, "--trainer.max_epochs", "3"], GENES, "--trainer.max_epochs would be overridden"),
        ([], [*SILENT, "--evaluation.every_n_epochs", "2"], GENES, "ready: a turn of 1 epochs must end with"),
        ([], [*SILENT, "--model.lrr", "3"], GENES, "lrr"),
        ([], [*SILENT, "--trainer.devices", "2"], GENES, "devices 2, num_nodes 1: a member trains in one process"),
        (["--workers", "2", "--ray_workers", "2"], SILENT, GENES, "are three ways to train members at the same time"),
        (["--exploit", "modules.agent.evolution.WinProbability"], SILENT, GENES, "CartPole-v1 has no other side"),
        (["--exploit", "WinProbability", "--exploit.threshold", "0.4"], SILENT, GENES, "threshold"),
        (["--ckpt_path", "last"], SILENT, GENES, "no population under"),
        (["--ckpt_path", "best"], SILENT, GENES, "--ckpt_path takes last alone"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_trains(
    own: list[str], fit: list[str], genes: dict[str, Any], message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert message in mistake(evolve(tmp_path / "x", *own, fit=fit, genes=genes), capsys)
    assert not (tmp_path / "x").exists()


@pytest.mark.long
def test_a_population_goes_on_as_it_began(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = evolve(whole.parent, "--ckpt_path", "last", "--seed", "1", fit=[])
    assert "was started with seed 0 and would go on with 1" in mistake(arguments, capsys)
    np.testing.assert_equal(len(list(whole.parent.iterdir())), 1)
