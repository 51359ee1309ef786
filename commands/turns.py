"""One member's turn in a population: its run goes on for some epochs, and then shows what it is judged by."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch

from callbacks.files.written_aside import written_aside
from commands import run_directory
from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.evolution import Genes, Returns
from modules.disk import make_folder, to_disk

LAST = Path("checkpoints", run_directory.NAMES["last"])
START = "start.ckpt"
"""Weights that a member begins anew with, whose first turn has failed."""

FAILED = Returns(float("-inf"), 0.0, 0)
INHERITED = ("state_dict", "optimizer_states")
"""Entries of a checkpoint that a copy has from another member; all else, such as its data and its random numbers, stays
its own."""


class Turn(NamedTuple):
    """The work of one member, until it is compared with the others.

    Attributes:
        folder: folder of its run.
        arguments: arguments of `reverie fit`.
    """

    folder: Path
    arguments: list[str]


def arguments_of(genes: Genes) -> list[str]:
    """Genes as arguments of `reverie fit`; a callback logs them."""
    values = [f"--model.{name}={json.dumps(value)}" for name, value in genes.items()]
    member = {"class_path": "callbacks.population.Member", "init_args": {"values": genes}}
    return [*values, f"--trainer.callbacks+={json.dumps(member)}"]


def beginning(folder: Path) -> list[str]:
    """Where a member's next turn begins, as arguments of `reverie fit`: at its checkpoint, if it has one."""
    anew = not (folder / LAST).is_file() and (folder / START).is_file()
    return ["--ckpt_path", "last", *(["--weights_from", str(folder / START)] if anew else [])]


def take(turn: Turn) -> Returns:
    """Train, with all that is printed in `turns.log` of the member's folder.

    Returns:
        The returns of its last evaluation; `FAILED` where training has diverged.

    Raises:
        ValueError: a mistake of the user, or nothing was evaluated at the end of the turn.
        SystemExit: a signal has ended it.
    """
    from commands.lightning import run

    make_folder(turn.folder)
    with (turn.folder / "turns.log").open("a") as log, in_folder(turn.folder):
        try:
            with redirect_stdout(log), redirect_stderr(log):
                run("fit", turn.arguments)
        except FloatingPointError:
            return FAILED
        except SystemExit as leaving:
            if leaving.code == 2:
                log.flush()
                last = (turn.folder / "turns.log").read_text().strip().splitlines()[-1]
                raise ValueError(last.removeprefix("reverie: error: ")) from leaving
            raise
    return returns_of(turn.folder)


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Within, a run of `fit` trains in this folder, and `--ckpt_path last` goes on with what is there."""
    before = os.environ.get(run_directory.VARIABLE)
    os.environ[run_directory.VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[run_directory.VARIABLE]
        else:
            os.environ[run_directory.VARIABLE] = before


def returns_of(folder: Path) -> Returns:
    """The returns of the evaluation at the end of a member's latest turn.

    Raises:
        ValueError: there was none.
    """
    checkpoint = read_checkpoint(folder / LAST, "cpu")
    history: list[dict[str, Any]] = checkpoint["callbacks"].get("Evaluation", {}).get("history", [])
    scores = [score for score in history if score["kind"] == "curve" and score["member"] == ""]
    if not scores or scores[-1]["updates"] != checkpoint["agent"]["updates"]:
        raise ValueError(
            f"{folder}: nothing was evaluated at the end of the turn, so that members cannot be compared; let "
            "evaluation.every_n_epochs divide ready, and give an environment to evaluate in"
        )
    return Returns(scores[-1]["mean"], scores[-1]["deviation"], scores[-1]["count"])


def prepare_copies(folders: Sequence[Path], copied: Sequence[int | None], generation: int) -> None:
    """Write what each copy goes on from into a file of this generation; no member changes yet.

    A member without a checkpoint of its own, whose first turn has failed, begins anew with the weights.
    """
    for folder, donor in zip(folders, copied, strict=True):
        if donor is None:
            continue
        content: dict[str, Any] = read_checkpoint(folders[donor] / LAST, "cpu")
        if (folder / LAST).is_file():
            given, content = content, read_checkpoint(folder / LAST, "cpu")
            content |= {name: given[name] for name in INHERITED}
            content["agent"]["alive"] = given["agent"]["alive"]
        with written_aside(_prepared(folder, generation)) as aside, aside.open("wb") as file:
            torch.save(content, file)


def finish_copies(folders: Sequence[Path], generation: int) -> None:
    """Let what was prepared in this generation take its place; what has already stays as it is."""
    for folder in folders:
        if _prepared(folder, generation).is_file():
            place = folder / (LAST if (folder / LAST).is_file() else START)
            os.replace(_prepared(folder, generation), place)
            to_disk(folder)
            to_disk(place.parent)


def _prepared(folder: Path, generation: int) -> Path:
    return folder / f"copied-{generation}.ckpt"


def say(text: str) -> None:
    """A line for who watches."""
    print(text, file=sys.stderr, flush=True)
