"""No speed is told of what computes something else: of a form of a mixture, or of an update of another library."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.extend(
    str(Path(__file__).parents[1] / part) for part in ("benchmarks", "benchmarks/peers", "tests/modules/algorithms")
)
import agreement
import bench_dreamer
import bench_offline
import dreamer_start
import recorded_draws
import recorded_updates
import test_behavior_cloning_against_d3rlpy as of_cloning
from bench_moe import Setting, check_agreement, dense, mixture

SMALL = Setting(tokens=64, width=8, hidden=16, experts=4)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("routing", ["top_k", "noisy_top_k"])
@pytest.mark.parametrize("backend", ["grouped", "padded"])
def test_forms_that_agree_are_timed_and_one_that_does_not_is_refused(
    backend: str, routing: str, autocast: bool
) -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    version = mixture(SMALL, routing, backend, autocast)
    check_agreement(version, x)
    wrong = version._replace(call=lambda x: (1.1 * version.call(x)[0], []))
    with pytest.raises(SystemExit, match="disagrees with the plain loop over experts"):
        check_agreement(wrong, x)
    lost = version._replace(call=lambda x: (version.call(x)[0] * float("nan"), []))
    with pytest.raises(SystemExit, match="disagrees"):
        check_agreement(lost, x)
    check_agreement(dense(SMALL)._replace(call=lambda x: pytest.fail("is another network")), x)


TINY = bench_dreamer.Setting("tiny", 4, 6, 8, 12, 10, 2, 2, 4, updates=1, horizon=3)


def first(mode: str, seed: int = 0) -> dict[str, float]:
    """Losses and norms of a tiny agent's first update, from the weights and the batch of a seed."""
    torch.manual_seed(0)
    agent, batch = bench_dreamer.make_agent(TINY, mode), bench_dreamer.make_batch(TINY)
    with torch.no_grad():
        for p in agent.behaviour.actor.parameters():
            p.add_(1e-2 * seed)
    agent.configure_optimizers()
    return dreamer_start.first_update(agent, batch)


def test_updates_of_dreamer_are_timed_only_where_all_that_they_say_agrees() -> None:
    told = {"ours": first("eager"), "theirs": first("eager")}
    agreement.check_agreement(told, "theirs", {})
    assert told["ours"].keys() >= {"observation", "kl", "actor", "critic", "model_norm", "actor_norm", "critic_norm"}
    assert all(abs(x) > 1e-6 for x in told["ours"].values()), "what is 0 by both sides tells nothing"
    with pytest.raises(SystemExit, match=r"nothing is timed: actor.* is .* by ours, and .* by theirs"):
        agreement.check_agreement(told | {"ours": first("eager", 1)}, "theirs", {})
    for name, value in told["theirs"].items():
        for wrong in (1.01 * value, float("nan")):
            with pytest.raises(SystemExit, match=f"nothing is timed: {name} "):
                agreement.check_agreement(told | {"ours": told["ours"] | {name: wrong}}, "theirs", {})
    near = told | {"ours": {name: 1.01 * value for name, value in told["ours"].items()}}
    agreement.check_agreement(near, "theirs", {"ours": "bf16"})


def test_sheeprl_gets_all_weights_with_the_state_before_the_input_of_its_cell(tmp_path: Path) -> None:
    torch.manual_seed(0)
    agent, batch = bench_dreamer.make_agent(TINY, "eager"), bench_dreamer.make_batch(TINY)
    dreamer_start.write_start(agent, batch, tmp_path / "start.npz")
    start = np.load(tmp_path / "start.npz")
    learned = agent.world_model, agent.behaviour.actor, agent.behaviour.critic
    sizes = [start[name].size for name in start.files if not name.startswith("batch/") and name != "share"]
    assert sum(sizes) == sum(p.numel() for network in learned for p in network.parameters())
    cell, x, h = agent.world_model.rssm.cell, torch.randn(3, TINY.hidden), torch.randn(3, TINY.deter)
    theirs = torch.cat([h, x], -1) @ torch.from_numpy(start["world_model.rssm.cell/0"]).T
    torch.testing.assert_close(theirs, cell.linear(torch.cat([x, h], -1)) - cell.linear.bias)
    assert start["batch/is_first"][0].all()


def test_a_library_records_at_the_sizes_that_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[dict[str, str]] = []
    monkeypatch.setattr(bench_offline.subprocess, "run", lambda command, **named: called.append(named["env"]))
    bench_offline.record("d3rlpy", Path("python"), tmp_path)
    monkeypatch.undo()
    with monkeypatch.context() as patched:
        patched.setenv("RECORDED_SIZES", called[0]["RECORDED_SIZES"])
        batch = importlib.reload(recorded_draws).make_batch(1, False)
        assert recorded_draws.HIDDEN == [256, 256]
    assert {name: x.shape for name, x in batch.items()} == {
        "observations": (256, 17), "actions": (256, 6), "rewards": (256, 1), "next_observations": (256, 17),
        "terminals": (256, 1),
    }  # fmt: skip
    assert importlib.reload(recorded_draws).HIDDEN == [16, 16]


@pytest.mark.parametrize("changed", ["after_2/imitator._fc.weight", "losses"])
def test_an_algorithm_that_ends_at_other_weights_or_losses_than_a_library_is_not_timed(
    changed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The tests that a benchmark runs read what the library has recorded then, and fail where it differs."""
    arrays = dict(np.load(recorded_updates.DATA / "d3rlpy/discrete_bc_plain.npz"))
    if changed == "losses":
        about = json.loads(str(arrays["about"]))
        about["losses"][0]["loss"] *= 1.001
        arrays["about"] = np.array(json.dumps(about))
    else:
        arrays[changed].flat[3] += 1e-3
    (tmp_path / "d3rlpy").mkdir()
    np.savez(tmp_path / "d3rlpy/discrete_bc_plain.npz", **arrays)
    of_cloning.test_two_updates_on_numbered_actions_equal_those_of_d3rlpy()
    monkeypatch.setattr(recorded_updates, "DATA", tmp_path)
    with pytest.raises(AssertionError):
        of_cloning.test_two_updates_on_numbered_actions_equal_those_of_d3rlpy()


@pytest.mark.parametrize(("status", "reason"), [(0, None), (1, "its update is not d3rlpy's"), (5, "no test compares")])
def test_a_test_that_fails_or_is_missing_is_an_obstacle(
    status: int, reason: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str | None] = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(env.get("REVERIE_RECORDED"))
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(bench_offline.subprocess, "run", run)
    found = bench_offline.obstacle(bench_offline.ALGORITHMS["iql"], tmp_path)
    assert found is None if reason is None else reason in str(found)
    assert asked == [str(tmp_path)]
