"""The help of a class: its arguments with their words, and of the classes that may stand there only those meant."""

from __future__ import annotations

import inspect
import pkgutil
from collections import abc
from typing import Any, get_args, get_origin

from commands.jsonargparse_private import HelpOfClasses
from modules.trust.hints import hints_of, parts_of

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

    A layer that gives something else than a tensor, such as a router, is none that others can be put in place of.
    """
    call = next((part for part in parts_of(hint) if get_origin(part) is abc.Callable), None)
    kinds = get_args(call)[0] if call is not None else ...
    if not isinstance(kinds, list):
        return True
    cls = pkgutil.resolve_name(path)
    hints = hints_of(cls)
    parameters = inspect.signature(cls.__init__).parameters.values()
    names = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY][1 : len(kinds) + 1]
    gives = inspect.get_annotations(cls.forward).get("return", "Tensor") if hasattr(cls, "forward") else "Tensor"
    return [hints.get(name) for name in names] == kinds and gives == "Tensor"
