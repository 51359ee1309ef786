"""The environment in which a dataset was recorded, as a file describes it, and the changes that a user asks for.

A description is plain: `{id, arguments, wrappers: [{class_path, init_args}]}`, see `EnvironmentSpec.to_plain`. The
`init_args` of a wrapper that did not keep its arguments are None: it is known by name and cannot be made again. Nothing
here imports what a file names; `Changes.on_recorded` makes an `EnvironmentSpec` of it, which does, as far as it may.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym

from datamodules.envs.from_file import checked_id, read_plain, wrapper_from_file
from datamodules.envs.make import EnvironmentSpec
from modules.trust.names import short

Plain = dict[str, Any]

LEFT_OUT = ("RecordEpisodeStatistics", "RecordVideo", "HumanRendering", "RenderCollection", "DataCollector")
"""Wrappers of gymnasium and Minari that watch an environment and change nothing about its steps."""

STATEFUL = ("NormalizeObservation", "NormalizeReward")
"""Wrappers of gymnasium whose running statistics no file holds."""

WITHOUT_MEANING = ("render_mode", "disable_env_checker")
"""Arguments of `gymnasium.make` that change nothing about the steps."""


def bare_id(id: str) -> str:
    """A gymnasium id without the package that registers it: `Maze-v0` of `mazes:Maze-v0`."""
    return id.rpartition(":")[2]


def same_environment(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of one environment, however it is shown, and whether its package is named or not."""
    return bare_environment(one) == bare_environment(other)


def bare_environment(plain: Mapping[str, Any]) -> Plain:
    """A description without what changes nothing about the steps, which is the same for the same environment."""
    arguments = {name: value for name, value in plain["arguments"].items() if name not in WITHOUT_MEANING}
    return {**plain, "id": bare_id(plain["id"]), "arguments": arguments}


def check_recorded(name: str, recorded: str | None, environment: str) -> None:
    """Refuse to use a dataset with an environment that it was not recorded in.

    Args:
        name: name of the dataset.
        recorded: id of its environment; None if it names none.
        environment: id of the environment that the user asks for.

    Raises:
        ValueError: the ids differ.
    """
    if recorded is not None and bare_id(recorded) != bare_id(environment):
        raise ValueError(
            f"dataset {name} was recorded in {recorded}, but {environment} is asked for; "
            f"set environment: {recorded}, or use another dataset"
        )


def plain_environment(id: str) -> Plain:
    """The description of an environment that is known by its id alone."""
    return {"id": id, "arguments": {}, "wrappers": []}


def from_gymnasium(text: object, where: str) -> tuple[Plain, list[str]]:
    """A description from gymnasium's `EnvSpec` as JSON, and notes on parts that are unknown or were left out.

    Arguments that the registered id has anyway are left out, so that an environment as it is registered has none.

    Args:
        text: `EnvSpec.to_json()`.
        where: names the file and the field, for errors.

    Raises:
        ValueError: it is no such text.
    """
    try:
        spec = json.loads(text) if isinstance(text, str) else text
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if not isinstance(spec, dict) or not isinstance(spec.get("id"), str) or not spec["id"]:
        raise ValueError(f"{where} describes no environment: it must be a JSON object with an id")
    checked_id(spec["id"], where)
    kwargs, limit, listed = spec.get("kwargs") or {}, spec.get("max_episode_steps"), spec.get("additional_wrappers")
    if not isinstance(kwargs, dict):
        raise ValueError(f"{where}: kwargs must be a JSON object, got {short(kwargs)}")
    if limit is not None and type(limit) is not int:
        raise ValueError(f"{where}: max_episode_steps must be a whole number or null, got {short(limit)}")
    # Arguments and time limit, where they differ from those of the registered id.
    registered = gym.registry.get(spec["id"])
    usual = registered.kwargs if registered is not None else {}
    arguments = {
        name: value
        for name, value in kwargs.items()
        if name not in WITHOUT_MEANING and not (name in usual and usual[name] == value)
    }
    if registered is None or registered.max_episode_steps != limit:
        arguments["max_episode_steps"] = -1 if limit is None else limit
    # The class and the wrappers, as far as they can be told.
    notes = []
    entry = spec.get("entry_point")
    if (
        registered is not None
        and isinstance(registered.entry_point, str)
        and entry not in (None, registered.entry_point)
    ):
        notes.append(f"recorded with {spec['id']} of {short(entry)}; here it is {registered.entry_point}")
    wrappers, left_out = _wrappers(listed or [], where)
    return {"id": spec["id"], "arguments": arguments, "wrappers": wrappers}, notes + left_out


