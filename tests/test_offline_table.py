"""The table of offline learning: presets shortened, cells trained once, what went wrong told, means known."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import offline_cells  # noqa: E402 - scripts beside the package
import offline_choice  # noqa: E402
import offline_results  # noqa: E402
import offline_table  # noqa: E402
import resumed_runs  # noqa: E402

HEADER = "updates,kind,label,member,mean\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))


def write_set(path: Path, discrete: bool = False, environment: str | None = "Pendulum-v1") -> Path:
    """Ten episodes of five steps, of which the returns are 0, 5, ..., 45."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        observations=rng.uniform(-1, 1, (50, 3)).astype(np.float32),
        final_observations=rng.uniform(-1, 1, (10, 3)).astype(np.float32),
        actions=np.arange(50) % 2 if discrete else rng.uniform(-1, 1, (50, 1)).astype(np.float32),
        rewards=np.repeat(np.arange(10.0), 5),
        terminals=np.zeros(50, bool),
        timeouts=np.arange(50) % 5 == 4,
        meta=json.dumps({"name": path.stem} | ({"env_id": environment} if environment else {})),
    )
    return path


def trainer(trained: list[str], outcomes: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Takes the place of `reverie fit`: writes the files of a run of two seeds, or ends as `outcomes` says."""

    def fit(
        folder: Path, arguments: Sequence[str], seconds: float, threads: int, tell: Callable[[str], None]
    ) -> dict[str, Any]:
        config = arguments[arguments.index("--config") + 1]
        trained.append(config)
        folder.mkdir(parents=True, exist_ok=True)
        status = outcomes.get(config, "done")
        facts = {"status": status, "reason": "" if status == "done" else "for a reason", "seconds": seconds + 60.0}
        (folder / "cell.json").write_text(json.dumps(facts))
        rows = [(k, m, v) for k in ("curve", "last", "best") for m, v in (("", 15), ("seed=0", 10), ("seed=1", 20))]
        lines = [f"100,{kind},{kind},{member},{value}\n" for kind, member, value in rows]
        (folder / "evaluation.csv").write_text(HEADER + "".join(lines) + "50,phase,cloned policy,seed=0,7\n")
        return facts

    return fit


def call(root: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and content of the JSON file."""
    status = offline_table.main([*arguments, "--root", str(root / "runs"), "--results", str(root / "results")])
    file = root / "results" / "offline-table.json"
    return status, json.loads(file.read_text()) if file.exists() else {}


def test_cells_are_trained_once_and_failures_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    outcomes = {"iql/mujoco": "failed", "cql/mujoco": "refused"}
    monkeypatch.setattr(resumed_runs, "fit", trainer(trained, outcomes))
    monkeypatch.setattr(offline_cells, "read_checkpoint", lambda path: {"global_step": 100})
    source = str(write_set(tmp_path / "swings.npz"))
    arguments = ("--sets", source, "--agents", "cloning", "iql", "cql", "atac/hopper", "--seeds", "2", "--deciles")
    status, content = call(tmp_path, *arguments)
    assert status == 1
    assert trained == ["cloning/mujoco", "iql/mujoco", "cql/mujoco", "atac/hopper"] * 2
    assert [facts["set"] for facts in content["sets"]] == ["swings", "swings-best10"]
    assert (content["sets"][0]["mean"], content["sets"][0]["best_decile"], content["sets"][1]["mean"]) == (22.5, 45, 45)
    assert str(tmp_path) not in json.dumps(content)  # no place of this machine
    assert [cell["status"] for cell in content["cells"][:4]] == ["done", "failed", "refused", "done"]
    assert content["cells"][0]["last"] == content["cells"][0]["best"] == [10, 20]
    assert content["cells"][0]["curve"] == [[100, [10, 20]]]
    assert "iql failed: for a reason" in capsys.readouterr().out
    curves = (tmp_path / "results" / "offline-table-curves.csv").read_text().splitlines()
    assert curves[:3] == [
        "set,agent,updates,seed,mean_return",
        "swings,cloning,100,0,10.0",
        "swings,cloning,100,1,20.0",
    ]
    monkeypatch.setattr(offline_results, "draw", lambda *_: None)  # takes seconds
    # Again: only what has not ended is tried again, and a cell's minutes are those of all its starts.
    trained.clear()
    outcomes.clear()
    status, content = call(tmp_path, *arguments)
    assert (status, trained) == (0, ["iql/mujoco", "cql/mujoco"] * 2)
    assert [cell["minutes"] for cell in content["cells"][:4]] == [1, 2, 2, 1]
    # Other settings are other cells.
    trained.clear()
    call(tmp_path, "--sets", source, "--agents", "cloning", "--seeds", "2", "--updates", "1000")
    assert trained == ["cloning/mujoco"]


def test_tables_of_several_titles_stand_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumed_runs, "fit", trainer([], {}))
    monkeypatch.setattr(offline_cells, "read_checkpoint", lambda path: {"global_step": 100})
    arguments = ("--sets", str(write_set(tmp_path / "walks.npz", environment=None)), "--agents", "cloning")
    call(tmp_path, *arguments)
    call(tmp_path, *arguments, "--title", "Few updates", "--updates", "1000")
    assert (tmp_path / "results" / "offline-table-few-updates.json").is_file()
    lines = offline_results.tables(tmp_path / "results")
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## Offline learning", "## Offline learning, Few updates"]
    assert any("--updates 1000" in line for line in lines)
    with pytest.raises(SystemExit):
        call(tmp_path, *arguments, "--title", "a/b")


