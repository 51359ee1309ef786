"""Datasets to check presets on: which policies make them, that they are kept, and that the table takes them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import write_checkpoint
from tiny_dataset import make_arrays, write_hdf5

from commands.behaviour_parts import Part
from datamodules.envs.make import EnvironmentSpec
from datamodules.played.minari_episodes import collection_settings

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import offline_sets  # noqa: E402 - scripts beside the package
import offline_table  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))


def call(tmp_path: Path, *arguments: str) -> int:
    return offline_sets.main([*arguments, "--transitions", "600", "--root", str(tmp_path / "my sets")])


@pytest.mark.long
def test_scripted_sets_and_best_tenths_are_made_once_for_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write_hdf5(tmp_path / "tiny.h5", make_arrays())
    arguments = ("--environments", "Pendulum-v1", "--best", str(given))
    assert call(tmp_path, *arguments) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    script, option, *sets = shlex.split(printed)[1:]
    assert (script, option) == ("benchmarks/offline_table.py", "--sets")
    assert [Path(name).name for name in sets[:-1]] == [
        f"{level}-v0" for level in ("random", "medium", "expert", "mixed", "medium-expert")
    ]
    found = offline_table.read_sets(sets, None, False, tmp_path)
    assert [dataset.facts["environment"] for dataset in found] == ["Pendulum-v1"] * 5 + [None]
    random, medium, expert, mixed, both = (dataset.facts["mean"] for dataset in found[:5])
    assert random < mixed < medium < expert
    assert medium < both < expert
    assert [dataset.facts["transitions"] for dataset in found[:5]] == [600, 600, 600, 600, 600]
    assert found[5].facts["mean"] == pytest.approx(found[5].facts["best_decile"])
    # A second call keeps all of them.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*5")}
    assert call(tmp_path, *arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == printed
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*5")} == before


def test_checkpoints_are_ordered_by_what_they_earn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "one.ckpt", seeds=3)
    torch.manual_seed(1)
    write_checkpoint(tmp_path / "two.ckpt")
    worth = {"beta=4/seed=0": -900.0, "beta=4/seed=1": -300.0, "beta=4/seed=2": -800.0, None: -200.0}

    def measured(environment: EnvironmentSpec, policy: Any) -> float:
        return -1200.0 if policy is None else worth[policy.member]

    monkeypatch.setattr(offline_sets, "measured", measured)
    files = [str(tmp_path / name) for name in ("one.ckpt", "two.ckpt")]
    made = offline_sets.levels(EnvironmentSpec("Pendulum-v1"), offline_sets.policies_of(files))
    top, middle = (
        Part("checkpoint", checkpoint=files[1]),
        Part("checkpoint", checkpoint=files[0], member="beta=4/seed=2"),
    )
    assert made == {  # halfway between -1200 and -200 is -700
        "random": [Part("random")],
        "medium": [middle],
        "expert": [top],
        "mixed": [Part("random"), middle, top],
        "medium-expert": [middle, top],
    }
    alone = offline_sets.levels(EnvironmentSpec("Pendulum-v1"), offline_sets.policies_of(files[1:]))
    assert alone["medium"] == [Part("checkpoint", checkpoint=files[1], epsilon=0.5)]


@pytest.mark.long
def test_sets_of_a_checkpoint_are_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "a.ckpt")
    assert call(tmp_path, "--environments", "Pendulum-v1", "--checkpoints", str(tmp_path / "a.ckpt")) == 0
    assert "a.ckpt: mean return -" in capsys.readouterr().out
    settings = collection_settings(tmp_path / "my sets/pendulum-v1/medium-expert-v0")
    assert settings is not None
    assert [(part["behaviour"], part["epsilon"]) for part in settings["behaviour"]] == [
        ("checkpoint", 0.5),
        ("checkpoint", 0.0),
    ]


def test_mistakes_are_named_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "a.ckpt")
    for arguments, said in (
        (("--checkpoints", str(tmp_path / "no.ckpt")), "no.ckpt"),
        (("--environments", "CartPole-v1", "--checkpoints", str(tmp_path / "a.ckpt")), "plays Pendulum-v1; add it to"),
        (("--best", str(tmp_path / "no.h5")), "no dataset at"),
        (("--environments", "Pendulum-v9"), "Pendulum"),
    ):
        assert call(tmp_path, *arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "my sets").exists()
    assert offline_sets.levels(EnvironmentSpec("Hopper-v5"), []) == {"random": [Part("random")]}
    assert "random actions alone" in capsys.readouterr().out
