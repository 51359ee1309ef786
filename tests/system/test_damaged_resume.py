"""A run never goes on from a checkpoint that has lost something: one line names the file, and nothing is written."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_command import write_dataset
from toy_run import SPACES, Toy, ToyData, make_trainer

import reverie
from callbacks.checkpointing import Checkpoint, ExactResume
from commands.restoring import restoring_named


def run(folder: Path, epochs: int, **arguments: Any) -> None:
    trainer = make_trainer(folder, epochs, [ExactResume(), Checkpoint(monitor="none")])
    trainer.fit(Toy(SPACES), datamodule=ToyData(), **arguments)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a short run."""
    folder = tmp_path_factory.mktemp("run")
    run(folder, 1)
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def change(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def changed(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return changed


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no optimiser": (change("optimizer_states", to=[]), "it has 0 states of optimisers, and the agent 1"),
    "optimisers lost": (lambda c: c.pop("optimizer_states"), "it has no states of optimisers"),
    "a number as an optimiser": (change("optimizer_states", to=[1]), "its optimiser 0 has no readable state"),
    "empty moments": (change("optimizer_states", 0, "state", to={}), "know nothing of 10 updates"),
    "moments of another size": (
        change("optimizer_states", 0, "state", 0, "exp_avg", to=torch.zeros(7)), "of other tensors than the agent's",
    ),
    "no parameters": (change("optimizer_states", 0, "param_groups", to=[]), "its optimiser 0 has no readable state"),
    "no ranks": (lambda c: c.pop("ranks"), "it has no ranks"),
    "ranks empty": (change("ranks", to=[]), "it has no ranks"),
    "a rank empty": (change("ranks", to=[{}]), "the state of process 0 lacks random, agent, data, counts"),
    "a rank as text": (change("ranks", to=["x"]), "the state of process 0 lacks random"),
    "a generator lost": (change("ranks", 0, "agent", to={}), r"the state of process 0 cannot be read \(KeyError"),
    "a generator as text": (change("ranks", 0, "random", "torch", to="x"), "the state of process 0 cannot be read"),
    "a large generator": (change("ranks", 0, "random", "python", to=(3, [2**80] * 625, None)), "cannot be read"),
    "a loop of nothing": (change("loops", "fit_loop", to={}), "does not say how far training was"),
    "a text among counters": (
        change("loops", "fit_loop", "epoch_progress", "current", "completed", to="x"),
        "a counter in epoch_progress of its loops is x",
    ),
    "no epoch": (lambda c: c.pop("epoch"), "it has no epoch"),
    "a counter as text": (change("global_step", to="many"), "its global_step is many"),
    "no loops": (lambda c: c.pop("loops"), "does not say how far training was"),
    "an own counter as text": (change("agent", "updates", to="x"), "updates of its agent is x"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_lost_is_named(case: str, checkpoint: dict[str, Any], tmp_path: Path) -> None:
    damage, said = DAMAGE[case]
    content = copy.deepcopy(checkpoint)
    damage(content)
    path = tmp_path / "damaged.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=said) as told:
        run(tmp_path, 2, ckpt_path=path)
    assert str(path) in str(told.value)
    assert len(str(told.value)) < 500
    assert "\n" not in str(told.value)


SETTINGS = [
    "--model", "ATAC", "--model.hidden", "[8]", "--data", "OfflineDataModule", "--data.source", "tiny.npz",
    "--data.batch_size", "8", "--trainer.accelerator", "cpu",
]  # fmt: skip
FIT = ["fit", *SETTINGS, "--data.updates_per_epoch", "2", "--trainer.logger", "false", "--trainer.max_epochs"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`last.ckpt` of a run of the command, in whose folder the tests work."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("REVERIE_CACHE", str(folder / "cache"))
        write_dataset(folder / "tiny.npz")
        reverie.main([*FIT, "1"])
        [path] = folder.glob("runs/*/*/checkpoints/last.ckpt")
        yield path


def files_of(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.parents[1].rglob("*") if file.is_file()}


def said_by(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        reverie.main(command)
    assert left.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_the_command_writes_nothing_into_the_run(finished: Path, capsys) -> None:
    good = finished.read_bytes()
    content = torch.load(finished, weights_only=True)
    for lost, said in (("ranks", "has no ranks"), ("optimizer_states", "has no states of optimisers")):
        torch.save({key: value for key, value in content.items() if key != lost}, finished)
        before = files_of(finished)
        assert f"{finished} is damaged: it {said}" in said_by([*FIT, "2", "--ckpt_path", "last"], capsys)
        assert files_of(finished) == before
    finished.write_bytes(good)


def test_what_lightning_cannot_restore_names_the_file(finished: Path, tmp_path: Path, capsys) -> None:
    content = torch.load(finished, weights_only=True)
    [name] = [key for key in content["callbacks"] if "Checkpoint" in key]
    path = tmp_path / "hostile.ckpt"
    torch.save({**content, "callbacks": {name: {"x": 1}}}, path)
    line = said_by([*FIT, "2", "--ckpt_path", str(path)], capsys)
    assert f"{path} is damaged: what it holds cannot be restored (KeyError" in line
    del content["pytorch-lightning_version"]
    torch.save(content, path)
    line = said_by(["validate", *SETTINGS, "--ckpt_path", str(path)], capsys)
    assert f"{path} is damaged: what it holds cannot be restored (KeyError: 'pytorch-lightning_version')" in line
    with pytest.raises(KeyError), restoring_named(lambda: "x.ckpt"):  # of something else
        raise KeyError("x")


def test_fit_and_test_call_nothing_that_the_file_names(finished: Path, tmp_path: Path, capsys) -> None:
    touch = {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path}/canary"}}
    content = torch.load(finished, weights_only=True)
    hostile = {**content["hyper_parameters"], "trunk": touch, "_instantiator": "os.system", "_class_path": "this.s"}
    path = tmp_path / "hostile.ckpt"
    environment = {"id": "Pendulum-v1", "arguments": {}, "wrappers": [touch]}
    torch.save({**content, "hyper_parameters": hostile, "environment": environment}, path)
    line = said_by(["test", *SETTINGS, "--ckpt_path", str(path)], capsys)
    assert f"{path} names os.system, which is not reverie's own; nothing was imported" in line
    reverie.main([*FIT, "2", "--ckpt_path", str(path)])  # with the classes of its own config
    assert not (tmp_path / "canary").exists()
    assert "this" not in sys.modules