def test_a_set_without_an_environment_has_the_offline_columns_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(write_set(tmp_path / "walks.npz", environment=None))
    monkeypatch.setattr(resumed_runs, "fit", trainer([], {}))
    monkeypatch.setattr(offline_cells, "read_checkpoint", lambda path: {"global_step": 100})
    call(tmp_path, "--sets", source, "--agents", "cloning", "--seeds", "2")
    text = (tmp_path / "results" / "offline-table.md").read_text()
    assert "of no environment: nothing is played; mean return of the data 22.5" in text
    assert "| agent | updates | minutes |" in text
    assert "png" not in text
    assert not list((tmp_path / "results").glob("*.png"))  # they would be empty
    dataset = offline_cells.read_dataset(source, "Pendulum-v1", [])
    assert dataset.arguments == ("--data.source", source, "--data.environment", "Pendulum-v1")
    named = str(write_set(tmp_path / "named.npz"))
    assert offline_cells.read_dataset(named, "Hopper-v5", []).arguments == ("--data.source", named)


def test_the_choice_without_the_environment_is_told_with_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumed_runs, "fit", trainer([], {}))
    monkeypatch.setattr(offline_cells, "read_checkpoint", lambda path: {"global_step": 100})
    monkeypatch.setattr(offline_results, "draw", lambda *_: None)
    asked: list[int] = []

    def select(folders: Sequence[Path], output: Path, threads: int, settings: Sequence[str]) -> str:
        assert settings == ["--fqe.seeds", "3"]
        asked.append(len(folders))
        output.mkdir()
        rows = [
            {
                "name": f"{f.name} {m}",
                "member": m,
                "checkpoint": str(f / "checkpoints/last.ckpt"),
                "value": value,
                "is_clone": False,
                "over_clone_low": None,
            }
            for f, values in zip(folders, ((1.0, 2.0), (3.0, 9.0)), strict=True)
            for m, value in zip(("seed=0", "seed=1"), values, strict=True)
        ]
        # The second agent had cloned something, too; one of its seeds is better than that.
        other = {"is_clone": True, "name": "cloned"}
        cloned = [row | other | {"checkpoint": row["checkpoint"].replace("last", "cloned")} for row in rows[2:]]
        rows[2]["over_clone_low"], rows[3]["over_clone_low"] = -0.5, 0.5
        rows += cloned
        content = {"candidates": rows, "chosen": rows[3]["name"], "fell_back": False}
        (output / "select.json").write_text(json.dumps(content))
        return ""

    monkeypatch.setattr(offline_choice, "select", select)
    source = str(write_set(tmp_path / "a.npz"))
    for _ in range(2):
        _, content = call(
            tmp_path, "--sets", source, "--agents", "cloning", "iql", "--seeds", "2", "--select", "--fqe.seeds 3"
        )
    assert asked == [2]  # read back
    assert content["command"].endswith("--select '--fqe.seeds 3'")  # may be copied
    choice = content["choices"]["a"]
    assert choice["values"] == {"cloning": 1.5, "iql": 6.0}
    assert choice["kept"] == {"iql": [7.0, 20.0]}  # of the first the cloned policy
    assert (choice["agent"], choice["member"], choice["return"], choice["fell_back"]) == ("iql", "seed=1", 20, False)
    text = (tmp_path / "results" / "offline-table.md").read_text()
    assert "without the environment: iql seed=1, whose return is 20.0 (the highest lower bound)." in text
    assert "| kept | fitted value | minutes |" in text
    assert "|  | 1.5 | 1.0 |" in text
    assert "| 7, 20 | 6 | 1.0 |" in text


