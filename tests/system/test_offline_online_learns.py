"""Recorded and played data meet: a world model of data alone against one that collects; a policy that learns on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import reverie

RANDOM = {"catch": -0.6, "cartpole": 21.0}
"""Mean returns of random actions."""
QUIET = ("--trainer.logger", "false", "--trainer.enable_progress_bar", "false")


def final_score(folder: Path, *arguments: str) -> float:
    """Mean return of the last weights of a run, which no evaluation has chosen, in 100 episodes."""
    reverie.main(["fit", *arguments, "--run_dir", str(folder), *QUIET])
    (run,) = folder.iterdir()
    with (run / "evaluation.csv").open() as file:
        (last,) = [row for row in csv.DictReader(file) if row["kind"] == "last"]
    return float(last["mean"])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("task", ["catch", "cartpole"])
def test_a_world_model_of_recorded_data_plays_nearly_as_well_as_one_that_collects(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reverie.main(["collect", "--config", f"collect/{task}"])
    online = final_score(tmp_path / "online", "--config", f"dreamer/{task}")
    offline = final_score(tmp_path / "offline", "--config", f"dreamer/{task}", "--config", f"dreamer/{task}_offline")
    print(f"{task}: {offline} from recorded data alone, {online} online")
    assert offline >= 0.9 * online
    assert offline - RANDOM[task] >= 0.9 * (online - RANDOM[task])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_policy_of_poor_data_gets_better_where_it_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    poor = "[{behaviour: random, share: 1}, {behaviour: controller, noise: 2.0, share: 1}]"
    reverie.main(
        ["collect", "--environment", "Pendulum-v1", "--dataset", "pendulum/poor-v0", "--behaviour", poor,
         "--transitions", "20000"]
    )  # fmt: skip
    data = "data/minari/pendulum/poor-v0"
    offline = final_score(tmp_path / "offline", "--config", "atac/pendulum", "--data.source", data)
    (weights,) = (tmp_path / "offline").glob("*/checkpoints/best.ckpt")
    online = final_score(
        tmp_path / "online", "--config", "atac/pendulum", "--config", "atac/pendulum_online",
        "--weights_from", str(weights), "--data.start_from", data,
    )  # fmt: skip
    print(f"{offline} offline, {online} after learning on")
    assert online > offline