def _wrappers(listed: object, where: str) -> tuple[list[Plain], list[str]]:
    """Plain forms of gymnasium's `WrapperSpec`s, innermost first, and notes."""
    if not isinstance(listed, list):
        raise ValueError(f"{where}: additional_wrappers must be a list, got {short(listed)}")
    wrappers: list[Plain] = []
    notes = []
    for entry in listed:
        path = entry.get("entry_point") if isinstance(entry, dict) else None
        kwargs = entry.get("kwargs") if isinstance(entry, dict) else None
        if not isinstance(path, str) or not (kwargs is None or isinstance(kwargs, dict)):
            raise ValueError(f"{where}: a wrapper needs an entry_point and kwargs, got {short(entry)}")
        package, name = path.partition(".")[0], path.rpartition(":")[2]
        if package in ("gymnasium", "minari") and name in LEFT_OUT:
            notes.append(f"recorded through {name}, which changes nothing about the steps and is left out")
            continue
        if package == "gymnasium" and name in STATEFUL:
            notes.append(f"recorded through {name}, whose running statistics are in no file: they start anew")
        wrappers.append({"class_path": path.replace(":", "."), "init_args": kwargs})
    return wrappers, notes


def check_recordable(spec: EnvironmentSpec) -> None:
    """Refuse to record in an environment that a Minari dataset could not describe.

    Raises:
        ValueError: a wrapper does not keep its arguments, or an argument is no plain value.
    """
    env = spec.bare()
    described = env.spec
    env.close()
    assert described is not None
    for wrapper in described.additional_wrappers:
        if wrapper.kwargs is None:
            raise ValueError(
                f"a dataset cannot name {wrapper.name}, which does not keep its arguments: let it inherit from "
                "gymnasium.utils.RecordConstructorArgs, too"
            )
    try:
        described.to_json()
    except (TypeError, ValueError) as error:
        raise ValueError(f"a dataset cannot name {label(spec.to_plain())}: {error}") from error


def from_meta(meta: Mapping[str, Any], where: str) -> Plain | None:
    """The description in a flat file's metadata: under `environment_spec`, or `env_id` alone; None if neither.

    Raises:
        ValueError: it has another form, or the two name different environments.
    """
    id = meta.get("env_id")
    if id is not None and not (isinstance(id, str) and id):
        raise ValueError(f"{where}: env_id must be the id of an environment, got {short(id)}")
    if id is not None:
        checked_id(id, f"{where}: env_id")
    if meta.get("environment_spec") is None:
        return None if id is None else plain_environment(id)
    plain = read_plain(meta["environment_spec"], f"{where}: environment_spec")
    if id not in (None, plain["id"]):
        raise ValueError(f"{where}: env_id is {id}, and environment_spec describes {short(plain['id'])}")
    return plain


def label(plain: Mapping[str, Any]) -> str:
    """Text for people: `Pendulum-v1 (g=1.0) in RescaleAction (min_action=-1.0, max_action=1.0)`, innermost first."""

    def call(name: str, arguments: Mapping[str, Any] | None) -> str:
        if arguments is None:
            return f"{name} (arguments unknown)"
        given = ", ".join(f"{short(key, 40)}={short(value, 40)}" for key, value in arguments.items())
        return f"{name} ({given})" if given else name

    wrappers = [call(w["class_path"].rpartition(".")[2], w["init_args"]) for w in plain["wrappers"]]
    return " in ".join([call(plain["id"], plain["arguments"]), *wrappers])


