"""The card of a model: what people have to know of it, from what its run has written down and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.evaluation.report import Score
from callbacks.mlflow.provenance import settings
from commands.run_origin import Start, read_starts
from datamodules.envs.recorded_environment import label

CARD = """\
# Model card: {title}

## Model details
{details}

## Intended use
{use}

## How to use
{how}

## Training data
{data}

## Training procedure
{procedure}

## Evaluation
{evaluation}

## Limits
{limits}

## Licence
{licence}
"""

CODE_LICENCE = "Apache-2.0"
"""As `pyproject.toml` says."""

UNKNOWN = "not recorded"


def card_text(
    run: Path, checkpoint: str, about: Mapping[str, Any], score: Score | None, members: Sequence[Score]
) -> str:
    """The card, as Markdown.

    Args:
        run: folder of the run.
        checkpoint: name of the checkpoint's file.
        about: what the model's `policy.json` says.
        score: how the checkpoint did when the run evaluated it, or None.
        members: how all members of a population did then; none where there is one policy.
    """
    config = settings(run / "config.yaml") if (run / "config.yaml").is_file() else {}
    member = f", member `{about['member']}`" if about["member"] else ""
    return CARD.format(
        title=f"{run.parent.name} / {run.name} / {checkpoint}{member}",
        details=_details(checkpoint, about),
        use=_use(about),
        how=_how(about),
        data=_data(about),
        procedure=_procedure(read_starts(run), config),
        evaluation=_evaluation(about, score, members, config),
        limits=_limits(about, score, len(members)),
        licence=_licence(about),
    )


def _rows(rows: Mapping[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())


def _code(value: object) -> str:
    """A text as code, whatever marks it holds."""
    text = str(value)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _details(checkpoint: str, about: Mapping[str, Any]) -> str:
    form = "`model.onnx`, which takes raw observations: their normaliser is inside"
    if about["not_exported"]:
        form = f"`policy.ckpt`, which `reverie.load` alone plays, for {about['not_exported']}"
    rows = {
        "Algorithm": about["algorithm"],
        "Checkpoint": f"{_code(checkpoint)}, {about['updates']:,} updates, SHA-256 {_code(about['checkpoint_sha256'])}",
        "Member of the population": _code(about["member"]) if about["member"] else "the only one",
        "Form": form,
        "Made with": ", ".join(f"{name} {number}" for name, number in sorted(about["versions"].items())),
    }
    if about["max_difference"] is not None:
        rows["Largest difference to the checkpoint's action"] = f"{about['max_difference']:.1e}, on random observations"
    lines = ["| Input | Type | Shape of a row |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {told['dtype']} | {told['shape']} |" for name, told in about["inputs"].items()]
    return _rows(rows) + "\n\n" + "\n".join(lines) + f"\n\nOutputs: {', '.join(map(_code, about['outputs']))}."


def _use(about: Mapping[str, Any]) -> str:
    played = _environment(about)
    where = (
        f"in {played}" if played else "in the environment that its data are from, which the checkpoint does not name"
    )
    return (
        f"Chooses actions {where}: the most likely action of the policy, without exploration. It is meant for research "
        "and for comparison with other policies there. Nothing was measured in any other environment."
    )


def _environment(about: Mapping[str, Any]) -> str:
    return "" if about["environment"] is None else _code(label(about["environment"]))


def _how(about: Mapping[str, Any]) -> str:
    parts = [
        '```python\nimport reverie\n\npolicy = reverie.load("FOLDER")  # this folder, or models:/NAME@ALIAS\n'
        "action, state = policy.act(observation)  # then policy.act(observation, state)\n```"
    ]
    if not about["not_exported"]:
        parts.append(
            "```\nmlflow models serve --env-manager local --host 127.0.0.1 --port 5001 --model-uri FOLDER\n"
            "curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d @FOLDER/"
            "serving_input_example.json\n```"
        )
        states = [name for name in about["inputs"] if name.startswith("state/")]
        if states:
            parts.append(
                f"An episode begins with the {', '.join(map(_code, states))} of the input example; each answer has the "
                "next ones as `next_state/...`."
            )
    return "\n\n".join(parts)


def _data(about: Mapping[str, Any]) -> str:
    data = about["dataset"] or {}
    if not data:
        played = _environment(about)
        return "No dataset was recorded: " + (f"experience was played in {played}." if played else f"source {UNKNOWN}.")
    rows = {
        "Dataset": _code(data.get("name", UNKNOWN)),
        "SHA-256 of its bytes": _code(data.get("content_hash", UNKNOWN)),
        "Recorded in": _code(data["environment"]) if data.get("environment") else UNKNOWN,
    }
    return _rows(rows)


def _procedure(starts: list[Start], config: Mapping[str, str]) -> str:
    seed = config.get("seed", UNKNOWN)
    if not starts:
        return _rows({"Seed": seed, "Command": UNKNOWN, "Commit": UNKNOWN, "Versions": UNKNOWN})
    last = starts[-1]
    rows = {"Seed": seed, "System": last.system}
    rows["Versions"] = ", ".join(f"{name} {number}" for name, number in sorted(last.versions.items()))
    rows["Settings"] = "the run's `config.yaml`, and the parameters of its page in MLflow"
    told = [
        f"{'Continued' if n else 'Started'} at {start.time}, {_commit(start)}:\n```\n{start.command}\n```"
        for n, start in enumerate(starts)
    ]
    return "\n\n".join([_rows(rows), *told])


def _commit(start: Start) -> str:
    told: dict[str, str] = {}  # by commit: that of the folder that it was started in, and reverie's where it is another
    for whose, name, changed in (("", "commit", "changed"), ("reverie's ", "reverie_commit", "reverie_changed")):
        if name in start.commits:
            differs = " with changes that were not committed" if start.commits.get(changed) == "true" else ""
            told.setdefault(start.commits[name], f"{whose}commit {_code(start.commits[name])}{differs}")
    return " and ".join(told.values()) or f"commit {UNKNOWN}"


def _evaluation(
    about: Mapping[str, Any], score: Score | None, members: Sequence[Score], config: Mapping[str, str]
) -> str:
    if score is None:
        return "The run did not evaluate this checkpoint: no returns are known."
    # How it was measured, and the returns.
    when = "regular evaluation" if score.kind in ("curve", "phase") else "final evaluation"
    amount = f" of {score.count} episodes" if score.count else ""
    lines = [
        f"The run's {when}{amount}, in {_environment(about) or 'its environment'}; intervals are 95% bootstrap "
        "intervals of the mean over these episodes.",
        "",
        "| Score | Mean | Interval |",
        "| --- | ---: | ---: |",
        f"| return | {score.mean:.6g} | {score.low:.6g} .. {score.high:.6g} |",
    ]
    if score.normalized is not None and score.normalized_low is not None and score.normalized_high is not None:
        ends = f"{score.normalized_low:.1f} .. {score.normalized_high:.1f}"
        lines.append(f"| normalised return, % | {score.normalized:.1f} | {ends} |")
    lines += [f"| {name} | {value:.6g} | |" for name, value in score.numbers.items() if math.isfinite(value)]
    data = about["dataset"] or {}
    if score.normalized is not None and data.get("reference_min") is not None:
        lines += [
            "",
            f"0% is a return of {data['reference_min']:.6g}, 100% one of {data['reference_max']:.6g} "
            f"({data.get('reference_source') or UNKNOWN}).",
        ]
    # What they are to be read against.
    if len(members) > 1:
        means = [other.mean for other in members]
        told = f"{sum(means) / len(means):.6g} in the mean, {min(means):.6g} .. {max(means):.6g}"
        lines += ["", f"Returns of all {len(members)} members of the population: {told}."]
    seed = config.get("evaluation.seed")
    return "\n".join([*lines, "", f"Seed of the evaluation's episodes in the config: {seed}."] if seed else lines)


def _limits(about: Mapping[str, Any], score: Score | None, members: int) -> str:
    lines = ["The intervals are over episodes of one policy: they say nothing of other seeds of the training."]
    if score is None:
        lines = ["How well it does is not known."]
    elif score.kind in ("curve", "phase"):
        lines.append("These are episodes by which the run may have chosen this checkpoint: it may look too good.")
    if score is not None and members > 1:
        lines.append(
            f"It is one of {members} members: where it was taken because its return was the best of them, that return "
            "is too good, and the mean of all says more of what another training would bring."
        )
    if about["dataset"]:
        lines.append("It learned from recorded data: where those do not lead, nothing holds its actions.")
    if about["environment"] is not None:
        lines.append("Observations of another range or meaning than the environment's are answered all the same.")
    if "noise" in about["inputs"]:
        lines.append("It draws noise, an input: answers to the same observation differ with it.")
    return "\n".join(f"- {line}" for line in lines)


def _licence(about: Mapping[str, Any]) -> str:
    rows = {"Code (reverie)": CODE_LICENCE, "Weights": f"{UNKNOWN}; whoever publishes them says it"}
    if about["dataset"]:
        rows["Data"] = UNKNOWN
    return _rows(rows)
