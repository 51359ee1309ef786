"""Runs that are compared: what was scored, what may not differ between them, and which of them are seeds of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from callbacks.evaluation.report import Score
from datamodules.envs.recorded_environment import bare_environment, label
from modules.trust.names import short

Difference = Literal["environment", "data", "yardstick", "evaluation"]
"""Kinds of differences between compared runs that can be allowed."""

SETTINGS = ("episodes", "final_episodes", "seed", "max_episode_steps")
"""Arguments of the evaluation that change what a score means."""

WITHOUT_MEANING = (
    "checkpoint.every_n_updates", "data.init_args.cache_dir", "data.init_args.folder", "evaluation.",
    "trainer.default_root_dir", "trainer.enable_", "trainer.logger", "trainer.profiler",
)  # fmt: skip
"""Beginnings of settings that change no training, or are compared apart."""

ROOTS = ("checkpoint", "data", "evaluation", "model", "seed_everything", "trainer", "weights_from")
"""First parts of settings; what else a page of MLflow has are arguments of the agent by their own names."""

OF_TASKS = ("data.init_args.environment", "data.init_args.source", "data.init_args.wrappers")
"""Beginnings of settings that differ between tasks."""

SEEDS = ("seed", "seeds", "seed_everything")
"""Last parts of settings that tell runs of one config apart."""

PAIRS = 4
"""Most settings in a name."""


class Task(NamedTuple):
    """Environment and data that an agent is trained and scored on.

    Attributes:
        environment: name of the environment of its episodes, for people.
        identity: all of its description, as text.
        data: name of the recorded data; empty without any.
        content_hash: of the recorded data; empty without any.
    """

    environment: str
    identity: str
    data: str
    content_hash: str

    @property
    def label(self) -> str:
        """The data, which name their environment, or the environment."""
        return self.data or self.environment

    @staticmethod
    def of(environment: Mapping[str, Any] | None, data: str | None, content_hash: str | None, place: str) -> Task:
        """The task of an environment, in the form of `EnvironmentSpec.to_plain`, and of a dataset, if there is one.

        An environment that is not known is another one in each place.
        """
        if environment is None:
            return Task("unknown", f"unknown in {place}", data or "", content_hash or "")
        identity = json.dumps(bare_environment(environment), sort_keys=True, default=str)
        return Task(label(environment), identity, data or "", content_hash or "")


@dataclass(frozen=True)
class ComparedRun:
    """One run, or one member of a population.

    Attributes:
        place: where it is, for people.
        settings: its resolved config, flat, as texts.
        member: name of the member; empty of a run that is one.
        task: what it is trained and scored on.
        yardstick: references that its returns are measured between, as text; `none` without any.
        scores: its scores in the order of training.
        seconds: pairs of updates and the seconds of training until then; empty where nobody logged them.
        started: a text that sorts runs by their start.
    """

    place: str
    settings: Mapping[str, str]
    member: str
    task: Task
    yardstick: str
    scores: Sequence[Score]
    seconds: Sequence[tuple[int, float]]
    started: str

    @property
    def name(self) -> str:
        """Place, and the member."""
        return f"{self.place} {self.member}".strip()

    @property
    def agent(self) -> str:
        """Name of the agent's class."""
        return self.settings.get("model.class_path", "agent").rpartition(".")[2]

    @property
    def chosen(self) -> dict[str, str]:
        """Settings that make this run what it is, whatever its seed; those of a member stand in their place."""
        own = dict(part.split("=", 1) for part in self.member.split("/") if "=" in part)
        given = dict(self.settings) | {f"model.init_args.{name}": value for name, value in own.items()}
        return {
            name: plain(value)
            for name, value in given.items()
            if name.partition(".")[0] in ROOTS
            and not name.startswith(WITHOUT_MEANING)
            and name.rpartition(".")[2] not in SEEDS
        }

    @property
    def seeds(self) -> tuple[str, ...] | None:
        """All seeds of the run and of the member, or None where chance chose one."""
        if not self.settings.get("seed_everything", "").isdigit():
            return None
        parts = [(name.partition(".")[0], name.rpartition(".")[2], value) for name, value in self.settings.items()]
        found = sorted(f"{root}.{last}={value}" for root, last, value in parts
                       if last in SEEDS and root in ROOTS and root != "evaluation")  # fmt: skip
        return (*found, *(part for part in self.member.split("/") if part.startswith("seed=")))

    def rows(self, kind: str) -> list[Score]:
        """Its scores of one kind."""
        return [score for score in self.scores if score.kind == kind]


