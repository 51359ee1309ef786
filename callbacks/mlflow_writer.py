"""All that goes to a tracking server, written by a thread, so that a slow or dead server never holds training."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

METRICS_PER_CALL = 900  # the server refuses more than 1000 in one request
PARAMS_PER_CALL = 100
Record = Mapping[str, Any]
_AWAY = {
    "values": "the MLflow tracking server is away; training goes on and its records are",
    "files": "MLflow does not take files; training goes on and their names are",
}


class BackgroundWriter:
    """Sends records to one tracking server, in order; what cannot be sent is spooled to a file and sent later.

    A record is a JSON-able mapping with `kind`, `run_id` and the fields of that kind, see `send`. While the server is
    away, records are appended to the spool, and it is tried again every `retry_seconds` and at each `flush`; when it
    answers, also in a later process that continues the run, the spool is sent first. Files may go to another place than
    metrics, so either can be away without the other. Records that the server understands and refuses go to
    `mlflow-rejected.jsonl` beside the spool.

    Args:
        client: `MlflowClient` of the tracking server.
        spool: file that takes the records of a server that is away.
        retry_seconds: pause between two attempts to reach it.
    """

    def __init__(self, client: Any, spool: Path, retry_seconds: float = 30.0) -> None:
        self._client = client
        self._spool = spool
        self._rejected = spool.with_name("mlflow-rejected.jsonl")
        self._retry_seconds = retry_seconds
        # When to try again what failed; at first both, as an earlier process of the run may have left a spool.
        self._retry_at = dict.fromkeys(_AWAY, 0.0)
        self._queue: queue.SimpleQueue[Record | threading.Event] = queue.SimpleQueue()
        self._in_hand: list[Record] = []
        self._file_lock = threading.Lock()
        self._warned: set[str] = set()
        threading.Thread(target=self._run, name="mlflow-writer", daemon=True).start()

    def put(self, record: Record) -> None:
        """Hand over one record; returns at once."""
        self._queue.put(record)

    def flush(self, timeout: float) -> bool:
        """Wait until all records are sent or spooled; after `timeout` seconds spool what still waits.

        Returns:
            Whether the writer was done in time.
        """
        done = threading.Event()
        self._queue.put(done)
        if done.wait(timeout):
            return True
        waiting = [record for record in self._waiting() if not isinstance(record, threading.Event)]
        self._append(self._spool, [*self._in_hand, *waiting])
        self._warn_once("late", f"the MLflow tracking server did not answer in time; the rest is kept in {self._spool}")
        return False

    def _run(self) -> None:
        while True:
            batch: list[Record] = []
            for record in (self._queue.get(), *self._waiting()):
                if isinstance(record, threading.Event):
                    self._write(batch)
                    batch = []
                    self._retry_at = dict.fromkeys(self._retry_at, 0.0)
                    self._write(batch)
                    record.set()
                else:
                    batch.append(record)
            self._write(batch)

    def _waiting(self) -> Iterator[Record | threading.Event]:
        while True:
            try:
                yield self._queue.get_nowait()
            except queue.Empty:
                return

    def _write(self, records: list[Record]) -> None:
        """Send records, after those of the spool when it is time to; what cannot be sent goes to the spool."""
        due = {channel for channel, at in self._retry_at.items() if time.monotonic() >= at}
        spooled, lines = self._read_spool() if due else ([], 0)
        self._in_hand = records
        for channel in due:
            del self._retry_at[channel]
        left = []
        for record in merge([*spooled, *records]):
            channel = "files" if record["kind"] in ("text", "file") else "values"
            if channel not in self._retry_at:
                try:
                    self._send(record)
                    continue
                except Exception as error:  # the border to a network: whatever happens there must not reach training
                    self._retry_at[channel] = time.monotonic() + self._retry_seconds
                    reason = f"{type(error).__name__}: {str(error)[:200]}"
                    self._warn_once(channel, f"{_AWAY[channel]}, kept in {self._spool} until it can ({reason})")
            left.append(record)
        if lines:
            self._replace_spool(lines, left)
        else:
            self._append(self._spool, left)
        self._in_hand = []

    def _send(self, record: Record) -> None:
        from mlflow.exceptions import MlflowException

        try:
            send(self._client, record)
        except MlflowException as error:
            if error.get_http_status_code() not in (400, 404):
                raise
            self._append(self._rejected, [record])
            self._warn_once("refused", f"MLflow refuses {record['kind']}, kept in {self._rejected}: {str(error)[:200]}")

    def _read_spool(self) -> tuple[list[Record], int]:
        """The spooled records, and the number of lines; a line that a crash cut short goes to the rejected ones."""
        if not self._spool.exists():
            return [], 0
        with self._file_lock:
            lines = self._spool.read_text().splitlines()
        records: list[Record] = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                self._append(self._rejected, [{"kind": "damaged", "line": line}])
        return records, len(lines)

    def _replace_spool(self, read: int, left: list[Record]) -> None:
        """Put `left` in place of the first `read` lines; a `flush` that ran out of time may have added more."""
        with self._file_lock:
            lines = self._spool.read_text().splitlines(keepends=True) if self._spool.exists() else []
            text = "".join([*(json.dumps(record) + "\n" for record in left), *lines[read:]])
            aside = self._spool.with_name(f".{self._spool.name}.tmp")
            aside.write_text(text)
            os.replace(aside, self._spool)
            if not text:
                self._spool.unlink()

    def _append(self, path: Path, records: Iterable[Record]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        if text:
            with self._file_lock, path.open("a") as file:
                file.write(text)

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            rank_zero_warn(message)


def merge(records: Iterable[Record]) -> Iterator[Record]:
    """Join neighbouring metric records of the same run into one record of at most `METRICS_PER_CALL` values."""
    metrics: dict[str, list[Any]] = {}

    def drain() -> Iterator[Record]:
        for run_id, values in metrics.items():
            for start in range(0, len(values), METRICS_PER_CALL):
                yield {"kind": "metrics", "run_id": run_id, "values": values[start : start + METRICS_PER_CALL]}
        metrics.clear()

    for record in records:
        if record["kind"] == "metrics":
            metrics.setdefault(record["run_id"], []).extend(record["values"])
        else:
            yield from drain()
            yield record
    yield from drain()


def send(client: Any, record: Record) -> None:
    """One record to the server, now.

    Kinds: `metrics` (`values`: list of key, value, milliseconds, step), `params` and `tags` (`values`: mapping), `text`
    (`text`, `path` in the run's artifacts), `file` (`source` on this machine, `folder` in the artifacts), `dataset`
    (`dataset`: fields of an MLflow dataset), `status`.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    run_id = record["run_id"]
    match record["kind"]:
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*value) for value in record["values"]])
        case "params":
            params = [Param(k, v) for k, v in record["values"].items()]
            for start in range(0, len(params), PARAMS_PER_CALL):
                client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(k, v) for k, v in record["values"].items()])
        case "text":
            client.log_text(run_id, record["text"], record["path"])
        case "file":
            client.log_artifact(run_id, record["source"], record["folder"])
        case "dataset":
            tags = [InputTag("mlflow.data.context", "training")]
            client.log_inputs(run_id, [DatasetInput(Dataset(**record["dataset"]), tags)])
        case "status":
            client.set_terminated(run_id, record["status"])
        case kind:
            raise AssertionError(f"unknown kind of record: {kind}")
