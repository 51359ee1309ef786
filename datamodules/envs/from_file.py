"""Environments and wrappers that a file names: their names are looked at before anything is imported."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym

from datamodules.envs.file_arguments import arguments_from_file
from modules.trust.names import OWN, class_from_file, is_trusted, short
from modules.trust.options import option

ID = re.compile(r"[\w:./-]{1,100}")
"""Pattern of an id: `package.module:namespace/Name-v0`."""

CARRIERS = ("GymV21Environment", "GymV26Environment")
"""Registered environments that take the id of another one as an argument, with its package."""


def environment_from_file(id: Any, where: str, given: str | None = None) -> str:
    """The id of an environment that a file names, once it is known to import nothing that the user did not ask for.

    An id without a package imports nothing by itself: Gymnasium makes it if an installed package has registered it.

    Args:
        id: id that the file gives, unchecked.
        where: file and place in it, for errors.
        given: id from the user's own config or command line, if there is one.

    Raises:
        ValueError: it is no id, or `package:Env-v0` of a package that the user does not trust; nothing was imported.
    """
    if isinstance(id, str) and id == given:
        return id
    id = checked_id(id, where)
    package, _, name = id.rpartition(":")
    if package and not is_trusted(package):
        raise ValueError(
            f"{where} names the environment {short(id)}; nothing was imported. If you trust its code, add "
            f"{option('trust', short(package), f'[{short(package)!r}]')}"
        )
    if name.startswith(CARRIERS):
        raise ValueError(f"{where} names {name}, which imports any other environment; files may not name it")
    return id


def checked_id(id: Any, where: str) -> str:
    """An id that a file gives, which may yet name what is not trusted.

    Raises:
        ValueError: its letters or its length are not those of an id.
    """
    if not isinstance(id, str) or not ID.fullmatch(id):
        raise ValueError(f"{where} should name a registered environment, but says {short(id)}")
    return id


def read_plain(value: Any, where: str) -> dict[str, Any]:
    """The description of an environment that a file holds, of the form of `EnvironmentSpec.to_plain`.

    Only the form is looked at: what it names may still be anything. The `init_args` of a wrapper that did not keep its
    arguments are None.

    Args:
        value: description that the file holds, unchecked.
        where: file and place in it, for errors.

    Raises:
        ValueError: it has another form.
    """
    wrappers = value.get("wrappers") if isinstance(value, Mapping) else None
    if not isinstance(wrappers, list | tuple) or value.keys() != {"id", "arguments", "wrappers"}:
        raise ValueError(f"{where}: the environment should have id, arguments and wrappers, not {short(value)}")
    id = checked_id(value["id"], where)
    if not isinstance(value["arguments"], Mapping):
        raise ValueError(f"{where}: arguments of {id} should be by name, not {short(value['arguments'])}")
    for wrapper in wrappers:
        if not isinstance(wrapper, Mapping) or not isinstance(wrapper.get("class_path"), str):
            raise ValueError(f"{where} should name a wrapper by class_path, but says {short(wrapper)}")
        if not isinstance(wrapper.get("init_args"), Mapping | None):
            raise ValueError(f"{where}: init_args of {short(wrapper['class_path'])} should be arguments by name")
    read = [{"class_path": w["class_path"], "init_args": w.get("init_args", {})} for w in wrappers]
    return {"id": id, "arguments": value["arguments"], "wrappers": read}


def wrapper_from_file(plain: Mapping[str, Any], where: str) -> Callable[[gym.Env], gym.Env]:
    """The wrapper that a file names, as a class or a partial of one.

    Args:
        plain: its `class_path` and `init_args`, as `read_plain` gives them.
        where: file and place in it, for errors.

    Raises:
        ValueError: it is no wrapper of ours or of Gymnasium's harmless ones, and none that the user trusts.
    """
    made: Any = class_from_file(plain["class_path"], gym.Wrapper, where)
    arguments = plain["init_args"] or {}
    if not is_trusted(plain["class_path"]):
        path = plain["class_path"]
        way_out = f"if it should be so, add {option('trust', path, f'[{path!r}]')}"
        ours = made.__module__.partition(".")[0] in OWN
        arguments = arguments_from_file(arguments, f"{where}: init_args of {made.__name__}", way_out, names_keys=ours)
    return functools.partial(made, **arguments) if arguments else made