@dataclass(frozen=True)
class Changes:
    """Changes of a known environment that a user asks for.

    Attributes:
        id: another gymnasium id, whose arguments are then its own; or the known one with the package that registers it.
        arguments: arguments of the environment, which replace or join the known ones.
        wrappers: wrappers of the environment, innermost first, in place of the known ones; None keeps those.
    """

    id: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wrappers: Sequence[Callable[[gym.Env], gym.Env]] | None = None

    def key(self) -> str:
        """A text that differs between different changes."""
        plain = EnvironmentSpec(self.id or "", self.arguments, tuple(self.wrappers or ())).to_plain()
        return json.dumps({**plain, "keep": self.wrappers is None}, default=str)

    def applied(self, known: EnvironmentSpec | None) -> EnvironmentSpec | None:
        """The environment that results, or None where neither is one known nor an id asked for.

        Raises:
            ValueError: arguments or wrappers of no environment, or a wrapper that no file could name.
        """
        if known is None and self.id is None:
            if self.arguments or self.wrappers:
                raise ValueError("arguments or wrappers are given, but no environment is known: name it by its id, too")
            return None
        if known is None:
            return EnvironmentSpec(str(self.id), self.arguments, tuple(self.wrappers or ()))
        if self.id is not None and bare_id(self.id) != bare_id(known.id):
            known = replace(known, arguments={})
        return EnvironmentSpec(
            self.id or known.id,
            {**known.arguments, **self.arguments},
            known.wrappers if self.wrappers is None else tuple(self.wrappers),
        )

    def on_recorded(self, plain: Mapping[str, Any] | None, where: str) -> EnvironmentSpec | None:
        """`on_file` for a dataset, which belongs to its environment: another id is refused.

        Raises:
            ValueError: another id is asked for, or see `on_file`.
        """
        if plain is not None and self.id is not None:
            check_recorded(where, plain["id"], self.id)
        return self.on_file(plain, where, "--data.wrappers")

    def on_file(self, plain: Any, where: str, flag: str | None) -> EnvironmentSpec | None:
        """The changes applied to the environment that a file describes; of replaced parts only the form counts.

        Args:
            plain: the description, or None.
            where: name of the file or dataset, for errors.
            flag: the argument that takes wrappers, for errors; None where there is none.

        Raises:
            ValueError: it is no description; or a wrapper of it cannot be made again, or may not be. The message names
                it and what helps.
        """
        if plain is None:
            return self.applied(None)
        plain = read_plain(plain, where)
        given = plain["arguments"]
        rest = {name: value for name, value in given.items() if name not in self.arguments}
        kept = {**plain, "arguments": rest, "wrappers": []}
        if self.id is not None:
            kept["id"] = bare_id(plain["id"])
        spec = EnvironmentSpec.from_plain(kept, where, self.id)
        taken = {**spec.arguments, **self.arguments}
        spec = replace(spec, arguments={name: taken[name] for name in given if name in taken})
        if self.wrappers is not None:
            return self.applied(spec)
        return self.applied(replace(spec, wrappers=tuple(_made_again(w, where, flag) for w in plain["wrappers"])))


def _made_again(wrapper: Plain, where: str, flag: str | None) -> Callable[[gym.Env], gym.Env]:
    """The wrapper that a file describes.

    Raises:
        ValueError: it kept no arguments, or is not trusted.
    """
    instead = "" if flag is None else f"give all wrappers of the environment with {flag}, or '[]' to do without"
    if wrapper["init_args"] is None:
        raise ValueError(
            f"{where} was recorded through {short(wrapper['class_path'])}, which kept no arguments and cannot be "
            f"made again{instead and f': {instead}'}"
        )
    try:
        return wrapper_from_file(wrapper, where)
    except ValueError as error:
        raise ValueError(f"{error}{instead and f'; or {instead}'}") from error
