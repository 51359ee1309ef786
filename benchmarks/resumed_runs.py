"""Trainings by `reverie fit` that a benchmark can be cut in, each in a folder of its own.

One that has ended is read back from its folder; one that was cut goes on at its last checkpoint. The folder's name
holds a hash of all that decides the numbers, such as arguments, presets and the data's content; who changes the code
and wants other numbers removes the folder.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from callbacks.files.written_aside import written_aside
from commands.run_directory import LOCK, holder

FACTS = "cell.json"
REFUSED = 2
"""Exit status of a run that the agent or the data refuse."""
LOG_SECONDS = 30.0
PROGRESS = re.compile(r"^\s*(?:\d+% )?([\d,]+) of ([\d,]+) updates, (.*)")


def key_of(*decisive: Any) -> str:
    """Eight characters that are others where any of these plain values is another."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]


def finished(folder: Path, arguments: Sequence[str], threads: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Facts of a run that was brought to its end, unless it had ended before: arguments as those of `fit`."""
    facts = read_facts(folder)
    return facts if facts["status"] == "done" else fit(folder, arguments, facts["seconds"], threads, tell)


def read_facts(folder: Path) -> dict[str, Any]:
    """How a run stands, by its file; one that has none has not begun."""
    path = folder / FACTS
    return json.loads(path.read_text()) if path.is_file() else {"status": "waiting", "reason": "", "seconds": 0.0}


def fit(
    folder: Path, arguments: Sequence[str], seconds: float, threads: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """One `reverie fit`, which begins or goes on in this folder; what it prints is kept in `log.txt`.

    Args:
        folder: folder of the run.
        arguments: its arguments.
        seconds: seconds that earlier starts took.
        threads: threads of torch.
        tell: receives a line about the progress now and then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wait_for_holder(folder, tell)
    facts = {"status": "unfinished", "reason": "interrupted", "seconds": seconds}
    started = time.monotonic()

    def note(**changed: Any) -> None:
        facts.update(changed, seconds=seconds + time.monotonic() - started)
        with written_aside(folder / FACTS) as aside:
            aside.write_text(json.dumps(facts) + "\n")

    note()
    # A plain file of numbers instead of MLflow's store: what is read here must not need a server.
    log = ["--trainer.logger", "pytorch_lightning.loggers.CSVLogger", "--trainer.logger.save_dir", str(folder)]
    command = [sys.executable, "-m", "reverie", "fit", *arguments, *log, "--trainer.logger.name", "metrics"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "REVERIE_RUN_DIR": str(folder)}
    process = subprocess.Popen(
        [*command, "--ckpt_path", "last"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    last: list[str] = []
    try:
        assert process.stdout is not None
        spoken, first = started, None
        with (folder / "log.txt").open("a") as file:
            for line in process.stdout:
                file.write(line)
                file.flush()
                last = [*last, line.strip()][-20:]
                now, found = time.monotonic(), PROGRESS.match(line)
                if found is not None:
                    done, total = (int(text.replace(",", "")) for text in found.groups()[:2])
                    first = first or (now, done)
                    if now - spoken > LOG_SECONDS:
                        spoken = now
                        note()
                        tell(f"{done:,} of {total:,} updates, {found[3]}{time_left(first, (now, done), total)}")
        status = process.wait()
    except BaseException:
        process.terminate()  # it writes its checkpoint
        process.wait()
        note()
        raise
    reason = next((line for line in reversed(last) if "error" in line.lower()), last[-1] if last else "no output")
    kind = {0: "done", REFUSED: "refused"}.get(status, "failed")
    note(status=kind, reason="" if status == 0 else reason.removeprefix("reverie: error: ")[:400])
    return facts


def wait_for_holder(folder: Path, tell: Callable[[str], None]) -> None:
    """Wait until nobody trains in a folder: a run outlives a call that was killed, and would be gone on with twice."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"{holder(folder)} trains here, left by a call that was killed: waiting for it; end it to go on now")
        lock.acquire(poll_interval=1.0)
    lock.release()


def time_left(first: tuple[float, int], now: tuple[float, int], total: int) -> str:
    """`, about 12 min left`, from the speed between two moments, each in seconds and updates."""
    if now[1] <= first[1]:
        return ""
    return f", about {(total - now[1]) * (now[0] - first[0]) / (now[1] - first[1]) / 60:.0f} min left"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open() as file:
        return [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def number(text: str) -> float | str:
    """A CSV cell as a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def log(text: str) -> None:
    """One line with the time."""
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)
