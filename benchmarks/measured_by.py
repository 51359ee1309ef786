"""How a result was measured: commit, versions, processor, data and command, in one form for all benchmarks.

`origin()` is a part of every results file that is made from now on. Files that are older lack it, and
`evidence_sources.py` says of them what can be known.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from code_tags import newest_tags, tags_at

from callbacks.mlflow.provenance import MEASURED, git_state, package_versions
from commands.run_origin import read_starts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / MEASURED


def processor() -> str:
    """Model name of the CPU, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def origin(
    runs: Sequence[Path] = (), data: Mapping[str, str] | None = None, seeds: Sequence[int] | None = None
) -> dict[str, Any]:
    """How figures come about that are measured now, or were measured by runs that are read back.

    Args:
        runs: folders of the runs of `reverie fit` that were measured, which tell the commits that they ran at;
            without any it is the commit of the files beside this one.
        data: SHA-256 by the name of a dataset.
        seeds: seeds, where no row tells its own.

    Returns:
        `command` without folders of this machine; `commits`, each once, with `changed` for whether tracked files
        differed from one of them; `versions` of packages; `processor`; `data`; `seeds` where they are given; and
        `tags`, the newest ones of the code at the oldest of these commits (`code_tags.py`).
    """
    told = [start for folder in runs for start in read_starts(folder)]
    here = git_state(ROOT, besides=MEASURED)
    # A run may have gone on at another commit than it began at: all of them count.
    pairs = [(s.commits["reverie_commit"], s.commits["reverie_changed"]) for s in told if "reverie_commit" in s.commits]
    if not runs and here is not None:
        pairs = [here[1:]]
    # Without runs the files beside this one are what was measured, be they committed or not.
    tags = newest_tags() if not runs else tags_at(pairs[0][0]) if pairs else {}
    found = {
        "command": shown_command(),
        "commits": list(dict.fromkeys(commit for commit, _ in pairs)),
        "changed": any(changed == "true" for _, changed in pairs),
        "versions": told[-1].versions if told else package_versions(),
        "processor": processor(),
        "data": dict(data or {}),
        "tags": tags,
    }
    return found if seeds is None else found | {"seeds": list(seeds)}


def shown_command() -> str:
    """The command line of this process; of places on this machine the names alone."""
    script = Path(sys.argv[0]).name
    program = ["python", f"benchmarks/{script}"] if (ROOT / "benchmarks" / script).is_file() else ["reverie"]
    return shlex.join([*program, *(without_folders(word) for word in sys.argv[1:])])


def without_folders(word: str) -> str:
    """A word of a command line; an absolute path is its last part."""
    return Path(word).name if word.startswith("/") else word


def tell(record: Mapping[str, Any]) -> None:
    """Print a line of `results/*.jsonl`: a record, and how it was measured."""
    print(json.dumps({**record, "origin": origin()}), flush=True)
