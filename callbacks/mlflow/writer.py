"""All that goes to a tracking server, sent by a thread, so that a slow or dead server never holds training."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from callbacks.mlflow.faults import Fault
from callbacks.mlflow.records import Record, batches, parsed, send
from callbacks.mlflow.spool import Spool
from modules.trust.names import short

VALUES, FILES = "mlflow-spool.jsonl", "mlflow-files.jsonl"
"""Spools in a run's folder: of values, and of names of files."""
_QUIET_SECONDS = 0.5
"""Without an answer, after which a store is asked whether it is there at all."""


class Lane:
    """Records for one kind of store, which wait in a spool.

    Args:
        name: `files` or `values`.
        spool: spool that they wait in.
    """

    def __init__(self, name: str, spool: Spool) -> None:
        self.name = name
        self.spool = spool
        self.retry_at = 0.0  # by the monotonic clock; at first now, as an earlier process may have left records


class BackgroundWriter:
    """Sends records to one tracking server, in order, from files on disk.

    A record is a JSON-able mapping with `kind`, `run_id` and the fields of that kind, see `send`. `put` writes it to a
    spool, from which a thread sends it; what was sent leaves the spool. So neither a killed process nor a server that
    is away loses any, and a server that accepts and never answers holds nothing up. After a crash the last records may
    be sent again; MLflow's databases keep metrics of equal name, step, time and value once.

    While the server is away, it is tried again every `retry_seconds` and at each `flush`, also by a later process that
    continues the run. Files may go to another place than metrics and have a spool of their own, so either can be away
    without the other; they go first, so that a run's end comes last. Records that the server understands and refuses
    go to `mlflow-rejected.jsonl` beside the spools, as do files outside the folder that an earlier process wanted to
    send: who made the folder could name any file of this machine.

    Args:
        client: `MlflowClient` of the tracking server.
        folder: takes the spools `mlflow-spool.jsonl` and, for files, `mlflow-files.jsonl`.
        retry_seconds: pause between two attempts to reach it.
        renamed: ids of runs that took the place of others, by the ids of those.
        check: raises an `OSError` where it is known without asking that the store is away.
        settle: returns when what was sent outlives the machine; only then it leaves the spool.
        probe: asks the store for a sign of life, and raises a `ValueError` where it gives none within seconds.
        fault: the fault of a disk of this machine that an error of the store, or of `probe`, comes from, if any.
    """

    def __init__(
        self,
        client: Any,
        folder: Path,
        retry_seconds: float = 30.0,
        renamed: Mapping[str, str] | None = None,
        check: Callable[[], None] = lambda: None,
        settle: Callable[[], None] = lambda: None,
        probe: Callable[[], None] = lambda: None,
        fault: Callable[[Exception], Fault | None] = lambda _: None,
    ) -> None:
        self._client = client
        self._check = check
        self._settle = settle
        self._probe = probe
        self._fault = fault
        self._answers = 0
        self._folder = folder.resolve()
        self._own_files: set[str] = set()
        self._rejected = folder / "mlflow-rejected.jsonl"
        self._retry_seconds = retry_seconds
        self._renamed = dict(renamed or {})
        self._values = Lane("values", Spool(folder / VALUES))
        self._files = Lane("files", Spool(folder / FILES))
        self._lanes = (self._files, self._values)
        self._awake = threading.Event()
        self._awake.set()
        self._asked: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
        self._warned: set[str] = set()
        threading.Thread(target=self._run, name="mlflow-writer", daemon=True).start()

    def put(self, record: Record) -> None:
        """Write one record to its spool; does not wait for the server."""
        lane = self._files if record["kind"] in ("text", "file") else self._values
        if record["kind"] == "file":
            self._own_files.add(record["source"])
        lane.spool.append(json.dumps(record))
        self._awake.set()

    def secure(self) -> None:
        """Return when the disk has all records that were put and are not sent."""
        for lane in self._lanes:
            lane.spool.secure()

    def flush(self, timeout: float) -> bool:
        """Try to send all now; what is not sent stays in the spools.

        This waits for `timeout` seconds at most, and no longer than the store lives: half a second without an answer,
        and it is asked for a sign of life.

        Returns:
            Whether the server answered in time, if only to refuse.
        """
        done = threading.Event()
        self._asked.put(done)
        self._awake.set()
        end = time.monotonic() + timeout
        while not (in_time := self._answered(done, end)):
            late = time.monotonic() >= end
            ill = None if late else self._illness()
            if late or ill is not None:
                fault = None if ill is None else self._fault(ill)
                why = "the MLflow store did not answer in time" if fault is None else fault.what
                self._warn_once("away", f"{why}; the rest is kept in {self._folder}{_until(fault)}")
                break
        if in_time and self.empty():
            for lane in self._lanes:
                lane.spool.close()
        return in_time

    def empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return all(lane.spool.empty() for lane in self._lanes)

    def _answered(self, done: threading.Event, end: float) -> bool:
        """Wait until all is done, for as long as each half second brings an answer."""
        before = -1
        while before < self._answers and not done.is_set() and time.monotonic() < end:
            before = self._answers
            done.wait(min(_QUIET_SECONDS, max(0.0, end - time.monotonic())))
        return done.is_set()

    def _illness(self) -> Exception | None:
        """Why the store gives no sign of life; None where it does."""
        try:
            self._probe()
        except ValueError as error:
            return error
        return None

    def _run(self) -> None:
        while True:
            waiting = [lane.retry_at for lane in self._lanes if not lane.spool.empty()]
            self._awake.wait(max(0.0, min(waiting) - time.monotonic()) if waiting else None)
            self._awake.clear()
            asked = []
            while not self._asked.empty():
                asked.append(self._asked.get())
            for lane in self._lanes:
                if asked or time.monotonic() >= lane.retry_at:
                    try:
                        self._empty(lane)
                    except OSError as error:  # a full disk: the thread must outlive it
                        self._postpone(lane, error)
            for done in asked:
                done.set()

    def _empty(self, lane: Lane) -> None:
        """Send what waits in a spool, until the store fails."""
        while lines := lane.spool.read():
            for records, offset in batches(self._parsed(lines)):
                for record in records:
                    if not self._sent(lane, record):
                        return
                self._settle()
                lane.spool.mark(offset)

    def _parsed(self, lines: Iterable[tuple[str, int]]) -> Iterator[tuple[Record, int]]:
        """The records of lines; a line that a crash cut short goes to the rejected ones."""
        for line, offset in lines:
            yield parsed(line) or {"kind": "damaged", "line": line}, offset

    def _sent(self, lane: Lane, record: Record) -> bool:
        """Send one record, or put aside what can never be sent; False when it has to wait."""
        from mlflow.exceptions import MlflowException

        refusal = None
        if record["kind"] == "damaged":
            refusal = "a line that a crash cut short, or somebody changed"
        elif record["kind"] == "file" and (objection := self._objection(record["source"])) is not None:
            refusal = objection
        else:
            try:
                self._check()
                run_id = record["run_id"]
                send(self._client, {**record, "run_id": self._renamed.get(run_id, run_id)})
                self._answers += 1
            except Exception as error:  # the border to a network: whatever happens there must not reach training
                if not isinstance(error, MlflowException) or error.get_http_status_code() != 400:
                    self._postpone(lane, error)
                    return False
                refusal = str(error)[:200]
        if refusal is not None:
            with self._rejected.open("a") as file:
                file.write(json.dumps(record) + "\n")
            kept = f"kept in {self._rejected}"
            self._warn_once("refused", f"MLflow cannot take a record of {record['kind']}, {kept}: {refusal}")
        return True

    def _objection(self, source: str) -> str | None:
        """Why a file is not sent, or None."""
        if "\0" in source or not Path(source).is_file():
            return f"{short(source)} is gone"
        if source in self._own_files or Path(source).resolve().is_relative_to(self._folder):
            return None
        return f"{short(source)} lies outside {self._folder}; log it yourself, if it belongs to the run"

    def _postpone(self, lane: Lane, error: Exception) -> None:
        lane.retry_at = time.monotonic() + self._retry_seconds
        if "away" in self._warned:
            return
        fault = self._fault(error)
        records = "names of its files" if lane is self._files else "its records"
        kept = f"{records} are kept in {lane.spool.path}{_until(fault)}"
        if fault is not None:
            self._warn_once("away", f"{fault.what}; training goes on, and {kept}")
            return
        # Of a server that is away files may be the first to fail: only one that lives does not take them.
        of_files = lane is self._files and self._illness() is None
        why = "MLflow does not take files" if of_files else "the MLflow store is away"
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self._warn_once("away", f"{why}; training goes on, and {kept} ({reason})")

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            rank_zero_warn(message)


def _until(fault: Fault | None) -> str:
    """Until when records wait, and the way to end that."""
    if fault is None:
        return " until it is back, or `reverie sync` sends them"
    return f": {fault.fix}, {fault.then}"


def waiting_records(folder: Path) -> Iterator[Record]:
    """Metrics, parameters and the like that an earlier process of the run left unsent."""
    spool = Spool(folder / VALUES)
    lines = spool.read()
    while lines:
        for line, _ in lines:
            if (record := parsed(line)) is not None:  # else the writer puts it aside
                yield record
        lines = spool.read(lines[-1][1])
    spool.close()
