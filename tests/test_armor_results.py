"""The benchmark of ARMOR: what it trains, once, and what its table says of a reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import armor_results  # noqa: E402 - scripts beside the package
import bench_armor  # noqa: E402


def write_set(path: Path) -> Path:
    """Ten episodes of five steps in Pendulum."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        observations=rng.uniform(-1, 1, (50, 3)).astype(np.float32),
        final_observations=rng.uniform(-1, 1, (10, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (50, 1)).astype(np.float32),
        rewards=np.ones(50, np.float32),
        terminals=np.zeros(50, bool),
        timeouts=np.arange(50) % 5 == 4,
        meta=json.dumps({"name": path.stem, "env_id": "Pendulum-v1"}),
    )
    return path


def test_each_agent_is_trained_with_the_same_seeds_and_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    trained: list[tuple[str, ...]] = []

    def train(cell: Any, tell: Any) -> dict[str, Any]:
        ((folder, arguments),) = cell.runs
        trained.append(arguments)
        assert folder.is_relative_to(tmp_path / "runs")
        returns = {"cloning": [1.0, 2.0], "atac": [3.0, 4.0]}.get(cell.agent.name, [9.0, 8.0])
        return {
            "set": cell.dataset.name, "agent": cell.agent.name, "minutes": 1.0, "status": "done", "reason": "",
            "last": returns, "cloned": [] if cell.agent.name == "cloning" else [1.0, 2.0], "updates": {"last": 1000},
        }  # fmt: skip

    monkeypatch.setattr(bench_armor, "train", train)
    places = ["--root", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    source = str(write_set(tmp_path / "swings.npz"))
    options = ["--seeds", "4", "5", "--updates", "1000", "--adversarial", "0", "--", "--model.compile", "false"]
    assert bench_armor.main(["--sets", source, *places, *options]) == 0
    assert [arguments[1] for arguments in trained] == ["cloning/mujoco", "atac/mujoco", *["armor/mujoco"] * 2]
    for arguments in trained:
        text = " ".join(arguments)
        assert "--seed_everything 4 --model.compile false" in text
        assert text.endswith("--model.seeds 2")
        each, epochs = (
            int(arguments[arguments.index(name) + 1]) for name in ("--data.updates_per_epoch", "--trainer.max_epochs")
        )
        assert each * epochs == 1000
    assert ["--model.dynamics.adversarial" in arguments for arguments in trained] == [False, False, False, True]
    content = json.loads((tmp_path / "results" / "armor.json").read_text())
    assert str(tmp_path) not in json.dumps(content)  # no place of this machine
    assert [cell["agent"] for cell in content["cells"]] == ["cloning", "atac", "armor", "armor, adversarial 0"]
    assert "| armor | 8.5 | 8.0 .. 9.0 |" in capsys.readouterr().out


@pytest.mark.parametrize("seeds", [["0", "2"], ["1", "0"], ["-1", "0"]])
def test_seeds_that_do_not_follow_one_another_are_refused(seeds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench_armor.main(["--sets", "nowhere.h5", "--seeds", *seeds])
    assert "--seeds must follow one another" in capsys.readouterr().err


def test_a_set_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_armor.main(["--sets", "nowhere.h5", "--root", str(tmp_path)]) == 2
    assert "no dataset at nowhere.h5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("last", "told"),
    [([10.0, 11.0, 12.0], "above"), ([1.0, 2.0, 3.0], "falls below"), ([4.0, 5.0, 9.0], "not told apart")],
)
def test_the_table_says_whether_armor_falls_below_its_reference(tmp_path: Path, last: list[float], told: str) -> None:
    assert armor_results.tables(tmp_path) == []
    common = {"set": "swings", "minutes": 1.0, "status": "done", "reason": "", "updates": {"last": 1000}, "best": []}
    cells = [
        {**common, "agent": "cloning", "last": [5.0, 5.0, 5.0], "cloned": []},
        {**common, "agent": "atac", "last": [6.0, 6.0, 6.0], "cloned": [5.0, 5.0, 5.0]},
        {**common, "agent": "armor", "last": last, "cloned": [5.0, 6.0, 5.0]},
        {**common, "agent": "armor, adversarial 0", "status": "failed", "reason": "for a reason"},
    ]
    facts = {
        "set": "swings", "environment": "Pendulum-v1", "episodes": 1, "transitions": 9, "mean": 1.0, "best_decile": 1.0,
        "normalized": [0.0, 0.0], "references": [0.0, 10.0], "yardstick": "by hand",
    }  # fmt: skip
    content = {
        "command": "x", "date": "d", "processor": "p", "seeds": [0, 1, 2], "episodes": 1, "threads": 1,
        "sets": [facts], "cells": cells,
    }  # fmt: skip
    (tmp_path / "armor.json").write_text(json.dumps(content))
    rows = {line.split(" | ")[0]: line.strip("| ").split(" | ") for line in armor_results.tables(tmp_path)}
    cloning, atac, armor = (rows[f"| {name}"] for name in ("cloning", "atac", "armor"))
    assert armor[7] == told
    mean = sum(last) / 3
    assert armor[1] == f"{mean:.1f}"
    assert armor[3] == f"{10 * mean:.1f}"
    assert armor[5:7] == ["5.3", armor[6]]
    assert armor[6].startswith(f"{mean - 16 / 3:+.1f} (")
    assert armor[8].startswith(f"{mean - 6:+.1f} (")
    assert atac[6:9] == ["+1.0 (+1.0 .. +1.0)", "above", ""]
    assert cloning[5:9] == ["", "", "", ""]
    assert "armor, adversarial 0 failed: for a reason" in armor_results.tables(tmp_path)
    armor_results.draw(tmp_path)
    assert (tmp_path / "armor.png").read_bytes().startswith(b"\x89PNG")
