"""`select`: the choice, its fallback and files, candidates of many kinds, real episodes, and mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import goals
import pytest
from matplotlib.figure import Figure
from offline_runs import SPACES, add_run, clone, constant, three_policies, write_data

import reverie
from callbacks.evaluation.selection_report import draw_budget
from commands import select as command
from commands.candidate_files import open_data, read_candidates, short_names
from commands.select import main, select
from datamodules.offline import OfflineDataModule
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.algorithms.fitted_q import Fitting
from modules.functional.bandits import Spent

QUICK = Fitting(2, updates=200, batch_size=1000, hidden=(16,), lr=0.02, target_rate=0.2, look_every=50)
SHORT = Fitting(2, updates=60, batch_size=1000, hidden=(4,), target_rate=1.0, look_every=10)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same data: of three members, and of a clone."""
    root = tmp_path_factory.mktemp("runs")
    data = write_data(root / "data.npz")
    add_run(root / "runs/atac", three_policies(), data)
    add_run(root / "runs/clone", clone(), data)
    return root / "runs"


def run_of(*paths: Path, **arguments: Any) -> dict[str, Any]:
    """Select among these, and read the file."""
    output = arguments["output"]
    select([str(path) for path in paths], **{"fqe": SHORT, "device": "cpu"} | arguments)
    content: dict[str, Any] = json.loads((Path(output) / "select.json").read_text())
    return content


