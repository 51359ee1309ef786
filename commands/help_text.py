"""The help of a class: its arguments with their words, and of the classes that may stand there only those meant."""

from __future__ import annotations

import inspect
import pkgutil
from collections import abc
from typing import Any, get_args, get_origin

from commands.jsonargparse_private import HelpOfClasses
from modules.trust.hints import hints_of, made_by, parts_of

OFFERED = ("modules", "datamodules", "callbacks", "pytorch_lightning", "gymnasium")
"""Packages whose classes are listed: any class of the right kind is accepted, and torch alone has hundreds."""


class ReadableHelp(HelpOfClasses):
    """Lists of known subclasses without those of libraries that nobody looks for there."""

    def offered(self, paths: list[str], hint: Any) -> list[str]:
        """The paths of packages that are offered and of classes that fit; where a layer is asked for, no trainer's
        module is one.
        """
        packages = OFFERED[:3] if "torch.nn.Module" in paths else OFFERED
        return [path for path in paths if path.split(".")[0] in packages and takes_call(path, hint)]


def takes_call(path: str, hint: Any) -> bool:
    """Whether a class can be made as an argument with this hint is: by arguments of the kinds that the call gives.

    Where any layer is asked for, as a trunk is, it needs no more than those, and makes one tensor of one: a router, or
    a layer that is told two things, is none that others can be put in place of. Building blocks of a file are none.
    """
    from torch import nn

    call = next((part for part in parts_of(hint) if get_origin(part) is abc.Callable), None)
    kinds = get_args(call)[0] if call is not None else ...
    if not isinstance(kinds, list):
        return True
    cls = pkgutil.resolve_name(path)
    hints = hints_of(cls)
    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    given = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY][: len(kinds)]
    if [hints.get(name) for name in given] != kinds:
        return False
    if made_by(call) is not nn.Module:  # another class says itself what it takes and gives
        return True
    return not cls.__name__.startswith("_") and given == _needed(parameters, given) and _maps_a_tensor(cls)


def _needed(parameters: list[inspect.Parameter], given: list[str]) -> list[str]:
    """Names of the arguments that are given, and of others that have no default."""
    any_number = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.name in given or (p.default is p.empty and p.kind not in any_number)]


def _maps_a_tensor(cls: type) -> bool:
    """Whether a layer takes one tensor, and gives one as far as it says."""
    forward: Any = cls.forward  # type: ignore[attr-defined]  # of every layer
    _, *taken = inspect.signature(forward).parameters.values()
    needed = [p for p in taken if p.default is p.empty]
    return len(needed) == 1 and inspect.get_annotations(forward).get("return", "Tensor") == "Tensor"
