"""Logs in a CSV file, one row per step, to the arrays of a flat dataset; every mistake is told by line and column."""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modules.arguments.memory import readable, unwritten
from modules.trust.files import source_files
from modules.trust.names import short

FLAGS = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
"""Cells of a column of flags, whatever their case."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what.

    Attributes:
        observations: columns of the observation before the action, in order.
        actions: columns of the action; a single one of whole numbers is discrete actions.
        reward: column of the reward after the action.
        episode: column that has one value for all rows of an episode, and another one for the next.
        terminated: column of flags: the episode ended in a terminal state here, after which nothing is worth anything.
        truncated: column of flags: the episode was cut here, and would have gone on.

    Raises:
        ValueError: a kind of column is missing, a column is named twice, or nothing says where episodes end.
    """

    observations: Sequence[str]
    actions: Sequence[str]
    reward: str
    episode: str | None = None
    terminated: str | None = None
    truncated: str | None = None

    def __post_init__(self) -> None:
        if not self.observations or not self.actions:
            raise ValueError("observations and actions need the name of at least one column each")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"column {short(twice[0])} is named twice; a column has one meaning")
        if self.episode is None and self.terminated is None and self.truncated is None:
            raise ValueError(
                "nothing says where episodes end: name the column of their numbers by episode, or of flags at their "
                "last steps by terminated (a terminal state) or truncated (cut by a limit)"
            )

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers, observations first."""
        return [*self.observations, *self.actions, self.reward]

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        others = (self.episode, self.terminated, self.truncated)
        return [*self.numbers, *(name for name in others if name is not None)]


@dataclass
class Steps:
    """Rows as they are read.

    Attributes:
        numbers: of each step, observation, action and reward, end to end.
        terminated: a flag for each step.
        truncated: the same.
        ends: `[E]` line of the last step of each episode that is over, and the number of steps until then.
        final: by the index of an episode, the observation that it ended with, where the file has a row for it.
    """

    numbers: array[float] = field(default_factory=lambda: array("d"))
    terminated: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)
    final: dict[int, list[float]] = field(default_factory=dict)


def read_csv(path: Path, columns: Columns, delimiter: str = ",") -> dict[str, np.ndarray]:
    """Read a file whose first line names its columns.

    A row is a step: the observation, the action that was taken in it, the reward that followed, flags. A row without
    action and reward is the observation that an episode ended with. Where no flag stands at the last row of an episode,
    as its number changes or the file ends, it was cut there.

    Args:
        path: the file, of text in UTF-8.
        columns: which column holds what.
        delimiter: one character between cells.

    Returns:
        `observations` `[N, D]`, `actions` `[N, A]` (int64 `[N]` of one column of whole numbers), `rewards`, `terminals`
        and `timeouts` `[N]`, and `final_observations` `[E, D]` where the file has them of all episodes.

    Raises:
        ValueError: a column is not there, a cell is no number, a row has other cells than the first line, an episode
            comes back after another one, a flag stands within an episode, or there is no step.
    """
    if len(delimiter) != 1:
        raise ValueError(f"delimiter is one character, such as ',' or ';', got {short(delimiter)}")
    source_files(path)
    steps = Steps()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            _read_steps(_rows(path, csv.reader(file, delimiter=delimiter, strict=True), columns), columns, steps)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {short(str(error), 200)}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {short(error, 200)}") from error
    if not steps.terminated:
        raise ValueError(f"{path} holds no step: there is no row with an action and a reward below its first line")
    return _arrays(path, columns, steps)


class _Row:
    """Cells of a row by the names of their columns, with its line for messages."""

    def __init__(self, path: Path, line: int, cells: dict[str, str]) -> None:
        self.path = path
        self.line = line
        self.cells = cells

    def mistake(self, name: str, text: str) -> ValueError:
        """An error about a cell."""
        return ValueError(f"{self.path}, line {self.line}, column {short(name)}: {text}")

    def empty(self, names: Sequence[str]) -> bool:
        """Whether nothing stands in any of these columns."""
        return not any(self.cells[name] for name in names)

    def number(self, name: str) -> float:
        """The number in a column."""
        cell = self.cells[name]
        try:
            value = float(cell)
        except ValueError:
            said = "is empty" if not cell else f"holds {short(cell)}, which is no number"
            raise self.mistake(name, said) from None
        if not math.isfinite(value):
            raise self.mistake(name, f"{short(cell)} is not finite; remove its episode, or fill it in")
        return value

    def flag(self, name: str | None) -> bool:
        """Whether a flag is set; that of a column which is not named, or an empty cell, is not."""
        cell = "" if name is None else self.cells[name].lower()
        if name is None or not cell:
            return False
        if cell not in FLAGS:
            raise self.mistake(name, f"holds {short(cell)}; a flag is 0 or 1, or false or true")
        return FLAGS[cell]


def _rows(path: Path, reader: Any, columns: Columns) -> Iterator[_Row]:
    """The rows below the first line, with the cells of the columns that are asked for."""
    header = [name.strip() for name in next(reader, [])]
    for name in columns.names:
        if header.count(name) != 1:
            close = difflib.get_close_matches(name, header, n=1)
            hint = f"did you mean {short(close[0])}?" if close else f"it has {short(', '.join(header), 200)}"
            missing, twice = f"has no column {short(name)}; {hint}", f"names the column {short(name)} more than once"
            raise ValueError(f"{path}: its first line {twice if name in header else missing}")
    places = {name: header.index(name) for name in columns.names}
    for cells in reader:
        if not any(cells):
            continue
        if len(cells) != len(header):
            said = f"has {len(cells)} cells, and the first line names {len(header)} columns"
            raise ValueError(f"{path}, line {reader.line_num} {said}")
        yield _Row(path, reader.line_num, {name: cells[place].strip() for name, place in places.items()})


def _read_steps(rows: Iterator[_Row], columns: Columns, steps: Steps) -> None:
    """Read all rows, and find the ends of episodes."""
    seen: set[str] = set()
    last: _Row | None = None  # step before, of an episode that may go on
    over = False  # whether its flag ends the episode
    for row in rows:
        number = "" if columns.episode is None else row.cells[columns.episode]
        same = last is not None and (not over if columns.episode is None else number == last.cells[columns.episode])
        # The observation that the episode before ended with.
        if row.empty([*columns.actions, columns.reward]):
            if last is None or not (same or columns.episode is None):
                raise row.mistake(columns.reward, "is empty, as the actions are: so episodes end, and none has begun")
            steps.final[len(steps.ends)] = [row.number(name) for name in columns.observations]
            steps.ends.append((last.line, len(steps.terminated)))
            last = None
            continue
        # Another episode, whose number is a new one: two under one number would be glued together.
        if same and over:
            flag = columns.terminated if steps.terminated[-1] else columns.truncated
            raise row.mistake(str(flag), "the flag of the row before ends the episode, which goes on here")
        if not same and last is not None:
            steps.ends.append((last.line, len(steps.terminated)))
        if not same and columns.episode is not None:
            if number in seen:
                raise row.mistake(
                    columns.episode, f"episode {short(number)} comes back after another; sort the rows by it"
                )
            seen.add(number)
        # The step.
        steps.numbers.extend([row.number(name) for name in columns.numbers])
        steps.terminated.append(row.flag(columns.terminated))
        steps.truncated.append(row.flag(columns.truncated))
        last, over = row, steps.terminated[-1] or steps.truncated[-1]
    if last is not None:
        steps.ends.append((last.line, len(steps.terminated)))


def _arrays(path: Path, columns: Columns, steps: Steps) -> dict[str, np.ndarray]:
    """The steps as a flat file holds them."""
    table = np.frombuffer(steps.numbers, dtype=np.float64).reshape(len(steps.terminated), -1)
    width = len(columns.observations)
    terminated, truncated = np.array(steps.terminated), np.array(steps.truncated)
    ends = np.array([count for _, count in steps.ends]) - 1
    truncated[ends[~terminated[ends]]] = True
    actions = table[:, width:-1]
    discrete = actions.shape[1] == 1 and bool((actions % 1 == 0).all())
    arrays = {
        "observations": table[:, :width].astype(np.float32),
        "actions": actions[:, 0].astype(np.int64) if discrete else actions.astype(np.float32),
        "rewards": table[:, -1].astype(np.float32),
        "terminals": terminated,
        "timeouts": truncated,
    }
    # Observations that episodes ended with, of all or none.
    if steps.final:
        without = [line for episode, (line, _) in enumerate(steps.ends) if episode not in steps.final]
        if without:
            raise ValueError(
                f"{path}: the episode that ends at line {without[0]} has no row without action and reward for the "
                "observation that it ended with, as others have: add one to each, or to none"
            )
        arrays["final_observations"] = np.array([steps.final[n] for n in range(len(steps.ends))], dtype=np.float32)
    return arrays


def write_npz(arrays: dict[str, np.ndarray], output: Path, name: str, environment: str | None) -> None:
    """Write the arrays into a new NPZ file, with what is known of them; it is whole or absent.

    Args:
        arrays: arrays of `read_csv`.
        output: the file; it must not exist.
        name: short name for people.
        environment: gymnasium id of the environment that the steps are from, None where there is none.

    Raises:
        ValueError: the file exists, has another ending, or cannot be written.
    """
    if output.suffix != ".npz":
        raise ValueError(f"output is a file with the ending .npz, got {output}")
    if output.exists():
        raise ValueError(f"{output} exists already; remove it or choose another output")
    meta = {"name": name} | ({} if environment is None else {"env_id": environment})
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.writing-") as aside:
            written = Path(aside) / output.name
            np.savez_compressed(written, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]
            os.replace(written, output)
    except OSError as error:
        size = sum(values.nbytes for values in arrays.values())
        raise unwritten(output, error, f"up to {readable(size)}") from error
