"""Records of a run for a tracking server: as lines that wait, batches, and calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

METRICS_PER_CALL = 900  # the server refuses more than 1000 in one request
PARAMS_PER_CALL = 100
DESCRIPTION = "mlflow.note.content"
DESCRIPTION_LENGTH = 8000
OURS = ("<!-- reverie -->", "<!-- /reverie -->")
"""Around our part of a run's description; what people write before or behind it stays."""

Record = Mapping[str, Any]
"""A line of a spool, parsed: something that the tracking server is to store."""
FIELDS: dict[str, dict[str, Any]] = {
    "metrics": {"values": list},
    "params": {"values": dict},
    "tags": {"values": dict},
    "description": {"text": str},
    "text": {"text": str, "path": str},
    "file": {"source": str, "folder": str | None},
    "dataset": {"dataset": dict},
    "status": {"status": str},
}
"""Kinds of records, and what each holds beside the `run_id`, see `send`."""


def parsed(line: str) -> Record | None:
    """The record that a line holds; None where it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("run_id"), str):
        return None
    fields = FIELDS.get(str(record.get("kind")))
    if fields is None or not all(isinstance(record.get(name), kind) for name, kind in fields.items()):
        return None
    if record["kind"] == "metrics" and not all(
        isinstance(point, list) and _is_point(*point) for point in record["values"]
    ):
        return None
    return record


def _is_point(key: Any = None, value: Any = None, milliseconds: Any = None, step: Any = None, *more: Any) -> bool:
    return isinstance(key, str) and all(type(n) in (int, float) for n in (value, milliseconds, step)) and not more


def batches(records: Iterable[tuple[Record, int]]) -> Iterator[tuple[list[Record], int]]:
    """Records to send together, and the offset behind them.

    Neighbouring metrics become one record per run and at most `METRICS_PER_CALL` values each.
    """
    metrics: dict[str, list[Any]] = {}
    last = 0

    def joined() -> list[Record]:
        return [
            {"kind": "metrics", "run_id": run_id, "values": values[start : start + METRICS_PER_CALL]}
            for run_id, values in metrics.items()
            for start in range(0, len(values), METRICS_PER_CALL)
        ]

    # Metrics wait until a call is full or another kind of record comes, which they must not overtake.
    for record, offset in records:
        if record["kind"] == "metrics":
            values = metrics.setdefault(record["run_id"], [])
            if len(values) + len(record["values"]) > METRICS_PER_CALL and values:
                yield joined(), last
                metrics = {record["run_id"]: (values := [])}
            values.extend(record["values"])
        else:
            if metrics:
                yield joined(), last
                metrics = {}
            yield [record], offset
        last = offset
    if metrics:
        yield joined(), last


def send(client: Any, record: Record) -> None:
    """One record to the server, now.

    Kinds: `metrics` (`values`: list of key, value, milliseconds, step), `params` and `tags` (`values`: mapping),
    `description` (`text`: our part of it, Markdown), `text` (`text`, `path` in the run's artifacts), `file` (`source`
    on this machine, `folder` in the artifacts), `dataset` (`dataset`: fields of an MLflow dataset), `status`.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    run_id = record["run_id"]
    # Names and fields of the kinds stand in `FIELDS`; the server limits what one call may hold.
    match record["kind"]:
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*value) for value in record["values"]])
        case "params":
            params = [Param(k, v) for k, v in record["values"].items()]
            for start in range(0, len(params), PARAMS_PER_CALL):
                client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(k, v) for k, v in record["values"].items()])
        case "description":
            written = client.get_run(run_id).data.tags.get(DESCRIPTION, "")
            client.set_tag(run_id, DESCRIPTION, with_our_part(written, record["text"]))
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


def with_our_part(description: str, text: str) -> str:
    """A run's description with `text` in the place of what was ours; what people wrote stays, up to MLflow's limit."""
    before, begun, rest = description.partition(OURS[0])
    _, ended, after = rest.partition(OURS[1])
    if begun and not ended:  # somebody cut into it
        after = ""
    room = DESCRIPTION_LENGTH - len(before) - len(after) - len("".join(OURS)) - 2
    return f"{before}{OURS[0]}\n{text[: max(room, 0)]}\n{OURS[1]}{after}"