def test_numbered_actions_give_presets_the_loss_that_they_have(tmp_path: Path) -> None:
    dataset = offline_cells.read_dataset(str(write_set(tmp_path / "cart.npz", True, None)), None, [])
    assert dataset.discrete
    budget = offline_cells.Budget(3, None, 100, 1)
    cell = offline_cells.make_cell(dataset, offline_cells.contestant("cloning"), budget, tmp_path)
    assert "--model.loss likelihood --model.saturation 0" in " ".join(cell.runs[0][1])
    assert cell.runs[0][1][-2:] == ("--model.seeds", "3")


def test_images_are_not_normalised_by_presets_of_vectors(tmp_path: Path) -> None:
    source = write_set(tmp_path / "seen.npz", environment=None)
    pictures = {
        name: np.zeros((n, 4, 4, 3), np.uint8) for name, n in (("observations", 50), ("final_observations", 10))
    }
    with np.load(source) as file:
        np.savez(source, **{**file, **pictures})
    dataset = offline_cells.read_dataset(str(source), None, [])
    assert dataset.arguments == ("--data.source", str(source), "--data.normalize_observation", "false")


def test_held_out_losses_are_those_of_the_last_start_that_has_some(tmp_path: Path) -> None:
    for place, content in enumerate(("step,validation/a/td_error,train\n1,4,\n2,3,\n", "step,train\n3,1\n")):
        file = tmp_path / "metrics" / f"version_{place}" / "metrics.csv"
        file.parent.mkdir(parents=True)
        file.write_text(content)
        os.utime(file, (place, place))
    assert offline_cells.held_out([tmp_path]) == {"td_error": 3.0}


def test_an_agent_without_members_trains_its_seeds_in_turn(tmp_path: Path) -> None:
    agent = offline_cells.contestant("iql")
    assert agent.members
    dataset = offline_cells.read_dataset(str(write_set(tmp_path / "a.npz")), None, [])
    alone = offline_cells.Contestant("alone", agent.config, agent.content, members=False)
    cell = offline_cells.make_cell(dataset, alone, offline_cells.Budget(2, None, 100, 1), tmp_path)
    assert [folder.name for folder, _ in cell.runs] == ["seed=0", "seed=1"]
    assert [arguments[-2:] for _, arguments in cell.runs] == [("--seed_everything", "0"), ("--seed_everything", "1")]


@pytest.mark.parametrize(
    ("name", "updates", "expected"),
    [
        ("iql", None, ()),
        ("iql", 1_000_000, ()),
        ("iql", 100_000, ("--data.updates_per_epoch", "10000", "--trainer.max_epochs", "10")),
        ("iql", 20_000, ("--data.updates_per_epoch", "2000", "--trainer.max_epochs", "10")),
        # Five validations of 2,000 updates are fifty of 200.
        ("cloning", 2_000, ("--data.updates_per_epoch", "200", "--trainer.max_epochs", "10", "--model.patience", "50")),
        (
            "atac/hopper",
            8_000,
            ("--data.updates_per_epoch", "800", "--trainer.max_epochs", "10", "--model.warm_start.updates", "4000"),
        ),
    ],
)
def test_presets_are_shortened(name: str, updates: int | None, expected: tuple[str, ...]) -> None:
    assert offline_cells.contestant(name).shortened(updates) == expected


def test_interquartile_means_and_intervals() -> None:
    assert offline_results.iqm([[0.0, 10.0, 20.0, 1000.0]])[0] == 15.0  # without the lowest and the highest
    middle, low, high = offline_results.iqm([[1.0, 2.0, 6.0]])
    assert (middle, low, high) == (3.0, 1.0, 6.0)  # of three it is the mean; all draws may be of one seed
    assert all(map(math.isnan, offline_results.iqm([[4.0]])[1:]))
    # Draws stay within their group: two groups without any spread have none together.
    assert offline_results.iqm([[0.0, 0.0], [8.0, 8.0]]) == (4.0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sets", "nowhere.h5", "--agents", "iql"], "no dataset at nowhere.h5"),
        (["--sets", "nowhere.h5", "--agents", "iqll"], "iql/mujoco"),
        (["--sets", "nowhere.h5", "--agents", "a2c/catch"], "learns from no dataset"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert call(tmp_path, *arguments)[0] == 2
    assert words in capsys.readouterr().err