def plain(text: str) -> str:
    """A setting in one form: numbers by their value, and a list of one as the one."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else json.dumps(value)


def check_comparable(runs: Sequence[ComparedRun], across: Sequence[Difference]) -> None:
    """Refuse runs whose scores do not mean the same, unless that was asked for; yardsticks are compared within tasks.

    Raises:
        ValueError: it names what differs, in which runs, and how to compare them all the same.
    """
    found: dict[Difference, dict[str, list[ComparedRun]]] = {}
    for run in runs:
        evaluated = ", ".join(f"{name} {run.settings.get(f'evaluation.{name}', 'unknown')}" for name in SETTINGS)
        meaning: dict[Difference, str] = {
            "environment": run.task.identity, "data": run.task.content_hash, "evaluation": evaluated,
        }  # fmt: skip
        for kind, text in meaning.items():
            found.setdefault(kind, {}).setdefault(text, []).append(run)
    wrong = [_differs(kind, kinds) for kind, kinds in found.items() if kind not in across and len(kinds) > 1]
    refused = [kind for kind, kinds in found.items() if kind not in across and len(kinds) > 1]
    # References of other environments are others.
    for task in dict.fromkeys(run.task for run in runs):
        yardsticks: dict[str, list[ComparedRun]] = {}
        for run in (one for one in runs if one.task == task):
            yardsticks.setdefault(run.yardstick, []).append(run)
        if len(yardsticks) > 1 and "yardstick" not in (*across, *refused):
            wrong.append(_differs("yardstick", yardsticks))
            refused.append("yardstick")
    if wrong:
        raise ValueError(
            f"these runs are not comparable: {'; '.join(wrong)}. Compare fewer of them, or say what may differ with "
            f"--across '[{', '.join([*across, *refused])}]'"
        )


def _differs(kind: Difference, runs: Mapping[str, Sequence[ComparedRun]]) -> str:
    def told(text: str, some: Sequence[ComparedRun]) -> str:
        task = some[0].task
        name = {"environment": task.environment, "data": task.data or "none"}.get(kind, text)
        return f"{short(name, 80)} in {short(some[0].name, 80)}{f' and {len(some) - 1} more' if some[1:] else ''}"

    names = [told(text, some) for text, some in runs.items()]
    return f"{kind} differs: {' / '.join(names[:3])}{' / ...' if names[3:] else ''}"


def without_repetitions(runs: Sequence[ComparedRun]) -> tuple[list[ComparedRun], list[ComparedRun]]:
    """The runs without those of the same settings, task and seeds as a newer one, which are not independent; and those.

    Runs whose seed chance has chosen all stay.
    """
    newest: dict[object, ComparedRun] = {}
    for number, run in enumerate(runs):
        same = number if run.seeds is None else (run.seeds, run.task, *sorted(run.chosen.items()))
        if same not in newest or newest[same].started < run.started:
            newest[same] = run
    kept = {id(run) for run in newest.values()}
    return [run for run in runs if id(run) in kept], [run for run in runs if id(run) not in kept]


def grouped(runs: Sequence[ComparedRun], by: Sequence[str]) -> dict[str, list[ComparedRun]]:
    """Runs by the settings that they share, under names that tell what differs.

    Args:
        runs: all of them.
        by: settings that make a group, by their whole name or its last parts; empty for all that differ, where those of
            a task count only if all runs are of one task.

    Raises:
        ValueError: no run has such a setting.
    """
    chosen = [run.chosen for run in runs]
    differing = [name for name in dict.fromkeys(k for one in chosen for k in one)
                 if len({one.get(name) for one in chosen}) > 1]  # fmt: skip
    if len({run.task for run in runs}) > 1:
        differing = [name for name in differing if not name.startswith(OF_TASKS)]
    if by:
        known = list(dict.fromkeys(name for one in chosen for name in one))
        differing = [name for wanted in by for name in _meant(wanted, known)]
    # Groups, then the names: within a class of agents, for another class has other arguments.
    groups: dict[tuple[str | None, ...], list[ComparedRun]] = {}
    for run, settings in zip(runs, chosen, strict=True):
        groups.setdefault(tuple(settings.get(name) for name in differing), []).append(run)
    named: dict[str, list[ComparedRun]] = {}
    for key, members in groups.items():
        peers = [other for other, them in groups.items() if them[0].agent == members[0].agent]
        told = [(name, value) for place, (name, value) in enumerate(zip(differing, key, strict=True))
                if len({peer[place] for peer in peers}) > 1]  # fmt: skip
        label = _label(members[0].agent, told, differing)
        same = sum(name.partition(" #")[0] == label for name in named)
        named[f"{label} #{same + 1}" if same else label] = members
    return named


def _meant(wanted: str, known: Iterable[str]) -> list[str]:
    bare = wanted.replace("init_args.", "")
    found = [name for name in known if f".{name.replace('init_args.', '')}".endswith(f".{bare}")]
    if not found:
        raise ValueError(f"--by {short(wanted)}: no run has such a setting; take one of its config, such as model.lr")
    return found


def _label(agent: str, told: Sequence[tuple[str, str | None]], differing: Sequence[str]) -> str:
    """`A2C lr=0.001`: last parts of the names where they suffice."""
    lasts = [name.rpartition(".")[2] for name in differing]
    pairs = []
    for name, value in told:
        last = name.rpartition(".")[2]
        if last == "class_path":
            pairs.append(short((value or "none").rpartition(".")[2], 40))
        else:
            key = last if lasts.count(last) == 1 else name.removeprefix("model.").replace("init_args.", "")
            pairs.append(f"{key}={'none' if value is None else short(value.strip(chr(34)), 40)}")
    more = [f"and {len(pairs) - PAIRS} more"] if len(pairs) > PAIRS else []
    return " ".join([agent, *pairs[:PAIRS], *more])