def test_the_member_that_does_what_is_rewarded_is_chosen(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[tuple[Any, ...]] = []
    monkeypatch.setattr(command, "export_policy", lambda *given: exported.append(given))
    found = run_of(runs / "atac", output=str(tmp_path / "s"), fqe=QUICK, export="folder")
    rows = {row["name"]: row for row in found["candidates"]}
    assert found["chosen"] == found["best"] == "beta=4/seed=0"
    assert found["safe"] == "beta=1/seed=0"  # the nearest to data that are symmetric
    assert found["gain_over_safe"]["low"] > 0
    assert not found["fell_back"]
    # By hand: the rewards' sum, discounted by one half, of doing 0, 1 and -1.8 for ever.
    for name, reward in (("beta=1/seed=0", -1.0), ("beta=4/seed=0", 0.0), ("beta=16/seed=0", -7.84)):
        assert rows[name]["value"] == pytest.approx(2 * reward, abs=1.5)
        assert rows[name]["gap_source"] == "own critics"
    assert found["behaviour"]["mean"] == pytest.approx(found["behaviour"]["discounted_return"], abs=2.5)
    assert rows["beta=4/seed=0"]["gain"] > 0 > rows["beta=16/seed=0"]["gain"]
    assert found["tournament_choice"] in rows
    assert found["discount"] == 0.5
    assert found["held_out_episodes"] == 2
    # The table and the line below it, the files, and the exported policy.
    shown = capsys.readouterr().out
    assert "* beta=4/seed=0" in shown
    assert "choice: beta=4/seed=0; better than beta=1/seed=0 (the nearest to the data) by" in shown
    assert "margin: beta=4/seed=0 above the next highest bound, beta=1/seed=0" in shown
    with (tmp_path / "s/select.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == list(rows)
    assert (tmp_path / "s/select.png").stat().st_size > 10_000
    assert exported == [(found["candidates"][0]["checkpoint"], "folder", "beta=4/seed=0")]


def test_a_cloned_policy_is_the_fallback_and_several_runs_are_compared(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_of(runs, output=str(tmp_path))
    assert [row["name"] for row in found["candidates"]] == [
        "atac beta=1/seed=0", "atac beta=4/seed=0", "atac beta=16/seed=0", "clone",
    ]  # fmt: skip
    assert found["safe"] == "clone"
    assert found["candidates"][3]["is_clone"]
    assert found["candidates"][3]["gap_source"] == "fitted values"
    assert found["chosen"] == ("clone" if found["fell_back"] else found["best"])
    assert found["fell_back"] == (found["best"] != "clone" and found["gain_over_safe"]["low"] <= 0)
    capsys.readouterr()


def test_several_checkpoints_of_a_run_and_diverged_members(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, agent = runs.parent / "data.npz", three_policies()
    agent.alive = [True, False, True]
    paths = [add_run(tmp_path / "run", clone(), data, "cloned"), add_run(tmp_path / "run", agent, data)]
    found = run_of(*paths, paths[0], output=str(tmp_path / "s"))
    assert [row["name"] for row in found["candidates"]] == ["cloned", "last beta=1/seed=0", "last beta=16/seed=0"]
    assert found["diverged"] == ["last beta=4/seed=0"]
    assert "diverged" in capsys.readouterr().out


def test_what_a_run_had_cloned_is_a_candidate_the_fallback_and_what_its_members_are_held_against(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = runs.parent / "data.npz"
    cloned, played = (constant(three_policies(), *x) for x in ((0.0, 0.0, 0.5), (0.0, 0.5, -0.9)))
    for agent, updates in ((cloned, 5), (played, 9)):
        agent.warm_start, agent.updates = WarmStart(5), updates
    for agent, name in ((cloned, "cloned"), (played, "last")):
        agent.hparams["warm_start"] = {"updates": 5}
        add_run(tmp_path / "run", agent, data, name)
    found = run_of(tmp_path / "run", output=str(tmp_path / "s"), fqe=QUICK)
    rows = {row["name"]: row for row in found["candidates"]}
    assert [row["is_clone"] for row in rows.values()] == [False] * 3 + [True] * 3
    assert next(iter(rows)).startswith("last ")
    assert list(rows)[3].startswith("cloned ")
    assert found["safe"] == "cloned beta=16/seed=0"  # the best of what was cloned, others lie nearer to the data
    assert rows["cloned beta=1/seed=0"]["distance"] < rows["cloned beta=16/seed=0"]["distance"]
    # By hand, as above: 0 is twice -1 and 0.5 is 0, each for ever at a discount of one half.
    over = {name.split()[-1]: row["over_clone"] for name, row in rows.items() if name.startswith("last ")}
    for name, gain in (("beta=1/seed=0", 0.0), ("beta=4/seed=0", 2.0), ("beta=16/seed=0", -15.7)):
        assert over[name] == pytest.approx(gain, abs=2.5 if gain < -5 else 1.0)
    assert rows["cloned beta=4/seed=0"]["over_clone"] is None
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("better than what it cloned: ")]
    assert "last beta=4/seed=0" in line
    assert "last beta=16/seed=0" not in line


def test_short_names_tell_checkpoints_apart() -> None:
    def names(*files: str) -> list[str]:
        return short_names(
            [Path("/r") / (file.rpartition("/")[0]) / "checkpoints" / file.split("/")[-1] for file in files]
        )

    assert names("a/2026/last.ckpt") == [""]
    assert names("a/2026/last.ckpt", "b/2027/last.ckpt") == ["a", "b"]
    assert names("a/2026/last.ckpt", "a/2026/cloned.ckpt") == ["last", "cloned"]
    assert names("a/1/last.ckpt", "a/2/last.ckpt", "b/2/best.ckpt") == ["a/1/last", "a/2/last", "b/2/best"]
    assert names("a/last.ckpt", "last.ckpt") == ["a", "."]
    assert names("a/1/last.ckpt", "a/1/last.pt") == ["last.ckpt", "last.pt"]
    assert short_names([Path("/r/a/checkpoints/last.ckpt"), Path("/r/a/last.ckpt")]) == [
        "checkpoints/last.ckpt", "last.ckpt",
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_data_that_were_converted_or_are_seen_in_parts_are_found_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path / "d.npz")
    run = add_run(tmp_path / "a", three_policies(), data)
    made = OfflineDataModule(str(data), cache_dir=str(tmp_path / "cache"), environment="Pendulum-v1").dataset
    (converted,) = (path.parent for path in (tmp_path / "cache").glob("*/dataset.json"))
    assert made.spaces.action == SPACES.action
    named = run_of(run, output=str(tmp_path / "s"), data=str(converted))
    assert named["data"]["sources"] == [str(converted)]
    # Parts in another order than by name, of which two together are as wide as another two.
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    goals.record(episodes=4)
    arguments = {
        "source": "goal/steered-v0", "observation_keys": ["observation", "achieved_goal"], "cache_dir": str(tmp_path)
    }  # fmt: skip
    module = OfflineDataModule(**arguments)
    agent = ATAC(module.spaces, beta=[1.0, 4.0], hidden=[8], discount=0.5, warm_start=WarmStart(0))
    facts = {"dataset": module.info.to_plain(), "datamodule_hyper_parameters": arguments, "environment": None}
    path = add_run(tmp_path / "goal", agent, data, **facts)
    own, given = (run_of(path, output=str(tmp_path / "s"), data=x) for x in (None, "goal/steered-v0"))
    assert own["candidates"] == given["candidates"]
    opened = open_data(read_candidates([path]), None)
    assert opened.dataset.metadata["observation_keys"] == ["observation", "achieved_goal"]
    capsys.readouterr()


def test_files_of_an_earlier_choice_stay_whole_where_a_new_one_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: Figure, file: Path, **given: Any) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", half)
    (tmp_path / "budget.png").write_bytes(b"whole")
    with pytest.raises(KeyboardInterrupt):
        draw_budget([Spent(0, 1.0, 0, 1.0)], ["one"], tmp_path / "budget.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"budget.png": b"whole"}


def test_the_same_seed_gives_the_same_table(runs: Path, tmp_path: Path) -> None:
    first, second, other = (
        run_of(runs / "atac", output=str(tmp_path / str(i)), seed=seed)["candidates"]
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == second != other


@pytest.mark.long
@pytest.mark.parametrize("way", ["halving", "ucb"])
def test_real_episodes_decide_where_there_are_some(
    way: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "ucb":  # returns that are known in place of Pendulum's
        monkeypatch.setattr(command.RealEpisodes, "play", lambda self, candidate, episode: [3.0, 1.0, 2.0][candidate])
    count = 7 if way == "halving" else 12
    found = run_of(runs / "atac", output=str(tmp_path), budget=count, spending=way)
    shown, episodes = capsys.readouterr().out, found["episodes"]
    assert len(episodes) == count
    assert episodes[0]["arm"] == found["chosen"]  # by recorded data it comes first
    means: dict[str, list[float]] = {}
    for one in episodes:
        means.setdefault(one["arm"], []).append(one["score"])
    assert found["chosen_by_episodes"] == episodes[-1]["leader"]
    assert episodes[-1]["mean"] == pytest.approx(
        sum(means[episodes[-1]["leader"]]) / len(means[episodes[-1]["leader"]])
    )
    if way == "ucb":
        assert found["chosen_by_episodes"] == "beta=1/seed=0"
    else:
        assert all(-2000 < one["score"] < 0 for one in episodes)  # Pendulum's
    assert (tmp_path / "budget.png").stat().st_size > 10_000
    run_of(runs / "atac", output=str(tmp_path))
    assert not (tmp_path / "budget.png").exists()  # of the choice before
    assert f"{count} real episodes" in shown
    assert "leader's mean return by episodes: 1: " in shown


def test_ctrl_c_says_what_is_there(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: Any, progress: Any, **more: Any) -> None:
        progress(50, 200)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "fitted_q_values", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted while fitting values, 50 of 200: nothing was written"):
        run_of(runs / "atac", output=str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"held_out": 0.0}, "held_out must be"),
        ({"discount": 1.0}, "discount must lie in"),
        ({"budget": -1}, "budget must be at least 0"),
        ({"budget": 3, "seed": -1}, "seed must lie in"),
        ({"ckpt_path": []}, "--ckpt_path is an empty list; give last"),
        ({"export": __file__}, r"--export .*test_select\.py is no folder"),
        ({"output": __file__}, r"--output .*test_select\.py is no folder"),
        ({"environment": "Pendulum-v1"}, "say how many with --budget"),
        ({"tracking_uri": "sqlite:///x.db"}, "give both or neither"),
        ({"budget": 3, "environment": "Hopper-v5"}, "does not fit Hopper-v5"),
        ({"data": "gone.npz"}, "no dataset at gone.npz"),
        ({"ckpt_path": "gone.ckpt"}, "no checkpoint file at gone.ckpt"),
        ({"fqe": Fitting(updates=10, target_rate=0.05)}, "settle after 200 updates"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], said: str, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        select(**{"ckpt_path": str(runs / "atac"), "output": str(tmp_path / "s")} | given)
    assert not (tmp_path / "s").exists()


def test_data_and_runs_that_do_not_fit_are_named(runs: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.npz")
    path = add_run(tmp_path / "a", three_policies(), data)
    other = add_run(tmp_path / "b", three_policies(), write_data(tmp_path / "e.npz", seed=1))
    bare = add_run(tmp_path / "c", three_policies(), data, datamodule_hyper_parameters={}, dataset={})
    (tmp_path / "empty").mkdir()
    cases = [
        ([tmp_path / "empty"], r"no run in .*empty has checkpoints/last\.ckpt; give a run's folder or a checkpoint"),
        ([path, other], r"learned from other data \(e\) than .* \(d\); name those to compare on with --data"),
        ([bare], "names no recorded data; give them with --data"),
    ]
    for paths, said in cases:
        with pytest.raises(ValueError, match=said):
            run_of(*paths, output=str(tmp_path / "s"))
    agent = three_policies()
    undiscounted = add_run(tmp_path / "u", ATAC(SPACES, hidden=[8], discount=1.0, warm_start=WarmStart(0)), data)
    with pytest.raises(ValueError, match=r"discount is 1, and fitted values need one of at most 0\.9999; give one"):
        run_of(undiscounted, output=str(tmp_path / "s"))
    keys = {"datamodule_hyper_parameters": {"source": str(data), "observation_keys": ["a", "b"]}}
    elsewhere = add_run(tmp_path / "k", agent, data, **keys)
    with pytest.raises(ValueError, match=r"learned with data\.observation_keys \['a', 'b'\], .* with None; compare"):
        run_of(path, elsewhere, output=str(tmp_path / "s"))
    # The advice holds: data by name, also where they changed or went.
    write_data(data, seed=2)
    with pytest.raises(ValueError, match=r"d\.npz has changed since last\.ckpt learned from it; name the data with"):
        run_of(path, output=str(tmp_path / "s"))
    data.unlink()
    with pytest.raises(ValueError, match=r"no dataset at .*; the data of .*last\.ckpt can be named with --data"):
        run_of(path, output=str(tmp_path / "s"))
    found = run_of(path, other, bare, output=str(tmp_path / "s"), data=[str(runs.parent / "data.npz")])
    assert len(found["candidates"]) == 9


def test_the_command_line_takes_lists_and_groups(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = f"[{runs / 'atac'}, {runs / 'clone'}]"
    main(
        ["--ckpt_path", paths, "--output", str(tmp_path), "--fqe.updates", "20", "--fqe.target_rate", "1.0",
         "--fqe.hidden", "[4]", "--fqe.seeds", "1", "--mlflow_run", "none"]
    )  # fmt: skip
    assert "LSTD" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        reverie.main(["select", "--ckpt_path", str(runs / "atac"), "--fqe.seeds", "0"])
    assert "fqe.seeds must be at least 1" in capsys.readouterr().err
