"""How a run was started, in its folder: commands, commits and versions, for those who are given what it made."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.files.written_aside import written_aside
from callbacks.mlflow.provenance import origin_tags, package_versions
from modules.trust.files import read_json_object
from modules.trust.hints import fits

ORIGIN = "origin.json"
"""File of a run's folder that tells its starts."""

_COMMITS = {
    "mlflow.source.git.commit": "commit",
    "git.dirty": "changed",
    "reverie/git_commit": "reverie_commit",
    "reverie/git_dirty": "reverie_changed",
}


class Start(NamedTuple):
    """One start of a run.

    Attributes:
        time: when, in UTC.
        command: the command line, without passwords.
        system: operating system and processor.
        commits: `commit` of the repository that it was started in and `reverie_commit` of this project, each with
            whether tracked files differed (`changed`, `reverie_changed`: `true` or `false`), where there are such.
        versions: of the packages whose change may change results, and of python.
    """

    time: str
    command: str
    system: str
    commits: dict[str, str]
    versions: dict[str, str]


def add_start(folder: Path, command: str) -> None:
    """Tell of a start in a run's folder; one that differs from the last in nothing but the time is not told again."""
    tags = origin_tags(command)
    commits = {name: tags[tag] for tag, name in _COMMITS.items() if tag in tags}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = Start(now, tags["command"], platform.platform(), commits, package_versions())
    try:
        before = read_starts(folder)
    except ValueError:  # damaged: what it told is lost, and must not keep the run from going on
        before = []
    if before and before[-1]._replace(time=now) == new:
        return
    content = {"starts": [start._asdict() for start in (*before, new)]}
    with written_aside(folder / ORIGIN) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")


def read_starts(folder: Path) -> list[Start]:
    """The starts of a run that its folder tells; none where it tells nothing.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / ORIGIN
    if not path.is_file():
        return []
    told: Any = read_json_object(path).get("starts")
    if not fits(told, list[dict[str, Any]]) or not all(_is_start(one) for one in told):
        raise ValueError(f"{path} is damaged: move it away, and nothing is told of the run's starts")
    return [Start(**one) for one in told]


def _is_start(one: dict[str, Any]) -> bool:
    texts = all(isinstance(one.get(name), str) for name in ("time", "command", "system"))
    return (
        one.keys() == set(Start._fields)
        and texts
        and all(fits(one[n], dict[str, str]) for n in ("commits", "versions"))
    )
