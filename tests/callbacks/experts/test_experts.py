"""The callback for mixtures of experts: numbers known by hand, files, mistakes, and two processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from equal import assert_equal
from fit_command import fit, load
from mixture_runs import (
    BATCH,
    PATH,
    Known,
    Mixed,
    png_size,
    run,
    table,
)
from toy_run import SPACES, Toy

from callbacks.experts.experts import Experts, load_metrics
from callbacks.mlflow.logger import MLflowLogger
from modules.agent.agent import Agent
from modules.experts.layer import sparse_layers


# ------------------------------------------------------------------------------------------------------------- numbers
def test_loads_in_numbers() -> None:
    assert load_metrics(torch.tensor([0, 2, 4, 2])) == {
        "load_variation": pytest.approx(math.sqrt(2) / 2), "load_max_over_mean": 2.0, "unused_experts": 1.0,
    }  # fmt: skip
    assert load_metrics(torch.zeros(3, dtype=torch.int64)) == {}


@pytest.mark.parametrize("validation", [0, 1])
def test_metrics_of_loads_known_by_hand(tmp_path: Path, validation: int) -> None:
    seen = run(tmp_path, Known(), Experts(interval=4), epochs=2, limit_val_batches=validation).seen
    assert sorted(seen["experts/critic.0/load_variation"]) == [4, 8, 12, 16, 20]
    last = {name.removeprefix(f"experts/{PATH}/"): v[20] for name, v in seen.items() if name.startswith("experts/")}
    p, q = math.exp(10) / (math.exp(10) + 3), 1 / (math.exp(10) + 3)
    entropy = -p * math.log(p) - 3 * q * math.log(q)
    assert last == {
        "load_variation": pytest.approx(math.sqrt((9 + 0 + 1 + 4) / 4) / 2),
        "load_max_over_mean": 2.5,
        "unused_experts": 1.0,
        "router_entropy": pytest.approx(entropy, rel=1e-4),
        "router_entropy_share": pytest.approx(entropy / math.log(4), rel=1e-4),
    }
    # What validation and evaluation compute is not counted: every interval of four updates holds 32 rows.
    names, rows = table(tmp_path)
    assert names == ["updates", *(f"{PATH}/{e}" for e in range(4))]
    assert rows == [[str(end), "20", "8", "4", "0"] for end in (4, 8, 12, 16, 20)]


def test_dropped_rows_are_a_share_of_all(tmp_path: Path) -> None:
    seen = run(tmp_path, Known(capacity_factor=1.0), Experts(), epochs=1).seen  # two rows per expert
    assert seen["experts/critic.0/dropped_share"] == {5: 3 / 8, 10: 3 / 8}
    assert seen["experts/critic.0/load_max_over_mean"][10] == pytest.approx(2 / 1.25)


class Puts(MLflowLogger):
    """Keeps what would be sent."""

    experiment = None

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []

    def put(self, kind: str, run_id: str | None = None, **fields: Any) -> None:
        self.sent.append({"kind": kind, **fields})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_files_are_in_the_run_directory_and_sent_to_mlflow(tmp_path: Path) -> None:
    logger = Puts()
    run(tmp_path, Mixed(members=2), Experts(), epochs=3, logger=logger)
    assert png_size(tmp_path / "expert_load.png") == (910, round(130 * (0.8 + 2 * 1.9)))
    files = [Path(record["source"]).name for record in logger.sent if record["kind"] == "file"]
    assert files == [*["expert_load.csv"] * 4, "expert_load.png"]  # each epoch's end, and the end of training
    names, rows = table(tmp_path)
    assert len(names) == 13
    assert [sum(map(int, row[1:])) for row in rows] == [2 * 5 * 2 * BATCH] * 6  # layers, updates, k, tokens


# ------------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"prune_after": -1}, "prune_after must be at least 0, got -1"),
        ({"prune_after": 1, "min_share": 1.0}, r"min_share must lie in \[0, 1\), got 1.0"),
        ({"min_share": 0.1}, "would be ignored; set prune_after"),
        ({"prune_window": 7}, "would be ignored; set prune_after"),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experts(**arguments)


@pytest.mark.parametrize(
    ("agent", "arguments", "message"),
    [
        (lambda: Toy(SPACES), {}, "finds no mixture of experts that learns in Toy"),
        (Mixed, {"prune_after": 5, "prune_window": 4}, "critic.0 gets 43 rows on average.*; set at least 5"),
        (Mixed, {"prune_after": 35, "prune_window": 10}, "the run ends after 40 updates, before it is pruned at .* 45"),
        (lambda: Mixed(kind="expert_choice"), {"prune_after": 1, "prune_window": 10}, "every expert is used by design"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    tmp_path: Path, agent: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path, agent(), Experts(**arguments))
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------- two processes
@pytest.mark.long
def test_two_processes_prune_alike_and_their_checkpoint_is_played_on(tmp_path: Path) -> None:
    """Through the command line, with policy, critics and what follows them as mixtures."""
    experts = {"class_path": "callbacks.experts.experts.Experts", "init_args": {"prune_after": 20, "prune_window": 30}}
    mixture = {"class_path": "modules.experts.layer.SparseMoE", "init_args": {"num_experts": 24, "hidden": 8}}
    arguments = (
        "--model.hidden", "[16]", "--model.trunk", json.dumps(mixture), "--model.actor.average_rate", "0.1",
        "--data.updates_per_epoch", "30", "--trainer.callbacks+", json.dumps(experts), "--run_dir", "runs/mixture",
    )  # fmt: skip
    done = fit(
        tmp_path, "ranks", *arguments, "--trainer.max_epochs", "2",
        "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = [load(tmp_path / f"ranks/rank{r}.pt")["state"] for r in range(2)]
    for state in states:  # each rank's own counts
        for name in [name for name in state if name.endswith("_extra_state")]:
            del state[name]
    assert_equal(*states)
    agent = Agent.from_checkpoint(next(tmp_path.glob("runs/mixture/*/checkpoints/last.ckpt")))
    experts_left = {path: layer.num_experts for path, layer in sparse_layers(agent).items()}
    assert experts_left["actor.network.trunks.0"] < 24
    assert experts_left["average_actor.network.trunks.0"] == experts_left["actor.network.trunks.0"]
    assert experts_left["target_critic.trunks.1"] == experts_left["critic.trunks.1"]
    assert agent.act(torch.randn(5, 3), explore=False)[0].shape == (5, 2)
