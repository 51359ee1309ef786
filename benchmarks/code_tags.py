"""Tags of the code that results are measured with: which files are older than a change of the numbers.

`code_tags.yaml` has, for each algorithm, a list of tags. Somebody who changes the numbers of an algorithm, and not its
form alone, adds a tag with the date and a sentence. From then on a results file that is of an earlier tag is refused,
unless it is measured again, or the tag names it as `older`: it stays, and docs/evidence.md says why it is old.

Files that were measured before there were tags record none, and count as of the first.
"""

from __future__ import annotations

import fnmatch
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

FILE = Path(__file__).parent / "code_tags.yaml"


class Tag(NamedTuple):
    """One change of the numbers of an algorithm.

    Attributes:
        number: counts from 1 on.
        since: day of the change.
        change: a sentence.
        older: results files of earlier tags that stay, with `*` for any text.
    """

    number: int
    since: str
    change: str
    older: tuple[str, ...]


@cache
def read_tags(file: Path = FILE) -> dict[str, list[Tag]]:
    """The tags of every algorithm, the newest last, as `parsed`."""
    return parsed(file.read_text())


def parsed(text: str) -> dict[str, list[Tag]]:
    """The tags of every algorithm that a text has.

    Raises:
        ValueError: tags of an algorithm do not count from 1 on, one has no date or sentence, or has another key.
    """
    found = {}
    for algorithm, entries in yaml.safe_load(text).items():
        tags = []
        for number, entry in enumerate(entries, 1):
            if entry.get("tag") != number or not {"since", "change"} <= entry.keys():
                raise ValueError(f"{FILE.name}, {algorithm}: entry {number} needs tag: {number}, since and change")
            if unknown := entry.keys() - {"tag", "since", "change", "older"}:
                raise ValueError(f"{FILE.name}, {algorithm}, tag {number}: nothing is called {sorted(unknown)[0]}")
            tags.append(Tag(number, str(entry["since"]), entry["change"], tuple(entry.get("older", ()))))
        found[algorithm] = tags
    return found


def newest_tags() -> dict[str, int]:
    """Number of the newest tag of every algorithm."""
    return {algorithm: tags[-1].number for algorithm, tags in read_tags().items()}


def tags_at(commit: str) -> dict[str, int]:
    """Number of the newest tag of every algorithm at a commit; none where it is not at hand or had no tags."""
    where = f"{commit}:benchmarks/{FILE.name}"
    done = subprocess.run(["git", "-C", str(FILE.parent), "show", where], capture_output=True, text=True)
    if done.returncode != 0:
        return {}
    return {algorithm: tags[-1].number for algorithm, tags in parsed(done.stdout).items()}


def changes_since(algorithm: str, tag: int, file: Path = FILE) -> list[Tag]:
    """The tags of an algorithm that are newer than a results file.

    Raises:
        ValueError: the algorithm has no tags.
    """
    tags = read_tags(file)
    if algorithm not in tags:
        raise ValueError(f"{algorithm} has results and no tag: add one to benchmarks/{file.name}")
    return [newer for newer in tags[algorithm] if newer.number > tag]


def is_declared_older(name: str, changes: list[Tag]) -> bool:
    """Whether every change after which a results file is older names it."""
    return all(any(fnmatch.fnmatch(name, pattern) for pattern in tag.older) for tag in changes)
