"""Losses of every algorithm with results are those of its newest tag: whoever changes them adds one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import known_losses  # noqa: E402 - no package holds the benchmarks
from code_tags import newest_tags  # noqa: E402

KNOWN = json.loads(known_losses.FILE.read_text())


def test_known_losses_are_of_the_newest_tag_of_each_algorithm() -> None:
    assert KNOWN.keys() == {*known_losses.PRESETS}
    older = [preset for preset in KNOWN if KNOWN[preset]["tag"] != newest_tags()[known_losses.algorithm_of(preset)]]
    assert older == [], "write them anew: python benchmarks/known_losses.py PRESET"
    assert all(KNOWN[preset]["updates"].keys() >= {"2", "26"} for preset in KNOWN)


@pytest.mark.slow
@pytest.mark.parametrize("preset", known_losses.PRESETS)
def test_losses_are_those_of_the_tag(preset: str) -> None:
    said = known_losses.differing(KNOWN[preset]["updates"], known_losses.measured(preset))
    assert said == [], (
        "results that were measured before are older than this code: put the change back, or add a tag to "
        f"benchmarks/code_tags.yaml and write these losses anew: python benchmarks/known_losses.py {preset}"
    )


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"1": {"a/loss": 100.9, "a/small": 0.0109}}, []),
        ({"1": {"a/loss": 102.0, "a/small": 0.01}}, ["update 1: a/loss was 100, is 102"]),
        ({"1": {"a/loss": 100.0, "a/small": 0.0121}}, ["update 1: a/small was 0.01, is 0.0121"]),
        ({"1": {"a/loss": 100.0, "b/small": 0.01}}, ["update 1: a/small is gone", "update 1: b/small is new"]),
        ({}, ["update 1: a/loss is gone", "update 1: a/small is gone"]),
        ({"1": {"a/loss": float("nan"), "a/small": 0.01}}, ["update 1: a/loss was 100, is nan"]),
    ],
)
def test_losses_differ_by_a_hundredth_of_their_size_or_not_at_all(now: known_losses.Known, said: list[str]) -> None:
    assert known_losses.differing({"1": {"a/loss": 100.0, "a/small": 0.01}}, now) == said


def test_another_preset_is_told_those_that_there_are() -> None:
    with pytest.raises(SystemExit, match=r"^no known losses of moe/pruned; there are those of a2c/cartpole, "):
        known_losses.main(["moe/pruned"])
